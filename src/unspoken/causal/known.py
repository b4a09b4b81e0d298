"""The interface of interventions, and the latents of the unmodified run that they may use.

Shapes: R rows (all questions' first sets of thoughts, then their second ones, ...), N latents that are fed now, K latents
per row, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unspoken.core.loop.layers import LayerTrace, Part
from unspoken.core.rows.row import LatentKey
from unspoken.errors import ConfigError


class KnownLatents:
    """The latents of an unmodified run.

    Args:
        latents_RKD: zero where a row has fewer than K.
        counts_R: latents per row.
        names: the questions' names, in order.
    """

    def __init__(self, latents_RKD: Tensor, counts_R: np.ndarray, names: Sequence[str]) -> None:
        self.latents_RKD, self.counts_R, self.questions = latents_RKD, counts_R, len(names)
        self._places = {name: place for place, name in enumerate(names)}
        real_RK1 = torch.from_numpy(np.arange(latents_RKD.shape[1])[None, :, None] < counts_R[:, None, None])
        self._real_RK1 = real_RK1.to(latents_RKD.device)
        self.counts_K = self._real_RK1.sum(dim=(0, 2)).clamp(min=1)

    @classmethod
    def of(cls, latents: Mapping[LatentKey, Tensor], names: Sequence[str]) -> KnownLatents:
        """Build it from the latents [K, D] of every set of thoughts of the named questions."""
        rows = [latents[name, chain] for chain in range(len(latents) // len(names)) for name in names]
        counts_R = np.array([len(row) for row in rows], dtype=np.int64)
        return cls(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), counts_R, names)

    def rows(self, keys_N: Sequence[LatentKey]) -> np.ndarray:
        """Row numbers of keys; further sets of thoughts continue the count.

        Raises:
            ConfigError: a question of another call.
        """
        if odd := [name for name, _ in keys_N if name not in self._places]:
            raise ConfigError(f"{odd[0]!r} is no question of the unmodified run; edit the questions that were asked there")
        return np.array([chain * self.questions + self._places[name] for name, chain in keys_N], dtype=np.int64)

    def place(self, number: int) -> int:
        """A place given by a user, counted as in `at`.

        Raises:
            ConfigError: there is no such place.
        """
        return places_of((number,), self.latents_RKD.shape[1])[0]

    @property
    def mean_KD(self) -> Tensor:
        """The mean latent at each place, over all rows that have it."""
        return self.latents_RKD.sum(dim=0) / self.counts_K[:, None]

    @property
    def std_K(self) -> Tensor:
        """The standard deviation of latents' entries at each place, over rows and width; the unit of noise."""
        entries_K = self.counts_K * self.latents_RKD.shape[2]
        mean_K = self.latents_RKD.sum(dim=(0, 2)) / entries_K
        off_RKD = (self.latents_RKD - mean_K[None, :, None]) * self._real_RK1
        return (off_RKD.square().sum(dim=(0, 2)) / entries_K).sqrt()

    @property
    def alike(self) -> bool:
        """Whether every question has the same latents (pause tokens; thoughts that have collapsed)."""
        first_RKD = self.latents_RKD[: len(self.latents_RKD) // self.questions * self.questions : self.questions]
        same_RKD = first_RKD.repeat_interleave(self.questions, dim=0)
        return bool(torch.allclose(self.latents_RKD, same_RKD, rtol=1e-5, atol=1e-7))

    def at(self, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """Latents [N, D]; the last latent for a row with fewer. Further sets repeat the first ones."""
        rows_N = rows_N % len(self.counts_R)
        index_N = np.minimum(index_N, self.counts_R[rows_N] - 1)
        device = self.latents_RKD.device
        return self.latents_RKD[torch.from_numpy(rows_N).to(device), torch.from_numpy(index_N).to(device)]


class KnownStates(KnownLatents):
    """The states of a layer in an unmodified run at one part of each row, with the interface of `KnownLatents`.

    Args:
        traced: the run's states.
        layer: which layer's.
        part: of each row.
        from_end: count places from the part's end, 0 = the last one.
        names: of the questions.
    """

    def __init__(self, traced: LayerTrace, layer: int, part: Part, from_end: bool, names: Sequence[str]) -> None:
        states_LRTD = traced.states_LBTD[traced.layers.index(layer)]
        rows = [states_LRTD[r, at.start : at.stop] for r in range(len(names)) for at in [traced.positions(part, r)]]
        rows = [row.flip(0) for row in rows] if from_end else rows
        super().__init__(
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), np.array([len(row) for row in rows]), names
        )
        self.part: Part = part
        self.from_end = from_end

    def at(self, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """States [N, D].

        Raises:
            ConfigError: a row has no such place.
        """
        if len(short := np.flatnonzero(index_N >= self.counts_R[rows_N])):
            place, row = int(index_N[short[0]]), int(rows_N[short[0]])
            shown = -1 - place if self.from_end else place
            raise ConfigError(
                f"question {row} has no place {shown} of its {self.part}, which has {self.counts_R[row]}, to take a state "
                "from; choose places that donors have too"
            )
        return super().at(rows_N, index_N)

    def place(self, number: int) -> int:
        """See `KnownLatents.place`."""
        if (number < 0) == self.from_end:
            return -1 - number if self.from_end else number
        raise ConfigError(f"place {number} must be counted as the intervention's own places are: all from the start, or all "
                          "from the end")  # fmt: skip


class Intervention(Protocol):
    """Base class: a change of the latents at some places of some questions.

    Attributes:
        latents: the places, counted from 0, negative ones from the end; None = all.
        questions: numbers of the questions, in the order of the call; None = all.
    """

    @property
    def latents(self) -> Sequence[int] | None: ...
    @property
    def questions(self) -> Sequence[int] | None: ...
    def new(self, latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray, known: KnownLatents) -> Tensor:
        """The new latents; `rows_N` are rows of `known`."""
        ...


class LayerIntervention(Intervention, Protocol):
    """An intervention in a layer.

    Attributes:
        layer: whose states are changed.
        positions, spoken: places besides latents: of the prompt, and among what is spoken; None = none.
    """

    @property
    def layer(self) -> int | None: ...
    @property
    def positions(self) -> Sequence[int] | None: ...
    @property
    def spoken(self) -> Sequence[int] | None: ...


def asked_of(one: Intervention, questions: int) -> np.ndarray:
    """Numbers of the questions that an intervention changes.

    Raises:
        ConfigError: one that is not there.
    """
    asked = range(questions) if one.questions is None else one.questions
    if odd := [i for i in asked if not 0 <= i < questions]:
        raise ConfigError(f"question {odd[0]} is not there: the call has {questions}, numbered from 0")
    return np.array(asked, dtype=np.int64)


def places_of(latents: Sequence[int] | None, K: int) -> list[int]:
    """Places counted from the start.

    Raises:
        ConfigError: one that is not there.
    """
    if latents is None:
        return list(range(K))
    for k in latents:
        if not -K <= k < K:
            raise ConfigError(f"latent {k} is not there: each question has {K}, counted from 0 (from the end: from -1)")
    return [k % K for k in latents]
