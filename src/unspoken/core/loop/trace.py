"""The result of thinking: latents, their places, hidden states, costs. Losses, the inspector and controls read this.

Shapes: B rows, T positions of the longest row, S columns forwarded, K latents of the row with most, L layers + 1, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


def clock(device: torch.device) -> float:
    """Seconds on the clock after the device has finished its queued work, which would otherwise be counted later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(kw_only=True)
class Cost:
    """The work that a batch took.

    Attributes:
        passes: dependent forward passes (calls of `Backbone.step`).
        positions: positions forwarded that carry a token or a latent, all rows together.
        slots: positions computed, padding included; `1 - positions / slots` is the padding share.
    """

    passes: int = 0
    positions: int = 0
    slots: int = 0


@dataclass(kw_only=True)
class Trace:
    """The thoughts of a batch.

    Attributes:
        latents_BKD: the vectors fed as latents, zero where a row has fewer than K; for rows with `Row.unfed_latent` also
            the one made after them, which is not fed.
        states_BKD: the hidden state at the position before each latent; None for precomputed thoughts. A recurrent latent is
            made from it, before any projection; where latents are looped over, it is that of the last pass.
        rounds: where latents are looped over (`core/loop/sources.py:Looped`) and hidden states are kept, the same states in
            each pass before the last one, in order; a row that loops less often has its last pass before the others have.
        counts_B: latents per row.
        starts_B: position of each row's first latent inside the row.
        hidden_BSD: last-layer states of every forwarded column; None if the loop was not asked to keep them.
        column_BT: column of `hidden_BSD` at which position t of row b was forwarded; -1 beyond the row's end and for
            positions taken from the prefix cache (`core/lm/prefix_cache.py`).
        cost: passes and positions.
        captured_LBD: states of every layer at each row's captured position (`Row.capture_at`): the embeddings, then each
            layer's output, the last after the final norm; zero for rows without one; None where no row has one.
        branch: the trace of the rows' branches, which share `hidden_BSD` with their rows.
    """

    latents_BKD: Tensor
    states_BKD: Tensor | None
    counts_B: np.ndarray
    starts_B: np.ndarray
    hidden_BSD: Tensor | None = None
    column_BT: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    cost: Cost = field(default_factory=Cost)
    captured_LBD: Tensor | None = None
    branch: Trace | None = None
    rounds: tuple[Tensor, ...] = ()

    def __repr__(self) -> str:
        B, K, D = self.latents_BKD.shape
        return f"<Trace of {B} rows: latents [{B}, {K}, {D}], {self.counts_B.tolist()} each, {self.cost.passes} passes>"

    def hidden_at(self, rows_N: np.ndarray, positions_N: np.ndarray) -> Tensor:
        """Hidden states [N, D] at the given positions of the given rows."""
        assert self.hidden_BSD is not None, "the loop was not asked to keep hidden states"
        B, S, D = self.hidden_BSD.shape
        assert (self.column_BT[rows_N, positions_N] >= 0).all(), "a state was asked for that was not made"
        flat = rows_N * S + self.column_BT[rows_N, positions_N]
        index = torch.from_numpy(flat).to(self.hidden_BSD.device)
        return self.hidden_BSD.reshape(B * S, D).index_select(0, index)

    def row(self, index: int) -> Trace:
        """The trace of one row, without padding latents."""
        n = int(self.counts_B[index])
        one = self._rows(slice(index, index + 1))
        return replace(
            one,
            latents_BKD=one.latents_BKD[:, :n],
            states_BKD=None if one.states_BKD is None else one.states_BKD[:, :n],
            rounds=tuple(states_BKD[:, :n] for states_BKD in one.rounds),
            branch=None if self.branch is None else self.branch.row(index),
        )

    def first(self, rows: int) -> Trace:
        """The trace of the first rows."""
        return self if rows == len(self.counts_B) else self._rows(slice(rows))

    def _rows(self, part: slice) -> Trace:
        return replace(
            self,
            latents_BKD=self.latents_BKD[part],
            states_BKD=None if self.states_BKD is None else self.states_BKD[part],
            rounds=tuple(states_BKD[part] for states_BKD in self.rounds),
            counts_B=self.counts_B[part],
            starts_B=self.starts_B[part],
            hidden_BSD=None if self.hidden_BSD is None else self.hidden_BSD[part],
            column_BT=self.column_BT[part],
            captured_LBD=None if self.captured_LBD is None else self.captured_LBD[:, part],
            branch=None if self.branch is None else self.branch._rows(part),
        )


def stack_latents(parts: list[Tensor], places: list[tuple[np.ndarray, np.ndarray]], B: int, K: int) -> Tensor:
    """Vectors made pass by pass, [N, D] each, as one tensor [B, K, D]; zero where there is none.

    Args:
        parts: the vectors of each pass.
        places: per pass, the row of each vector and its number in the row.
    """
    # One gather places all vectors; a zero row at the end fills slots without a vector.
    place_BK = np.full((B, K), sum(len(rows_N) for rows_N, _ in places), dtype=np.int64)
    first = 0
    for rows_N, number_N in places:
        place_BK[rows_N, number_N] = first + np.arange(len(rows_N))
        first += len(rows_N)
    D = parts[0].shape[1]
    index = torch.from_numpy(place_BK.reshape(-1)).to(parts[0].device)
    return torch.cat([*parts, parts[0].new_zeros(1, D)]).index_select(0, index).view(B, K, D)


def gather_states(parts: list[tuple[np.ndarray, Tensor]], B: int) -> Tensor | None:
    """States [L, N, D] of some rows each, as one tensor [L, B, D]; zero for a row without any; None if no row has any."""
    if not parts:
        return None
    states_LND = torch.cat([states for _, states in parts], dim=1)
    rows_N = torch.from_numpy(np.concatenate([rows for rows, _ in parts])).to(states_LND.device)
    zeros_LBD = states_LND.new_zeros(len(states_LND), B, states_LND.shape[2])
    return zeros_LBD.index_copy(1, rows_N, states_LND)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to one question, and what it cost.

    Attributes:
        text: the generated text, without the prompt and without eos.
        tokens: generated token ids, eos included if it was reached.
        finished: the eos that ends the answer was reached before the limit.
        latents: number of latents.
        passes: sequential forward passes this row took part in: the latency it would have alone.
        positions: positions forwarded for this row: prompt + latents + markers + generated tokens - 1. Positions shared by
            several answers to a question count for the first of them.
        seconds: the batch's wall-clock time divided by its rows.
        thoughts: decoded steps, one per thought group, if the model can explain its latents and was asked to.
        chain, sample: number of the set of thoughts it was generated from, and of the answer among those from that set;
            from 0.
        assistant_positions: positions that an assistant model forwarded for it.
        passed: eos among `tokens` that did not end the answer (`Row.num_eos`).
        soft: how many of `tokens` were only the likeliest in a mixture that was fed (`core/loop/soft.py`). They are counted
            among the latents, and are not visible.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    latents: int
    passes: int
    positions: int
    seconds: float
    thoughts: tuple[str, ...] | None = None
    chain: int = 0
    sample: int = 0
    assistant_positions: int = 0
    passed: int = 0
    soft: int = 0

    @property
    def visible(self) -> int:
        """Number of tokens that were chosen and are not eos."""
        return max(len(self.tokens) - self.finished - self.passed - self.soft, 0)  # a stop text may end in a mixture
