"""Losses as pure functions of tensors. Each is a *sum* over targets; callers divide by the count of the whole batch.

Shapes: N targets, M keys, B rows, C sets of thoughts, F entries of a set, E and D widths, L layers + 1, V words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unspoken.core.fast.chunked_loss import Head, weighted_cross_entropy
from unspoken.core.loop.trace import Trace
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.label_marks import label_metrics, label_weights, marks_of
from unspoken.core.rows.metrics import Metrics

Distance = Literal["smooth_l1", "l1", "l2"]
Scale = Literal["row", "batch", "none"]


def cross_entropy_sum(hidden_ND: Tensor, labels_N: Tensor, head: Head, weights_N: Tensor | None = None) -> Tensor:
    """Summed token cross-entropy in fp32. The head runs in pieces, and only on the given states: those with a target.

    Args:
        hidden_ND: the state that predicts each target.
        labels_N: token ids.
        head: states -> logits.
        weights_N: a factor per target; None = 1.

    Returns:
        A scalar; 0 (with a graph) if N = 0, so that an empty batch does not give NaN.
    """
    if labels_N.numel() == 0:
        return hidden_ND.sum() * 0.0
    return weighted_cross_entropy(hidden_ND, labels_N, head, weights_N)[0]


def labelled_cross_entropy_sum(trace: Trace, batch: Batch, head: Head) -> Tensor:
    """`cross_entropy_sum` over a batch's labels from its trace, weighted by the rows' label marks."""
    rows_N, places_N, labels_N = batch.label_places()
    hidden_ND = trace.hidden_at(rows_N, places_N)
    return cross_entropy_sum(hidden_ND, torch.from_numpy(labels_N).to(hidden_ND.device), head, _factors(batch, hidden_ND))


def _factors(batch: Batch, hidden_ND: Tensor) -> Tensor | None:
    weights_N = label_weights(batch)
    return None if weights_N is None else torch.from_numpy(weights_N.astype(np.float32)).to(hidden_ND.device)


def labelled_loss(trace: Trace, batch: Batch, head: Head) -> tuple[Tensor, Metrics]:
    """The same, with the metrics that label marks ask for. The head runs once for both, without synchronising with the
    device.

    Returns:
        The weighted sum, and the metrics of the labels; empty if no row is marked.
    """
    rows_N, places_N, labels_N = batch.label_places()
    if (marks := marks_of(batch)) is None or not labels_N.size:
        return labelled_cross_entropy_sum(trace, batch, head), {}
    hidden_ND = trace.hidden_at(rows_N, places_N)
    targets_N = torch.from_numpy(labels_N).to(hidden_ND.device)
    loss, hits_N = weighted_cross_entropy(hidden_ND, targets_N, head, _factors(batch, hidden_ND), hits=marks.track)
    return loss, label_metrics(hits_N, *marks.at(rows_N, places_N + 1))


def divergence_sum(hidden_ND: Tensor, targets: Sequence[Mapping[int, float]], head: Head) -> Tensor:
    """KL divergence of the head's distribution at each state from a target distribution, summed, in fp32 (MUX).

    Args:
        hidden_ND: states.
        targets: per state, token id -> probability, of tokens that have any.
        head: states -> logits.
    """
    places_P = [n for n, target in enumerate(targets) for _ in target]
    tokens_P, weights_P = zip(*(pair for target in targets for pair in target.items()), strict=True)
    weight_P = torch.tensor(weights_P, device=hidden_ND.device)
    said_NV = head(hidden_ND).float().log_softmax(dim=-1)
    said_P = said_NV[torch.tensor(places_P, device=hidden_ND.device), torch.tensor(tokens_P, device=hidden_ND.device)]
    return (weight_P * (weight_P.log() - said_P)).sum()


def info_nce_sum(sets_BCF: Tensor, views_BCF: Tensor, temperature: float) -> Tensor:
    """InfoNCE between the sets of thoughts of a row: each set against its own view and the other sets' views; summed, in
    fp32 (SoftCoT++).

    Args:
        sets_BCF: C vectors per row.
        views_BCF: another view of each vector.
        temperature: what cosines are divided by before the softmax.
    """
    sets_BCF, views_BCF = F.normalize(sets_BCF.float(), dim=2), F.normalize(views_BCF.float(), dim=2)
    scores_BCC = sets_BCF @ views_BCF.transpose(1, 2) / temperature
    own = torch.arange(scores_BCC.shape[1], device=scores_BCC.device).expand(len(scores_BCC), -1)
    return F.cross_entropy(scores_BCC.flatten(0, 1), own.flatten(), reduction="sum")


def pair_contrast_sum(anchors_NE: Tensor, keys_ME: Tensor, own_N: Tensor, temperature: float) -> Tensor:
    """InfoNCE of anchors against keys: each anchor's own key against all others; summed, in fp32 (SemCoT).

    Args:
        own_N: the number of each anchor's key.
        temperature: what cosines are divided by before the softmax.
    """
    scores_NM = F.normalize(anchors_NE.float(), dim=1) @ F.normalize(keys_ME.float(), dim=1).T / temperature
    return F.cross_entropy(scores_NM, own_N, reduction="sum")


def cosine_distance_sum(a_NE: Tensor, b_NE: Tensor) -> Tensor:
    """1 - cosine of each pair, summed, in fp32."""
    return (1 - F.cosine_similarity(a_NE.float(), b_NE.float(), dim=1)).sum()


def layer_distance_sum(student_LBD: Tensor, teacher_LBD: Tensor, distance: Distance, scale: Scale) -> Tensor:
    """Distance of two states per row, mean over layers and width, summed over rows, in fp32 (CODI, section 3.2).

    Args:
        student_LBD, teacher_LBD: states of every layer at one position per row.
        distance: smooth-L1 (with beta 1), L1 or L2 (squared error).
        scale: divide each layer's distance by the standard deviation of the teacher's states, per row or over all rows; L2
            by the variance, since it is squared. "none" = no division.
    """
    student_LBD, teacher_LBD = student_LBD.float(), teacher_LBD.float()
    measure = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}[distance]
    distance_LB = measure(student_LBD, teacher_LBD, reduction="none").mean(dim=2)
    if scale != "none":
        spread = teacher_LBD.std(dim=2) if scale == "row" else teacher_LBD.flatten(1).std(dim=1, keepdim=True)
        distance_LB = distance_LB / (spread**2 if distance == "l2" else spread)
    return distance_LB.mean(dim=0).sum()
