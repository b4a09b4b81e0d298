"""Training steps the way the released code makes them, on our rows and models: what `benchmarks.train` is held against.

Written from a description of what facebookresearch/coconut 27273cb, zhenyi4/codi 4fd88d4 and InternLM/SIM-CoT f3ae967 do;
nothing of them is here. Losses are ours to rounding, so that only the way differs. Every pass gives the states of all layers
and logits on all of its positions.

    Coconut: rows shifted to the right until their first latents share a column; K + 1 passes with a cache; before each
        latent the embeddings of the whole batch are taken apart into single vectors and stacked again. Logits of all
        passes are put together, shifted, and compared in fp32.
    SIM-CoT: that, and one decoder call per thought group, as wide as the batch's longest step, over all rows.
    CODI: prefix, K latents, answer: K + 2 passes; then the teacher's whole sequence twice, once for its states and once for
        its own loss. Prefixes padded on the left, the rest on the right.

A right mask and right position ids go with every pass; the released CODI leaves them out, which costs nothing and changes
what it computes.

Shapes: B rows, T columns, W columns of a pass, K latents, D width, V words, L layers + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unspoken.core.loop.trace import Cost
from unspoken.core.losses import layer_distance_sum
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.row import IGNORE
from unspoken.methods.base import parts_of
from unspoken.methods.sim_cot import STEP_TARGETS


class _Passes:
    """A model that is driven pass by pass over one mask, with a cache; keeps the logits of every position."""

    def __init__(self, body: Any, mask_BT: Tensor, cost: Cost) -> None:
        self.body, self.mask_BT, self.cost = body, mask_BT, cost
        self.positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        self.cache, self.column = body.new_cache(), 0
        self.logits: list[Tensor] = []

    def feed(self, embeds_BWD: Tensor) -> tuple[Tensor, ...]:
        """The states of every layer at the next columns."""
        first, self.column = self.column, self.column + embeds_BWD.shape[1]
        here = slice(first, self.column)
        states = self.body.states(
            embeds_BWD,
            positions_BT=self.positions_BT[:, here],
            mask=self.mask_BT[:, : self.column],
            cache=self.cache,
        )
        self.logits.append(self.body.logits(states[-1]))
        self.cost.passes += 1
        self.cost.slots += embeds_BWD.shape[0] * embeds_BWD.shape[1]
        self.cost.positions += int(self.mask_BT[:, here].sum())
        return states


def _put(rows: list[Any], lead: list[int], width: int, fill: int, at: torch.device) -> Tensor:
    """Rows side by side, each behind so many columns of padding."""
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for b, (row, first) in enumerate(zip(rows, lead, strict=True)):
        table[b, first : first + len(row)] = row
    return torch.from_numpy(table).to(at)


def _shifted_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy of all positions that have a label, the way a causal LM of transformers takes it."""
    logits_NV = logits_BTV.float()[:, :-1].reshape(-1, logits_BTV.shape[-1])
    return F.cross_entropy(logits_NV, labels_BT[:, 1:].reshape(-1), ignore_index=IGNORE)


def coconut_step(method: Any, batch: Batch, cost: Cost) -> tuple[Tensor, Tensor]:
    """Loss of a Coconut batch, and its latents [B, K, D]; every row has the same number of them."""
    backbone, at = method.backbone, batch.ids_BT.device
    lengths, starts = batch.lengths_B.tolist(), batch.starts_B.tolist()
    lead = [max(starts) - start for start in starts]
    T, first = max(a + b for a, b in zip(lead, lengths, strict=True)), max(starts)
    ids = [batch.ids_BT[b, :n].tolist() for b, n in enumerate(lengths)]
    labels = [batch.labels_BT[b, :n].tolist() for b, n in enumerate(lengths)]
    embeds_BTD = backbone.embed(_put(ids, lead, T, 0, at))
    passes = _Passes(backbone, _put([[1] * n for n in lengths], lead, T, 0, at), cost)
    latents = []
    hidden_BWD = passes.feed(embeds_BTD[:, :first])[-1]
    K = int(batch.latents_B[0])
    for k in range(K):
        apart = [[embeds_BTD[b, t] for t in range(T)] for b in range(len(ids))]
        for b in range(len(ids)):
            apart[b][first + k] = hidden_BWD[b, -1]
        embeds_BTD = torch.stack([torch.stack(row) for row in apart])
        latents.append(embeds_BTD[:, first + k])
        last = first + k + 1 if k < K - 1 else T
        hidden_BWD = passes.feed(embeds_BTD[:, first + k : last])[-1]
    loss = _shifted_loss(torch.cat(passes.logits, dim=1), _put(labels, lead, T, IGNORE, at))
    return loss, torch.stack(latents, dim=1)


def sim_cot_step(method: Any, batch: Batch, cost: Cost) -> tuple[Tensor, Cost]:
    """Loss of a SIM-CoT batch on Coconut, and what its decoder cost."""
    inner, latents_BKD = coconut_step(method.method, batch, cost)
    return inner + method.config.weight * _explain(method, batch, latents_BKD, aside := Cost()), aside


def _explain(method: Any, batch: Batch, latents_BKD: Tensor, cost: Cost) -> Tensor:
    """One decoder call per thought group."""
    decoder: Any = parts_of(method)["decoder"].module
    C, at = method.latents_per_group, latents_BKD.device
    losses = []
    for group in range(latents_BKD.shape[1] // C):
        steps = [targets[group] for targets in batch.values(STEP_TARGETS)]
        if not any(steps):
            continue
        width, ahead = max(map(len, steps)) + 1, [C] * len(steps)  # one padded column more than is needed
        ids_BT = _put(steps, ahead, C + width, 0, at)
        mask_BT = _put([[1] * (C + len(step)) for step in steps], [0] * len(steps), C + width, 0, at)
        embeds = torch.cat([latents_BKD[:, group * C : group * C + C], decoder.embed(ids_BT[:, C:])], dim=1)
        passes = _Passes(decoder, mask_BT, cost)
        passes.feed(embeds)
        labels_BT = _put(steps, ahead, C + width, IGNORE, at)
        mean = _shifted_loss(passes.logits[0], labels_BT)
        losses.append(mean * sum(map(len, steps)) / sum(bool(step) for step in steps))
    return torch.stack(losses).mean()


def codi_step(method: Any, batch: Batch, cost: Cost) -> Tensor:
    """Loss of a CODI batch; every row has the same number of latents."""
    backbone, branch, c = method.backbone, batch.branch, method.config
    assert branch is not None
    rows, at = range(len(batch)), batch.ids_BT.device
    starts, ends = batch.starts_B, batch.starts_B + batch.latents_B
    K, width = int(batch.latents_B[0]), int(batch.starts_B.max())
    heads = [batch.ids_BT[b, : starts[b]].tolist() for b in rows]
    tails = [batch.ids_BT[b, ends[b] : batch.lengths_B[b]].tolist() for b in rows]
    tail_labels = [batch.labels_BT[b, ends[b] : batch.lengths_B[b]].tolist() for b in rows]
    lead, long = [width - len(head) for head in heads], max(map(len, tails))
    mask_BT = torch.cat(
        [
            _put([[1] * len(head) for head in heads], lead, width, 0, at),
            torch.ones(len(batch), K, dtype=torch.long, device=at),
            _put([[1] * len(tail) for tail in tails], [0] * len(tails), long, 0, at),
        ],
        dim=1,
    )
    source = method.source()

    def latent(states: tuple[Tensor, ...]) -> Tensor:
        return source.next(states[-1][:, -1], np.arange(len(batch)), np.zeros(len(batch), dtype=np.int64))[:, None]

    student = _Passes(backbone, mask_BT, cost)
    states = student.feed(backbone.embed(_put(heads, lead, width, 0, at)))
    for _ in range(K):
        states = student.feed(latent(states))
    states = student.feed(backbone.embed(_put(tails, [0] * len(tails), long, 0, at)))
    answer = _shifted_loss(student.logits[-1], _put(tail_labels, [0] * len(tails), long, IGNORE, at))
    place_B = torch.from_numpy(batch.capture_at_B - ends)
    told_LBD = torch.stack([state[torch.arange(len(batch)), place_B] for state in states])

    taught = [branch.ids_BT[b, : branch.lengths_B[b]].tolist() for b in rows]
    taught_labels = [branch.labels_BT[b, : branch.lengths_B[b]].tolist() for b in rows]
    none, most = [0] * len(taught), max(map(len, taught))
    ids_BT, mask_BT = _put(taught, none, most, 0, at), _put([[1] * len(t) for t in taught], none, most, 0, at)
    place_B = torch.from_numpy(branch.capture_at_B)
    with torch.no_grad():  # once for the states that are the target
        states = _Passes(backbone, mask_BT, cost).feed(backbone.embed(ids_BT))
        target_LBD = torch.stack([state[torch.arange(len(batch)), place_B] for state in states])
    teacher = _Passes(backbone, mask_BT, cost)  # and once for its own loss
    teacher.feed(backbone.embed(ids_BT))
    taught_loss = _shifted_loss(teacher.logits[0], _put(taught_labels, none, most, IGNORE, at))
    distance = layer_distance_sum(told_LBD, target_LBD, c.distance, c.scale) / len(batch)
    return answer + c.distill_weight * distance + c.teacher_weight * taught_loss
