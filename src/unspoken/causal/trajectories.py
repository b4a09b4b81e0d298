"""Several trajectories of thought per question: made by noise on latents, by dropout of their entries, or by sampled words.

Shapes: Q questions, N trajectories of each, K latents, D width, R rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import Tensor

from unspoken.causal.interventions import Drop, Noise, edit_of, latents_into, traces_into
from unspoken.causal.known import KnownLatents
from unspoken.causal.latent_ranker import Trajectories, head_input
from unspoken.core.checks import MOST_SEED, whole
from unspoken.core.loop.edits import edited
from unspoken.core.loop.loop import Loop
from unspoken.core.loop.sources import SlotTokens
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.batch import collate, longest_first
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport

if TYPE_CHECKING:
    import numpy as np

    from unspoken.core.rows.row import LatentKey
    from unspoken.runs.model import AnswerOptions, Model
    from unspoken.tasks.base import Split, Task

STRENGTH = {"noise": 0.3, "dropout": 0.1, "sampling": 1.0}
"""Default strength: noise in standard deviations of the latents' entries, share of dropped entries, sampling temperature
(ours)."""


class _More(TypedDict, total=False):
    latents: int | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Way:
    """How trajectories are made.

    Attributes:
        by: one of `STRENGTH`.
        strength: of the disturbance.
        number: N. With noise and dropout the first one is undisturbed.
        latents: how many latents; None = the model's default.
        seed: of noise and dropout; sampling has its own.
    """

    by: str
    strength: float
    number: int
    latents: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, by: str, counts: Sequence[int], strength: float | None, **more: Unpack[_More]) -> Way:
        """The largest of `counts` trajectories.

        Raises:
            ConfigError: an unknown way, invalid counts, or a strength of nothing.
        """
        if by not in STRENGTH:
            raise ConfigError(f"unknown way to make trajectories {by!r}; known: {', '.join(STRENGTH)}")
        counts = tuple(sorted(set(counts)))
        if not counts or counts[0] < 1 or counts[-1] < 2:
            raise ConfigError(f"n needs numbers of trajectories from 1 on, one above 1, e.g. 1,2,4,8; got {counts}")
        strength = STRENGTH[by] if strength is None else strength
        if not 0 < strength < math.inf:
            raise ConfigError(f"strength must be positive, or all trajectories would be the same; got {strength:g}")
        whole(more.get("seed", 0), "trajectory_seed", most=MOST_SEED)
        return cls(by=by, strength=strength, number=counts[-1], **more)

    @property
    def disturbance(self) -> Noise | Drop:
        """What is done to the latents of all sets of thoughts but the first."""
        if self.by == "dropout":
            return Drop(share=self.strength, seed=self.seed, spare=1)
        return Noise(scale=self.strength, seed=self.seed, spare=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """Trajectories of questions.

    Attributes:
        plain: the undisturbed run: one trajectory, greedy.
        report: all trajectories with their answers.
        answers: per question, its answers.
        traces: the trace of every trajectory; empty unless kept.
    """

    plain: EvalReport
    report: EvalReport
    answers: list[tuple[Answer, ...]]
    traces: dict[LatentKey, Trace]

    @property
    def trajectories(self) -> Trajectories:
        """What a head reads of them; needs the traces."""
        names = [record.id for record in self.report.records]
        rows = [self.traces[name, chain] for name in names for chain in range(self.report.chains)]
        counts_R = torch.tensor([trace.latents_BKD.shape[1] for trace in rows])
        shape = (len(names), self.report.chains)

        def stacked(parts: list[Tensor]) -> Tensor:
            padded_RKD = torch.nn.utils.rnn.pad_sequence([part[0].cpu() for part in parts], batch_first=True)
            return padded_RKD.clone().unflatten(0, shape)

        states = [trace.states_BKD for trace in rows if trace.states_BKD is not None]
        input_QNKF = head_input(stacked([trace.latents_BKD for trace in rows]), stacked(states) if states else None)
        real_RK = torch.arange(input_QNKF.shape[2])[None] < counts_R[:, None]
        right = [[one.strict for one in record.said or ()] for record in self.report.records]
        return Trajectories(input_QNKF=input_QNKF, real_QNK=real_RK.unflatten(0, shape), right_QN=torch.tensor(right))


def sampled(
    model: Model,
    task: Task,
    split: Split,
    way: Way,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **speaking: Unpack[AnswerOptions],
) -> Sampled:
    """Answer questions along one undisturbed trajectory, and along N.

    Args:
        model: with latents for noise and dropout; any for sampling.
        task, split, limit, batch_size, progress, speaking: as in `evaluate`.
        way: how trajectories are made.
        keep: keep the traces.

    Raises:
        ConfigError: a strength out of range, or a model without latents.
        DataError: as `evaluate`.
    """
    by, strength = way.by, way.strength
    if by == "sampling" and "temperature" in speaking:
        raise ConfigError("temperature is what strength says for sampling; leave one of them out")
    if by != "sampling" and (not model.method.latents_per_group or way.latents == 0):
        raise ConfigError(f"this model thinks without latents, so {by} has nothing to disturb; take sampling")
    how: dict[str, Any] = {"limit": limit, "latents": way.latents, "batch_size": batch_size}
    greedy: AnswerOptions = {**speaking, "temperature": 0.0}
    drawn: AnswerOptions = {**speaking, "temperature": strength}
    undisturbed: dict[LatentKey, Tensor] = {}
    traces: dict[LatentKey, Trace] = {}
    answers: list[tuple[Answer, ...]] = []
    plain = evaluate(model, task, split, on_trace=latents_into(undisturbed), **how, **greedy)
    how |= {"progress": progress, "on_answers": answers.extend}
    if by == "sampling":
        report = evaluate(model, task, split, samples=way.number, **how, **drawn)
    else:
        known = KnownLatents.of(undisturbed, [record.id for record in plain.records])
        if keep:
            how["on_trace"] = traces_into(traces)
        report = evaluate(model, task, split, chains=way.number, edit=edit_of([way.disturbance], known), **how, **speaking)
    return Sampled(plain=plain, report=report, answers=answers, traces=traces)


@torch.inference_mode()
def likelihoods(model: Model, found: Sampled, *, batch_size: int = 32) -> list[list[float]]:
    """The mean log-probability of each trajectory's answer, eos included, by the model and the latents that gave it.

    The sampled tokens are read again behind the latents that were fed, so that answering itself computes no probabilities.
    """
    records, chains, latents = found.report.records, found.report.chains, found.report.latents
    prompts = model.rows([record.question for record in records], latents, [record.id for record in records])
    keys = [(q, chain) for q in range(len(records)) for chain in range(chains)]
    rows = [replace(prompts[q].followed_by(found.answers[q][chain].tokens), name=f"{q}/{chain}") for q, chain in keys]
    fed = {f"{q}/{chain}": found.traces[records[q].id, chain].latents_BKD[0] for q, chain in keys}

    def same(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
        places = zip(keys_N, index_N.tolist(), strict=True)
        return torch.stack([fed[name][place] for (name, _), place in places]).to(latents_ND)

    backbone, means = model.method.backbone, [[0.0] * chains for _ in records]
    order = longest_first(rows)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = collate([rows[i] for i in chosen]).to(backbone.device)
        source = edited(model.source or SlotTokens(backbone.embed), same, batch.keys())
        with model.alone():
            trace, _ = Loop(backbone, batch, source, keep_hidden=True).run()
            at_N, places_N, labels_N = batch.label_places()
            logits_NV = backbone.logits(trace.hidden_at(at_N, places_N)).float()
        said_N1 = torch.from_numpy(labels_N)[:, None].to(logits_NV.device)
        log_N = logits_NV.log_softmax(dim=1).gather(1, said_N1).squeeze(1).double().cpu()
        for row, place in enumerate(chosen):
            q, chain = keys[place]
            means[q][chain] = float(log_N[torch.from_numpy(at_N == row)].mean())
    return means
