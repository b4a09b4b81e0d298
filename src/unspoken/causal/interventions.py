"""Change latents before they are fed, and see how the model's answers change.

    done = intervene(model, questions, Patch(donors=1, questions=[0]))     # question 0 thinks question 1's thoughts
    done.answers, done.plain            # after and before
    done.traces, done.plain_traces      # the latents that were fed

    intervene(model, questions, Patch(donors=1, layer=3, positions=[-1]))  # layer 3's state at the prompt's last position

An intervention replaces the latents at some places of some questions, or, with `layer=`, that layer's states
(`causal/layer_edits.py`). Everything else runs as usual, so a recurrent method computes the latents after a changed one
from the changed state; `hold=True` feeds the unmodified run's latents instead. Other latents that an intervention needs (a
mean, a donor's, a swapped one) come from the unmodified run, which is made first.

Shapes: R rows (all questions' first sets of thoughts, then their second ones, ...), N latents that are fed now, K latents
per row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack, cast

import numpy as np
import torch
from torch import Tensor

from unspoken.causal.known import Intervention, KnownLatents, LayerIntervention, asked_of, places_of
from unspoken.causal.layer_edits import depth_of, layer_edit
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.generate import OnTrace
from unspoken.core.loop.layers import LayerWatch, layer_number
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.row import LatentKey
from unspoken.errors import ConfigError, DataError
from unspoken.runs.model import AnswerOptions, Model

Vectors = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Where:
    """The places of an intervention; see `Intervention`.

    Attributes:
        layer: change this layer's output at those places (0: the first layer's input) instead of the fed vectors. Other
            states that the intervention needs are then the unmodified run's at that layer.
        positions, spoken: further places in a layer: prompt positions from 0, negative ones from its end; generated tokens
            from 0. If given, latents are changed only if they are given too.
    """

    latents: Sequence[int] | None = None
    questions: Sequence[int] | None = None
    layer: int | None = None
    positions: Sequence[int] | None = None
    spoken: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replace(_Where):
    """Replace latents by given vectors.

    Attributes:
        vectors: [D] for every place, or [K, D], one per place of the row.
    """

    vectors: Vectors

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        vectors = _tensor(self.vectors, latents_ND, "vectors")
        if vectors.dim() == 1:
            return vectors.expand_as(latents_ND)
        if getattr(known, "from_end", False):
            raise ConfigError("give one vector [D] for places that are counted from the end")
        if len(vectors) != known.latents_RKD.shape[1]:
            raise ConfigError(
                f"vectors must be one of width {vectors.shape[1]}, or one per latent, {known.latents_RKD.shape[1]} of them; "
                f"got {len(vectors)}"
            )
        return vectors[torch.from_numpy(index_N).to(vectors.device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Zero(_Where):
    """Replace latents by the zero vector."""

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        return torch.zeros_like(latents_ND)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(_Where):
    """Replace latents by the mean of the unmodified run's latents at the same place, over all questions of the call."""

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        mean_KD = known.mean_KD
        return mean_KD[torch.from_numpy(index_N).to(mean_KD.device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap(_Where):
    """Swap two latents of a question, as made by the unmodified run; `latents` names the two."""

    def __post_init__(self) -> None:
        if self.positions is not None or self.spoken is not None:
            raise ConfigError("Swap changes two latents, in a layer too; leave positions and spoken away")
        if self.latents is None or len(self.latents) != 2:
            raise ConfigError(f"Swap needs two places, e.g. latents=(0, 1), got {self.latents!r}")

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        a, b = places_of(self.latents, known.latents_RKD.shape[1])
        return known.at(rows_N, np.where(index_N == a, b, a))


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(_Where):
    """Add a direction to latents.

    Attributes:
        direction: [D].
        scale: factor of the direction.
    """

    direction: Vectors
    scale: float = 1.0

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        return latents_ND + self.scale * _tensor(self.direction, latents_ND, "direction")


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise(_Where):
    """Add Gaussian noise, which depends on whose latent it is, not on the batch.

    Attributes:
        scale: its standard deviation, in units of the unmodified latents' entries at that place (`KnownLatents.std_K`).
        seed: of the noise.
        spare: number of first sets of thoughts that are not changed.
    """

    scale: float = 1.0
    seed: int = 0
    spare: int = 0

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ConfigError(f"the scale of noise must be 0 or more, got {self.scale}")

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        std_N1 = known.std_K[torch.from_numpy(index_N).to(latents_ND.device)][:, None]
        noise_ND = _draw(latents_ND, self.seed, rows_N, index_N, "standard_normal")
        return latents_ND + _touched(latents_ND, rows_N, known, self.spare) * self.scale * std_N1 * noise_ND


@dataclass(frozen=True, kw_only=True, eq=False)
class Drop(_Where):
    """Dropout on latents: some entries become 0, and the others are scaled up.

    Attributes:
        share: probability that an entry becomes 0.
        seed, spare: see `Noise`.
    """

    share: float = 0.1
    seed: int = 0
    spare: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"the share of dropped entries must be in [0, 1), got {self.share}")

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        stays_ND = _draw(latents_ND, self.seed, rows_N, index_N, "random") >= self.share
        dropped_ND = latents_ND * stays_ND / (1 - self.share)
        return torch.where(_touched(latents_ND, rows_N, known, self.spare) > 0, dropped_ND, latents_ND)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch(_Where):
    """Replace latents by another question's latents from the unmodified run.

    Attributes:
        donors: number of the question that they come from, or one number per question of the call.
        place: which of the donor's latents; None = the same place.
    """

    donors: int | Sequence[int] = 0
    place: int | None = None

    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """See `Intervention.new`."""
        n = known.questions
        donors_n = np.full(n, self.donors) if isinstance(self.donors, int) else np.asarray(self.donors)
        if len(donors_n) != n or donors_n.min() < 0 or donors_n.max() >= n:
            raise ConfigError(
                f"donors must be a question's number in 0..{n - 1}, or one for each of {n}, got {self.donors!r:.60}"
            )
        chain_N, question_N = np.divmod(rows_N, n)
        if self.place is not None:
            index_N = np.full_like(index_N, known.place(self.place))
        return known.at(chain_N * n + donors_n[question_N], index_N)


@dataclass(kw_only=True)
class Intervened:
    """Answers before and after an intervention.

    Attributes:
        answers, traces: per question, with the intervention; traces hold the latents as fed.
        plain, plain_traces: the same without intervention.
        changed: questions whose answer text changed.
    """

    answers: list[Answer]
    traces: list[Trace]
    plain: list[Answer]
    plain_traces: list[Trace]
    changed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.plain, self.answers, strict=True)
        self.changed = [i for i, (before, after) in enumerate(pairs) if before.text != after.text]


def intervene(
    model: Model,
    questions: Sequence[str],
    *interventions: Intervention,
    hold: bool = False,
    names: Sequence[str] | None = None,
    latents: int | None = None,
    batch_size: int = 32,
    explain: bool = False,
    **speaking: Unpack[AnswerOptions],
) -> Intervened:
    """Answer questions twice: without and with interventions.

    Args:
        model: any with latents, recurrent or precomputed, or with pause tokens.
        questions: plain texts.
        interventions: applied to each latent in this order.
        hold: feed the unmodified run's latents at unchanged places instead of recomputing them.
        names, latents, batch_size, explain, speaking: see `Model.answer`.

    Raises:
        ConfigError: there are no latents to change, or an intervention has a nonexistent place or question, or a wrong
            width.
        DataError: no question, or one that does not fit.
    """
    if not questions:
        raise DataError("there is no question to intervene in; give at least one")
    names = [f"question {i}" for i in range(len(questions))] if names is None else list(names)
    before: dict[LatentKey, Trace] = {}
    after: dict[LatentKey, Trace] = {}
    inside = [cast(LayerIntervention, one) for one in interventions if getattr(one, "layer", None) is not None]
    watch = changed = None
    if inside:
        watch = LayerWatch(layers=sorted({layer_number(one.layer, depth_of(model)) for one in inside}))

    def answered(kept: dict[LatentKey, Trace], edit: Edit | None, watch: LayerWatch | None) -> list[Answer]:
        return model.answer(
            questions, names=names, latents=latents, batch_size=batch_size, explain=explain, edit=edit, watch=watch,
            on_trace=traces_into(kept), **speaking,
        )  # fmt: skip

    plain = answered(before, None, watch)
    known = KnownLatents.of({key: trace.latents_BKD[0] for key, trace in before.items()}, names)
    if watch is not None:
        changed = LayerWatch(edit=layer_edit(inside, watch.states(), names, depth_of(model)))
    fed = [one for one in interventions if one not in inside]
    edit = edit_of(fed, known, hold=hold) if fed or hold or not inside else None
    answers = answered(after, edit, changed)
    traces, plain_traces = ([kept[name, 0] for name in names] for kept in (after, before))
    return Intervened(answers=answers, plain=plain, traces=traces, plain_traces=plain_traces)


def traces_into(kept: dict[LatentKey, Trace]) -> OnTrace:
    """An `on_trace` that collects the trace of every row by key."""

    def keep(trace: Trace, keys: Sequence[LatentKey]) -> None:
        kept.update((key, trace.row(b)) for b, key in enumerate(keys))

    return keep


def latents_into(kept: dict[LatentKey, Tensor]) -> OnTrace:
    """An `on_trace` that collects the latents [K, D] of every row by key."""

    def keep(trace: Trace, keys: Sequence[LatentKey]) -> None:
        kept.update((key, trace.latents_BKD[b, : int(trace.counts_B[b])].clone()) for b, key in enumerate(keys))

    return keep


def edit_of(interventions: Sequence[Intervention], known: KnownLatents, *, hold: bool = False) -> Edit:
    """Convert interventions to an edit for `Model.sample(edit=...)`, for a call with the questions of `known`.

    Raises:
        ConfigError: an intervention has a nonexistent place or question.
    """
    K = known.latents_RKD.shape[1]
    if not K:
        raise ConfigError("no latents were thought, so there is nothing to change; ask for some (latents=...)")
    where = []
    for one in interventions:
        if named := [name for name in ("layer", "positions", "spoken") if getattr(one, name, None) is not None]:
            raise ConfigError(
                f"{type(one).__name__} has {named[0]}=, but what is fed is latents; states of a layer are changed by "
                "`intervene`, and positions and spoken tokens are places in a layer"
            )
        where.append((one, np.array(places_of(one.latents, K), dtype=np.int64), asked_of(one, known.questions)))

    def edit(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
        rows_N = known.rows(keys_N)
        if hold:
            latents_ND = known.at(rows_N, index_N).to(latents_ND.dtype)
        for one, places, asked in where:
            now_M = np.flatnonzero(np.isin(index_N, places) & np.isin(rows_N % known.questions, asked))
            if len(now_M):
                at_M = torch.from_numpy(now_M).to(latents_ND.device)
                new_MD = one.new(latents_ND[at_M], rows_N[now_M], index_N[now_M], known)
                latents_ND = latents_ND.index_copy(0, at_M, new_MD.to(latents_ND.dtype))
        return latents_ND

    return edit


def slot_vector(model: Model, question: str) -> Tensor:
    """The embedding [D] of the token that fills latent slots: what a pause token would feed.

    Raises:
        ConfigError: the model has no slots.
    """
    if not model.method.latents_per_group:
        raise ConfigError("this method makes no latents while it thinks, so no token stands in their place")
    row = model.method.prompt(question, 1)
    with torch.no_grad():
        return model.method.backbone.embed(torch.tensor([row.ids[row.start]], device=model.method.backbone.device))[0]


def _tensor(data: Vectors, like: Tensor, name: str) -> Tensor:
    """Check the width of vectors and move them to the right device.

    Raises:
        ConfigError: another width.
    """
    vectors = torch.as_tensor(data).to(like.device, like.dtype)
    if vectors.dim() not in (1, 2) or vectors.shape[-1] != like.shape[1]:
        raise ConfigError(f"{name} must have the width of the model's latents, {like.shape[1]}, got {tuple(vectors.shape)}")
    return vectors


def _draw(latents_ND: Tensor, seed: int, rows_N: np.ndarray, index_N: np.ndarray, kind: str) -> Tensor:
    """Random entries [N, D] that depend only on whose latent it is."""
    each = zip(rows_N.tolist(), index_N.tolist(), strict=True)
    drawn = [getattr(np.random.default_rng((seed, row, k)), kind)(latents_ND.shape[1]) for row, k in each]
    return torch.from_numpy(np.stack(drawn)).to(latents_ND.device, torch.float32).to(latents_ND.dtype)


def _touched(latents_ND: Tensor, rows_N: np.ndarray, known: KnownLatents, spare: int) -> Tensor:
    """1 for latents of sets that are changed, 0 for spared ones: [N, 1]."""
    return torch.from_numpy(rows_N // known.questions >= spare).to(latents_ND.device, latents_ND.dtype)[:, None]
