"""Passes without padding, for models whose results padding would change: through a recurrent state, or by counting columns.

The loop pads rows inside a pass (decision 001). A layer with a recurrent or convolutional state would read that padding,
and one that counts columns would miscount. For such a model the loop uses one of the following classes in place of a
transformers cache. It is given the same passes and forwards only their real columns:

- `Grouped`: rows that feed equally many columns go together. Keys and values lie as in the loop (columns in which a row
  waited are masked), states are those of the rows. `Stepwise`: the same, and behind the first pass one column at a time, for
  layers that begin anew in a pass of several columns.
- `Alone`: every row by itself, with a cache of its own, in which nothing is masked.
- `Replayed`: without a cache; a row's whole sequence so far is forwarded in every pass. Always right, and the slowest.

Which one a model needs is found out in `core/lm/ways.py`.

Shapes: B rows, W columns of the pass, S columns so far, n rows of a group, w columns that each of them feeds, D width.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import Cache, DynamicCache, PreTrainedModel

from unspoken.core.fast.attention import pairs_mask
from unspoken.core.rows.protocol import BodyOutput

Branches = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""own_BW, branch_BW, positions_BW and shared_B, as in `core/loop/branch.py`."""


class Unpadded:
    """The cache of a batch without padding. `forward` makes one pass.

    Args:
        lm: the causal LM.

    Attributes:
        final: whether this pass is the last for every row.
        branches: which columns of this pass belong to branches; each branch is forwarded separately, from its row's
            beginning.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self.final = False
        self.branches: Branches | None = None
        mamba = "cache_params" in inspect.signature(lm.base_model.forward).parameters
        self._named = "cache_params" if mamba else "past_key_values"

    @property
    def layers(self) -> list[Any]:
        """Caches of the layers, where all rows share them."""
        return []

    def forward(
        self, embeds_BWD: Tensor, positions_BW: Tensor, mask: Tensor | None, real_BW: np.ndarray | None, **more: bool
    ) -> SimpleNamespace:
        """Feed the real columns of a pass, which come before a row's padding.

        Args:
            mask: [B, S], 1 where a column so far, this pass included, is real; None = all, and no position is left out.
            real_BW: which columns of the pass are real; None = all.
            more: further arguments for transformers.

        Returns:
            last_hidden_state [B, W, D] and hidden_states, as transformers has them; 0 in padding.
        """
        B, W, _ = embeds_BWD.shape
        found = _Found(B, W)
        width_B = np.full(B, W) if real_BW is None else real_BW.sum(axis=1)
        self._own(found, embeds_BWD, positions_BW, mask, width_B, **more)
        if self.branches is not None:
            self._branch(found, embeds_BWD, positions_BW, *self.branches, **more)
            self.branches = None
        return found.whole()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, each as often as it is listed."""
        raise NotImplementedError

    def fork(self) -> Unpadded:
        """An independent copy."""
        raise NotImplementedError

    def _own(
        self, found: _Found, embeds_BWD: Tensor, positions_BW: Tensor, mask: Tensor | None, width_B: np.ndarray, **more: bool
    ) -> None:
        raise NotImplementedError

    def _branch(
        self,
        found: _Found,
        embeds_BWD: Tensor,
        positions_BW: Tensor,
        own_BW: np.ndarray,
        branch_BW: np.ndarray,
        places_BW: np.ndarray,
        shared_B: np.ndarray,
        **more: bool,
    ) -> None:
        """Forward branches from their rows' beginning, those of equal length together."""
        columns = {}
        for b in np.flatnonzero(branch_BW.any(axis=1)).tolist():
            shared = np.flatnonzero(own_BW[b] & (places_BW[b] < shared_B[b]))
            columns[b] = np.concatenate([shared, np.flatnonzero(branch_BW[b])])
        for rows in _alike({b: len(at) for b, at in columns.items()}):
            at_nw = np.stack([columns[b] for b in rows])
            index = _index(embeds_BWD, np.array(rows)[:, None]), _index(embeds_BWD, at_nw)
            positions_nw = positions_BW[index]
            out = self._run(embeds_BWD[index], positions_nw, torch.ones_like(positions_nw), None, **more)
            for i, b in enumerate(rows):
                own = at_nw.shape[1] - int(branch_BW[b].sum())
                found.put(out, [b], at_nw[i : i + 1, own:], first=own, of=i)

    def _run(
        self, embeds_nwD: Tensor, positions_nw: Tensor, mask: Tensor | None, cache: Cache | None, **more: bool
    ) -> BodyOutput:
        """Feed some rows without padding in this pass."""
        given = {} if cache is None else {self._named: cache}
        with _written(cache):
            return self.lm.base_model(
                inputs_embeds=embeds_nwD,
                attention_mask=pairs_mask(self.lm, mask, embeds_nwD),
                position_ids=positions_nw,
                use_cache=cache is not None,
                **given,
                **more,
            )


PassCache = Cache | Unpadded
"""What rows have read so far, in either form."""


class Grouped(Unpadded):
    """Rows that feed equally many columns go together."""

    stepwise = False

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__(lm)
        self.cache: Cache = DynamicCache(config=lm.config)
        self.columns = 0

    @property
    def layers(self) -> list[Any]:
        """See `Unpadded`."""
        return self.cache.layers

    def _own(
        self, found: _Found, embeds_BWD: Tensor, positions_BW: Tensor, mask: Tensor | None, width_B: np.ndarray, **more: bool
    ) -> None:
        B, W, _ = embeds_BWD.shape
        if torch.is_grad_enabled():
            self.cache = forked(self.cache)  # earlier passes need these states for their gradients
        # Nothing follows the padding of the last pass, so it does no harm.
        together = self.final and not self.stepwise and len(np.unique(width_B)) > 1
        groups = [list(range(B))] if together else _alike(dict(enumerate(width_B.tolist())))
        parts = []
        for rows in groups:
            width = W if together else int(width_B[rows[0]])
            if not width:
                continue
            index = _index(embeds_BWD, np.array(rows))
            cache = self.cache if len(rows) == B else selected(self.cache, index)
            mask_nS = None if mask is None else mask[index]
            self._columns(found, rows, embeds_BWD[index, :width], positions_BW[index, :width], mask_nS, cache, **more)
            parts.append((index, width, cache))
        if len(parts) > 1 or parts[0][1] < W or len(parts[0][0]) < B:
            self.cache = _merged(self.cache, parts, self.columns, B, W)
        self.columns += W

    def _columns(
        self,
        found: _Found,
        rows: list[int],
        embeds_nwD: Tensor,
        positions_nw: Tensor,
        mask_nS: Tensor | None,
        cache: Cache,
        **more: bool,
    ) -> None:
        n, w = positions_nw.shape
        step = 1 if self.stepwise and self.columns else w
        for first in range(0, w, step):
            part = slice(first, first + step)
            seen = None if mask_nS is None else mask_nS[:, : self.columns + first + step]
            if first and torch.is_grad_enabled():
                cache.layers = forked(cache).layers
            out = self._run(embeds_nwD[:, part], positions_nw[:, part], seen, cache, **more)
            found.put(out, rows, np.tile(np.arange(first, first + step), (n, 1)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `Unpadded`."""
        self.cache = selected(self.cache, indices)

    def fork(self) -> Grouped:
        """See `Unpadded`."""
        mine = copy.copy(self)
        mine.cache = forked(self.cache)
        return mine


class Stepwise(Grouped):
    """`Grouped`, with one column at a time after the first pass."""

    stepwise = True


class Alone(Unpadded):
    """Every row by itself."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__(lm)
        self.rows: list[tuple[Cache, int]] = []  # cache and columns of each row

    def _own(
        self, found: _Found, embeds_BWD: Tensor, positions_BW: Tensor, mask: Tensor | None, width_B: np.ndarray, **more: bool
    ) -> None:
        self.rows = self.rows or [(DynamicCache(config=self.lm.config), 0) for _ in width_B]
        for b in np.flatnonzero(width_B).tolist():
            width, (cache, columns) = int(width_B[b]), self.rows[b]
            cache = forked(cache) if torch.is_grad_enabled() else cache
            seen = None if mask is None else positions_BW.new_ones(1, columns + width)
            part = slice(b, b + 1), slice(width)
            found.put(self._run(embeds_BWD[part], positions_BW[part], seen, cache, **more), [b], np.arange(width)[None])
            self.rows[b] = cache, columns + width

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `Unpadded`."""
        self.rows = [(forked(self.rows[b][0]), self.rows[b][1]) for b in indices.tolist()]

    def fork(self) -> Alone:
        """See `Unpadded`."""
        mine = copy.copy(self)
        mine.rows = [(forked(cache), columns) for cache, columns in self.rows]
        return mine


class Replayed(Unpadded):
    """Forward a row's whole sequence in every pass; rows of equal length go together."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__(lm)
        self.rows: list[tuple[Tensor, Tensor]] = []  # embeddings and position ids of each row so far

    def _own(
        self, found: _Found, embeds_BWD: Tensor, positions_BW: Tensor, mask: Tensor | None, width_B: np.ndarray, **more: bool
    ) -> None:
        self.rows = self.rows or [(embeds_BWD[b, :0], positions_BW[b, :0]) for b in range(len(width_B))]
        lengths = {}
        for b in np.flatnonzero(width_B).tolist():
            width, (embeds_TD, positions_T) = int(width_B[b]), self.rows[b]
            self.rows[b] = torch.cat([embeds_TD, embeds_BWD[b, :width]]), torch.cat([positions_T, positions_BW[b, :width]])
            lengths[b] = len(self.rows[b][1])
        for rows in _alike(lengths):
            embeds, positions = (torch.stack([self.rows[b][i] for b in rows]) for i in range(2))
            out = self._run(embeds, positions, None if mask is None else torch.ones_like(positions), None, **more)
            for i, b in enumerate(rows):
                width = int(width_B[b])
                found.put(out, [b], np.arange(width)[None], first=lengths[b] - width, of=i)

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `Unpadded`."""
        self.rows = [self.rows[b] for b in indices.tolist()]

    def fork(self) -> Replayed:
        """See `Unpadded`."""
        mine = copy.copy(self)
        mine.rows = list(self.rows)
        return mine


class _Found:
    """Collects the states of a pass."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.places: list[np.ndarray] = []
        self.states: list[tuple[Tensor, ...]] = []

    def put(
        self, out: BodyOutput, rows: Sequence[int], columns_nw: np.ndarray, first: int = 0, of: int | None = None
    ) -> None:
        """Add the states of some rows at columns of the pass, from their column `first` on; `of` = one row of the
        output."""
        self.places.append((np.array(rows)[:, None] * self.columns + columns_nw).ravel())
        kinds = (out.last_hidden_state, *(getattr(out, "hidden_states", None) or ()))
        part = slice(None) if of is None else slice(of, of + 1)
        self.states.append(tuple(kind[part, first : first + columns_nw.shape[1]].flatten(0, 1) for kind in kinds))

    def whole(self) -> SimpleNamespace:
        """All states at their places; 0 elsewhere."""
        at_N = _index(self.states[0][0], np.concatenate(self.places))
        kinds = []
        for parts in zip(*self.states, strict=True):
            states_ND = torch.cat(parts)
            whole = states_ND.new_zeros(self.rows * self.columns, states_ND.shape[1]).index_copy(0, at_N, states_ND)
            kinds.append(whole.view(self.rows, self.columns, -1))
        return SimpleNamespace(last_hidden_state=kinds[0], hidden_states=tuple(kinds[1:]) or None)


def forked(cache: Cache) -> Cache:
    """An independent copy of a cache. Layers write into their states, so these are copied; keys and values only grow and
    are shared."""
    return _changed(cache, lambda tensor: tensor, lambda state: state.clone())


def selected(cache: Cache, index_n: Tensor) -> Cache:
    """The cache of some rows."""

    def select(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, index_n.to(tensor.device))

    return _changed(cache, select, select)


def _changed(cache: Cache, tensors: Callable[[Tensor], Tensor], states: Callable[[Tensor], Tensor]) -> Cache:
    """A copy of a cache with a function applied to its layers' tensors and dictionaries of states."""
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in mine.layers:
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and value.ndim > 1:
                setattr(layer, name, tensors(value))
            elif isinstance(value, dict):
                setattr(layer, name, {key: states(v) if isinstance(v, Tensor) else v for key, v in value.items()})
    return mine


def _merged(old: Cache, parts: list[tuple[Tensor, int, Cache]], before: int, B: int, W: int) -> Cache:
    """The caches of groups of rows as one.

    Args:
        old: the cache before this pass.
        parts: per group its rows, how many columns they fed, and its cache after them.
        before: columns before this pass.
    """
    mine = copy.copy(old)
    mine.layers = [copy.copy(layer) for layer in parts[0][2].layers]
    for i, layer in enumerate(mine.layers):
        was = vars(old.layers[i])
        for name, value in list(vars(layer).items()):
            theirs = [(index, width, vars(cache.layers[i])[name]) for index, width, cache in parts]
            if isinstance(value, Tensor) and value.ndim > 1:
                kept = was.get(name) if before else None
                setattr(layer, name, _columns_of(kept, theirs, before, B, W))
            elif isinstance(value, dict):
                states = {}
                for key, state in value.items():
                    some = [(index, kept[key]) for index, _, kept in theirs]
                    states[key] = _rows_of(was[name][key], some, B) if isinstance(state, Tensor) else state
                setattr(layer, name, states)
            elif name == "cumulative_length":
                setattr(layer, name, before + W)
    return mine


def _columns_of(old: Tensor | None, parts: list[tuple[Tensor, int, Tensor]], before: int, B: int, W: int) -> Tensor:
    """Keys or values [B, ..., S, E] of all rows: those from before this pass and the new ones; 0 where a row fed fewer."""
    like = parts[0][2]
    new = like.new_zeros(B, *like.shape[1:-2], W, like.shape[-1])
    for index, width, tensor in parts:
        if tensor.shape[-2] != before + width:
            raise NotImplementedError("a layer keeps something else than one column for each position")
        grown = torch.nn.functional.pad(tensor[..., before:, :], (0, 0, 0, W - width))
        new = new.index_copy(0, index.to(new.device), grown)
    return new if old is None else torch.cat([old, new], dim=-2)


def _rows_of(old: Tensor | None, parts: list[tuple[Tensor, Tensor]], B: int) -> Tensor:
    """States [B, ...] of all rows: the new ones, and the old ones of rows that fed nothing."""
    whole = parts[0][1].new_zeros(B, *parts[0][1].shape[1:]) if old is None else old
    for index, state in parts:
        whole = whole.index_copy(0, index.to(whole.device), state.to(whole.dtype))
    return whole


@contextlib.contextmanager
def _written(cache: Cache | None) -> Iterator[None]:
    """Context manager: a state that a layer writes into is copied if a gradient needs its old value."""
    layers = () if cache is None or not torch.is_grad_enabled() else cache.layers
    kept = [state for layer in layers for held in vars(layer).values() if isinstance(held, dict) for state in held.values()]
    mine = {state.untyped_storage().data_ptr() for state in kept if isinstance(state, Tensor)}
    if not mine:
        yield
        return

    def keep(tensor: Tensor) -> Tensor:
        found = tensor.detach()
        return found.clone() if found.untyped_storage().data_ptr() in mine else found

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def _alike(numbers: dict[int, int]) -> list[list[int]]:
    """Group keys by their number."""
    groups: dict[int, list[int]] = {}
    for key, number in numbers.items():
        groups.setdefault(number, []).append(key)
    return list(groups.values())


def _index(like: Tensor, numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like.device)
