"""The states of every layer while questions are thought about and answered: to see them, and to change them.

    watch = LayerWatch(layers=True)
    model.answer(questions, watch=watch)
    watch.states()                          # [L, B, T, D], see `LayerTrace`

A row is answered in several passes, which it shares with others: its question in the first, then a latent in each, then a
token. `Columns` says for the pass under way which row and which position of it every column is, so that a plain torch hook
can find "latent 2" or "the last word of the question" in what a module puts out.

Layers are numbered as transformers numbers its `hidden_states`: 0 is what enters the first layer, l what layer l puts out.
These are the values of the residual stream; what the final norm makes of the last one is kept beside them.

Shapes: B rows (of a pass, or of the whole call), W columns of the pass, T positions of the longest row, L layers that are
kept, D width, N columns that carry a position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unspoken.core.checks import whole
from unspoken.core.lm.hf import layer_list
from unspoken.core.lm.ways import columns_limit, ways_of
from unspoken.core.loop.trace import Answer
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.protocol import BodyOutput
from unspoken.errors import ConfigError

Part = Literal["prompt", "question", "latent", "spoken"]
"""Parts of a row: everything that is given; of that, what stands before the first latent; the latents; what was spoken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """What the columns of a pass are.

    Attributes:
        rows_B: number of the question of each row, in the order of the call.
        positions_BW: position inside the row; -1 where a column is padding.
        starts_B, latents_B, prompts_B: per row, position of its first latent, how many it has, and how many positions are
            given altogether; what stands behind them is spoken.
        device: where masks are needed.
    """

    rows_B: np.ndarray
    positions_BW: np.ndarray
    starts_B: np.ndarray
    latents_B: np.ndarray
    prompts_B: np.ndarray
    device: torch.device

    def numbers(self, part: Part) -> np.ndarray:
        """The number of each column [B, W] inside a part of its row, from 0; -1 where it is not of that part."""
        first_B, size_B = _bounds(part, self.starts_B, self.latents_B, self.prompts_B)
        number_BW = self.positions_BW - first_B[:, None]
        inside_BW = (self.positions_BW >= 0) & (number_BW >= 0) & (number_BW < size_B[:, None])
        return np.where(inside_BW, number_BW, -1)

    def at(self, part: Part, number: int | None = None) -> Tensor:
        """Which columns are a part of their row, or the one of that number in it: bool [B, W].

        Args:
            part: see `Part`.
            number: from 0; negative numbers count from the end of the part, which the spoken one does not have yet.

        Raises:
            ConfigError: no such part, or a spoken token counted from the end.
        """
        number_BW = self.numbers(part)
        if number is None:
            found_BW = number_BW >= 0
        elif number >= 0:
            found_BW = number_BW == number
        elif part == "spoken":
            raise ConfigError(f"spoken tokens are counted from 0, since the last is not known yet; got {number}")
        else:
            _, size_B = _bounds(part, self.starts_B, self.latents_B, self.prompts_B)
            found_BW = (number_BW >= 0) & (number_BW == size_B[:, None] + number)
        return torch.from_numpy(found_BW).to(self.device)


def _bounds(part: Part, starts_B: np.ndarray, latents_B: np.ndarray, prompts_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position and size of a part of each row."""
    if part == "question":
        return np.zeros_like(starts_B), starts_B
    if part == "latent":
        return starts_B, latents_B
    if part == "spoken":
        return prompts_B, np.full_like(prompts_B, np.iinfo(np.int64).max)
    if part == "prompt":
        return np.zeros_like(prompts_B), prompts_B
    raise ConfigError(f"unknown part of a row {part!r}; known: {', '.join(get_args(Part))}")


LayerEdit = Callable[[int, Tensor, Columns], Tensor]
"""(layer, states_BWD, columns) -> states_BWD: what goes on instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTrace:
    """The states of layers at every position of some rows that was fed.

    A row is its prompt (question, latents, and the markers around them), then what it spoke; the last token that it spoke
    was never fed. The token spoken as number j was chosen at position `prompts_B[b] - 1 + j`.

    Attributes:
        states_LBTD: what enters the first layer (layer 0), and what layers put out; 0 beyond a row's end.
        final_BTD: the last layer's states after the final norm: what latents are made from and words are read from.
        layers: which layers these are, L numbers.
        starts_B, latents_B, prompts_B: see `Columns`.
        lengths_B: positions that were fed.
        tokens: per row, the token id at each of its positions; at a latent, that of its slot.
        answers: what was said, where it is known.
    """

    states_LBTD: Tensor
    final_BTD: Tensor
    layers: tuple[int, ...]
    starts_B: np.ndarray
    latents_B: np.ndarray
    prompts_B: np.ndarray
    lengths_B: np.ndarray
    tokens: tuple[tuple[int, ...], ...]
    answers: tuple[Answer, ...] = ()

    def at(self, part: Part, row: int) -> Tensor:
        """The states [L, n, D] of one row at a part of it (see `Part`).

        Raises:
            ConfigError: no such part, or no such row.
        """
        where = self.positions(part, row)
        return self.states_LBTD[:, row, where.start : where.stop]

    def positions(self, part: Part, row: int) -> range:
        """The positions of a part of a row.

        Raises:
            ConfigError: no such part, or no such row.
        """
        if not -len(self.tokens) <= row < len(self.tokens):
            raise ConfigError(f"row {row} is not there: {len(self.tokens)} were traced, numbered from 0")
        first_B, size_B = _bounds(part, self.starts_B, self.latents_B, self.prompts_B)
        length = int(self.lengths_B[row])
        first = min(int(first_B[row]), length)
        return range(first, first + min(int(size_B[row]), length - first))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays of numpy, for `numpy.savez`; tokens are padded with -1."""
        tokens_BT = np.full(self.final_BTD.shape[:2], -1, dtype=np.int64)
        for b, row in enumerate(self.tokens):
            tokens_BT[b, : len(row)] = row
        return {
            "states_LBTD": self.states_LBTD.float().cpu().numpy(),
            "final_BTD": self.final_BTD.float().cpu().numpy(),
            "layers_L": np.array(self.layers, dtype=np.int64),
            "starts_B": self.starts_B,
            "latents_B": self.latents_B,
            "prompts_B": self.prompts_B,
            "lengths_B": self.lengths_B,
            "tokens_BT": tokens_BT,
        }


@dataclass(eq=False)
class LayerWatch:
    """Sees, and may change, the states of layers during one call of `Model.answer(watch=...)`.

    Args:
        layers: which to keep, by number; True = all, () = none. Negative numbers count from the last.
        edit: see `LayerEdit`; called for every layer, in their order. What is kept is what it has left.

    Attributes:
        columns: of the pass under way, for hooks of one's own; None between passes.
        told: rows and positions of that pass, as the loop lays them out.
    """

    layers: bool | Sequence[int] = ()
    edit: LayerEdit | None = None
    columns: Columns | None = field(default=None, init=False)
    told: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)
    _rows: dict[int, _Kept] = field(default_factory=dict, init=False, repr=False)
    _batch: tuple[Batch, np.ndarray] | None = field(default=None, init=False, repr=False)
    _now: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _numbers: tuple[int, ...] = field(default=(), init=False, repr=False)

    @contextlib.contextmanager
    def over(self, lm: PreTrainedModel, batch: Batch, questions: Sequence[int]) -> Iterator[None]:
        """Inside, the passes of a batch are watched.

        Args:
            lm: the causal LM that reads it.
            batch: its rows.
            questions: the number of each in the call.

        Raises:
            BackboneError: the model's layers are not one list.
            ConfigError: a layer that is not there.
        """
        stack = layer_list(lm)
        self._numbers = _layers(self.layers, len(stack))
        self._batch = batch, np.asarray(questions, dtype=np.int64)
        self._rows.update({int(q): _Kept(batch, b) for b, q in enumerate(questions)})
        body = lm.base_model
        handles = [body.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)]
        handles.append(body.register_forward_hook(self._leave))
        # What is changed, before the hooks of others; what is kept, behind them: it is what goes on to the next layer.
        for what, ahead in ((self._edited, True), (self._kept, False)):
            if what == self._edited and self.edit is None:
                continue
            handles.append(stack[0].register_forward_pre_hook(_entering(what), prepend=ahead, with_kwargs=True))
            for number, layer in enumerate(stack, start=1):
                handles.append(layer.register_forward_hook(_leaving(what, number), prepend=ahead))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._batch = self.told = self.columns = None

    def clear(self) -> None:
        """Forget what an earlier call has left."""
        self._rows.clear()

    def states(self, answers: Sequence[Answer] = ()) -> LayerTrace:
        """What was kept, of all questions in their order.

        Args:
            answers: what was said, to go with it.

        Raises:
            ConfigError: nothing has been answered with this watch, or it was to keep no layer.
        """
        if not self._rows or not self._numbers:
            raise ConfigError("no states were kept; give layers=True, and answer questions with this watch first")
        rows = [self._rows[q] for q in sorted(self._rows)]
        lengths_B = np.array([row.length for row in rows], dtype=np.int64)
        whole = [row.whole() for row in rows]
        padded = nn.utils.rnn.pad_sequence([states_LTD.transpose(0, 1) for states_LTD in whole], batch_first=True)
        states_LBTD = padded.permute(2, 0, 1, 3)  # [B, T, L + 1, D]: the last is after the final norm
        return LayerTrace(
            states_LBTD=states_LBTD[:-1],
            final_BTD=states_LBTD[-1],
            layers=self._numbers,
            starts_B=np.array([row.start for row in rows], dtype=np.int64),
            latents_B=np.array([row.latents for row in rows], dtype=np.int64),
            prompts_B=np.array([len(row.ids) for row in rows], dtype=np.int64),
            lengths_B=lengths_B,
            tokens=tuple((*row.ids, *row.spoken)[: row.length] for row in rows),
            answers=tuple(answers),
        )

    def spoke(self, question: int, tokens: Sequence[int]) -> None:
        """Note what was spoken to a question, which passes do not show."""
        self._rows[question].spoken = tuple(tokens)

    def _enter(self, body: nn.Module, args: object, named: Mapping[str, Tensor]) -> None:
        """The model is called: say what its columns are."""
        if self.told is None or self._batch is None:
            return
        batch, questions_B = self._batch
        rows_b, positions_bW = self.told
        ids_bw = named["position_ids"]
        if positions_bW.shape != tuple(ids_bw.shape):  # a family that reads a row piece by piece, or all of it again
            assert len(rows_b) == 1, "such a family is asked one row at a time"
            positions_bW = ids_bw.cpu().numpy()
        self._now = {}
        self.columns = Columns(
            rows_B=questions_B[rows_b],
            positions_BW=positions_bW,
            starts_B=batch.starts_B[rows_b],
            latents_B=batch.latents_B[rows_b],
            prompts_B=batch.lengths_B[rows_b],
            device=ids_bw.device,
        )

    def _edited(self, layer: int, states_bWD: Tensor) -> Tensor | None:
        """A layer's states as they go on; None outside of a pass."""
        if self.columns is None or self.edit is None:
            return None
        new_bWD = self.edit(layer, states_bWD, self.columns)
        if not isinstance(new_bWD, Tensor) or new_bWD.shape != states_bWD.shape:
            got = tuple(new_bWD.shape) if isinstance(new_bWD, Tensor) else type(new_bWD).__name__
            raise ConfigError(f"an edit of layers must give states of the shape {tuple(states_bWD.shape)} back, got {got}")
        return new_bWD

    def _kept(self, layer: int, states_bWD: Tensor) -> None:
        if self.columns is not None and layer in self._numbers:
            self._now[layer] = states_bWD

    def _leave(self, body: nn.Module, args: object, out: BodyOutput) -> None:
        """The pass is over: keep what was asked for."""
        if self.columns is None or not self._numbers:
            return
        kept_LBWD = torch.stack([*(self._now[number] for number in self._numbers), out.last_hidden_state])
        for b, question in enumerate(self.columns.rows_B.tolist()):
            self._rows[question].add(self.columns.positions_BW[b], kept_LBWD[:, b])


@contextlib.contextmanager
def watching(watch: LayerWatch | None, rows_b: np.ndarray, positions_bW: np.ndarray) -> Iterator[None]:
    """Inside, one pass is made, which a watch is told of.

    Args:
        rows_b: which rows of the batch are in it.
        positions_bW: the position of each column; -1 in padding.
    """
    if watch is None:
        yield
        return
    watch.told = rows_b, positions_bW
    try:
        yield
    finally:
        watch.told = watch.columns = None


def _entering(what: Callable[[int, Tensor], Tensor | None]) -> Callable[..., Any]:
    """A hook on what enters the first layer."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> tuple[object, object] | None:
        states_bWD = args[0] if args else named["hidden_states"]
        if (new_bWD := what(0, states_bWD)) is None:
            return None
        return ((new_bWD, *args[1:]), named) if args else (args, {**named, "hidden_states": new_bWD})

    return hook


def _leaving(what: Callable[[int, Tensor], Tensor | None], layer: int) -> Callable[..., Any]:
    """A hook on what a layer puts out; some put out more than their states."""

    def hook(module: nn.Module, args: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...] | None:
        new_bWD = what(layer, out[0] if isinstance(out, tuple) else out)
        return (new_bWD, *out[1:]) if new_bWD is not None and isinstance(out, tuple) else new_bWD

    return hook


class _Kept:
    """States of one row, pass by pass."""

    def __init__(self, batch: Batch, b: int) -> None:
        self.ids = tuple(batch.ids_BT[b, : int(batch.lengths_B[b])].tolist())
        self.start, self.latents = int(batch.starts_B[b]), int(batch.latents_B[b])
        self.spoken: tuple[int, ...] = ()
        self.length = 0
        self._parts: list[Tensor] = []
        self._positions: list[int] = []

    def add(self, positions_W: np.ndarray, states_LWD: Tensor) -> None:
        """The columns of a pass; a position that was fed before is fed anew."""
        real_N = np.flatnonzero(positions_W >= 0)
        if len(real_N):
            self._parts.append(states_LWD[:, torch.from_numpy(real_N).to(states_LWD.device)])
            self._positions.extend(positions_W[real_N].tolist())
            self.length = max(self.length, int(positions_W.max()) + 1)

    def whole(self) -> Tensor:
        """[L, T, D]: at each position what was fed there last."""
        last = {position: place for place, position in enumerate(self._positions)}
        states_LND = torch.cat(self._parts, dim=1)
        index = torch.tensor([last[position] for position in range(self.length)], device=states_LND.device)
        return states_LND.index_select(1, index)


def _layers(layers: bool | Sequence[int], depth: int) -> tuple[int, ...]:
    """Which layers to keep, as numbers from 0 to `depth`.

    Raises:
        ConfigError: one that is not there, or is no number.
    """
    if isinstance(layers, bool):
        return tuple(range(depth + 1)) if layers else ()
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise ConfigError(f"layers must be True or a list of numbers, got {layers!r:.60}")
    return tuple(dict.fromkeys(layer_number(number, depth) for number in layers))


def layer_number(number: object, depth: int) -> int:
    """A layer's number from 0 to `depth`; negative ones count from the last.

    Raises:
        ConfigError: it is not there, or is no whole number.
    """
    name = f"a layer's number (0 is what enters the first of {depth} layers, {depth} what the last puts out)"
    return whole(number, name, least=-depth - 1, most=depth) % (depth + 1)


def rows_at_a_time(lm: PreTrainedModel, batch_size: int) -> int:
    """How many rows may share the passes that are watched: one where a family is not fed as the loop lays columns out."""
    return batch_size if ways_of(lm).answering == "padded" and columns_limit(lm) is None else 1
