"""Keys and values in slots: rows of any length in one pass without padding, each at its own positions.

A pass is one packed sequence: the columns of all its rows one after the other, so that linear layers compute no padding.
Only attention needs to know which column belongs to which row. It is our own function, which transformers calls in every
layer (`AttentionInterface`): a slot holds the keys and values of one row, position p in column p, and a row attends to the
columns up to its own. Memory is allocated once instead of concatenated in every pass; a slot is zeroed when the next row
takes it, because an infinity or NaN would show through any mask. Columns fed speculatively are dropped by moving the row's
cursor back.

This covers families with standard attention. `supports_kv_slots` finds out by comparing numbers; a family with a bias, a
cap or a window of its own goes through `core/loop/loop.py` instead.

Shapes: N columns of a pass, R slots, S columns of a slot, H query heads, G key heads, E width of a head, D width,
n rows of a group, W columns of each of them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from unspoken.core.embeddings import input_table, text_config
from unspoken.core.engine.cpu_attention import Bags, attend_one_column, turns_keys
from unspoken.core.fast.attention import attending
from unspoken.core.fast.malloc import in_large_pages
from unspoken.core.fast.unhooked import without_hooks
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.ways import ways_of
from unspoken.core.rows.protocol import CausalLM

_NAME = "unspoken_slots"
_CURRENT: contextvars.ContextVar[KVSlots] = contextvars.ContextVar("slots of the pass under way")
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "is_causal",
        "sliding_window",
    }
)
_COVERED: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Segment:
    """What one row feeds in a pass: `width` columns from position `start` on, into its slot."""

    slot: int
    start: int
    width: int


@dataclass
class SlotGroup:
    """Segments of equal width that attend in one call, in slots `first` to `last`.

    Attributes:
        at: the packed columns they take: the first, and one after the last.
        columns: the most columns of a slot that one of them attends to.
        place_n: the place of each between `first` and `last`; None = one in every slot, in order.
        mask: added to the scores; None = no mask.
        bags: made when a layer first needs them, by numbers of heads (`core/engine/cpu_attention.py`).
    """

    first: int
    last: int
    width: int
    at: tuple[int, int]
    columns: int
    place_n: Tensor | None = None
    mask: Tensor | None = None
    bags: dict[tuple[int, int], Bags] = field(default_factory=dict)


class KVSlots(Cache):
    """Keys and values of up to `rows` rows. `forward` feeds columns.

    Args:
        rows: number of slots.
        columns: positions per slot at first; `reserve` enlarges it.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns = rows, columns
        self.keys: list[Tensor] = []  # per layer [R, G, S, E]
        self.values: list[Tensor] = []
        self._written = [0] * rows  # columns of each slot that have held something
        self._places: tuple[Tensor, Tensor] | None = None  # slot and column of each packed column
        self._groups: list[SlotGroup] = []
        self.steady: Any = None  # passes that are made at fixed addresses (core/engine/cuda_graphs.py)

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def forward(self, backbone: Backbone, embeds_ND: Tensor, positions_N: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Feed the columns of all segments, packed in their order; the states [N, D] after the final norm.

        Args:
            positions_N: position ids.
            segments: those of one column first, each kind in the order of its slots.
        """
        if self.steady is not None and (made := self.steady.forward(embeds_ND, positions_N, segments)) is not None:
            return made
        self._plan(segments, embeds_ND)
        with self.attention(backbone):
            return backbone.step(embeds_ND[None], positions_BT=positions_N[None], cache=self)[0]

    def reserve(self, columns: int) -> None:
        """Enlarge slots to hold this many positions, with room to spare, since enlarging copies."""
        if columns <= self.columns:
            return
        more = -(-max(columns, self.columns * 5 // 4) // 64) * 64
        if self.steady is not None:
            self.steady.forget()
            more = 1 << (max(columns, 2 * self.columns) - 1).bit_length()  # seldom: what was recorded is lost
        before, self.columns = self.columns, more
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):
                kept[layer] = self._empty(old, turned=kept is self.keys)
                kept[layer][:, :, :before] = old

    def copy(self, source: int, targets: slice | int, columns: int) -> None:
        """Copy the first columns of one slot into others."""
        for tensor in (*self.keys, *self.values):
            tensor[targets, :, :columns] = tensor[source, :, :columns].clone()
        for slot in range(self.rows)[targets] if isinstance(targets, slice) else (targets,):
            self._written[slot] = max(self._written[slot], columns)

    def clear(self, slot: int, first: int = 0) -> None:
        """Zero a slot from a column on: a masked NaN would still give NaN, even with weight 0."""
        # In a steady pass a slot that feeds nothing writes into its last column.
        end = self.columns if self.steady is not None else self._written[slot]
        if first < end:
            for tensor in (*self.keys, *self.values):
                tensor[slot, :, first:end] = 0
        self._written[slot] = min(self._written[slot], first)

    def plan(self, places: tuple[Tensor, Tensor], groups: list[SlotGroup]) -> None:
        """Set where the columns of the next pass go (slot and column of each), and what they attend to."""
        self._places, self._groups = places, groups

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer to store its new keys and values [1, G, N, E]."""
        while len(self.keys) <= layer_idx:
            self.keys.append(self._empty(key_states, turned=True))
            self.values.append(self._empty(value_states, turned=False))
        assert self._places is not None
        slots_N, columns_N = (place.to(key_states.device) for place in self._places)
        self.keys[layer_idx][slots_N, :, columns_N] = key_states[0].transpose(0, 1)
        self.values[layer_idx][slots_N, :, columns_N] = value_states[0].transpose(0, 1)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: rows have different lengths, and positions are always given explicitly."""
        return 0

    def attention(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Context manager for a pass of a model whose layers attend in these slots."""
        return attending(backbone.lm.config, _NAME, _CURRENT, self)

    def attend(self, layer: int, query_NHE: Tensor, scaling: float | None) -> Tensor:
        """Attention of the packed columns, each to its own row's: [N, H, E]."""
        found = [self._attend(layer, query_NHE[slice(*group.at)], scaling, group) for group in self._groups]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend(self, layer: int, query_NHE: Tensor, scaling: float | None, group: SlotGroup) -> Tensor:
        n, W, (H, E) = group.last - group.first, group.width, query_NHE.shape[1:]
        if group.place_n is not None:
            everyone = query_NHE.new_zeros(n, H, E)
            query_NHE = everyone.index_copy_(0, group.place_n.to(query_NHE.device), query_NHE)
        keys_nGCE, values_nGCE = (kept[layer][group.first : group.last] for kept in (self.keys, self.values))
        G = keys_nGCE.shape[1]
        # Query heads that share a key head are columns of it.
        query = query_NHE.view(n, W, G, H // G, E).permute(0, 2, 3, 1, 4).reshape(n, G, H // G * W, E)
        mask = group.mask
        if mask is not None:
            mask = mask.to(query.device)
            if W > 1 and H > G:
                mask = mask.repeat(1, 1, H // G, 1)
        if W == 1 and query.device.type == "cpu":  # quicker than the fused kernel, which is made for many columns
            if (heads := (G, H // G)) not in group.bags:  # not the same in all layers of all models
                group.bags[heads] = Bags.of(n, *heads, group.columns, self.columns)
            scale = E**-0.5 if scaling is None else scaling
            out = attend_one_column(query, keys_nGCE, values_nGCE, group.bags[heads], mask, scale)
        else:
            keys_nGSE, values_nGSE = keys_nGCE[:, :, : group.columns], values_nGCE[:, :, : group.columns]
            if turns_keys(keys_nGSE):
                keys_nGSE = keys_nGSE.contiguous()  # the fused kernel takes no others
            out = F.scaled_dot_product_attention(query, keys_nGSE, values_nGSE, attn_mask=mask, scale=scaling)
        out_NHE = out.view(n, G, H // G, W, -1).permute(0, 3, 1, 2, 4).reshape(n * W, H, -1)
        return out_NHE if group.place_n is None else out_NHE.index_select(0, group.place_n.to(out_NHE.device))

    def _empty(self, like: Tensor, turned: bool) -> Tensor:
        """Slots for states [..., G, ..., E]; `turned`: laid out for scores, where that is another layout."""
        R, G, C, E = self.rows, like.shape[1], self.columns, like.shape[3]
        turned = turned and turns_keys(like)
        shape = (R, G, E, C) if turned else (R, G, C, E)
        empty = in_large_pages(shape, like.dtype).zero_() if like.device.type == "cpu" else like.new_zeros(shape)
        return empty.transpose(2, 3) if turned else empty

    def _plan(self, segments: Sequence[Segment], like: Tensor) -> None:
        """Decide where columns go, and which segments attend together."""
        slots = torch.tensor([s.slot for s in segments for _ in range(s.width)], device=like.device)
        columns = torch.tensor([p for s in segments for p in range(s.start, s.start + s.width)], device=like.device)
        self._places = slots, columns
        for s in segments:
            self._written[s.slot] = max(self._written[s.slot], s.start + s.width)
        single = next((i for i, s in enumerate(segments) if s.width > 1), len(segments))
        self._groups = [self._ones(segments[:single], like)] if single else []
        at, i = single, single
        while i < len(segments):
            j = i + 1
            while j < len(segments) and segments[j] == Segment(
                segments[i].slot + j - i, segments[i].start, segments[i].width
            ):
                j += 1
            self._groups.append(self._several(segments[i:j], at, like))
            at, i = self._groups[-1].at[1], j

    def _ones(self, segments: Sequence[Segment], like: Tensor) -> SlotGroup:
        """Rows that feed one column each. Idle slots between them attend too, which costs less than a copy."""
        first, last = segments[0].slot, segments[-1].slot + 1
        columns = max(s.start for s in segments) + 1
        group = SlotGroup(first=first, last=last, width=1, at=(0, len(segments)), columns=columns)
        if last - first > len(segments):
            group.place_n = torch.tensor([s.slot - first for s in segments], device=like.device)
        if any(s.start + 1 < columns for s in segments):
            seen = [columns] * (last - first)
            for s in segments:
                seen[s.slot - first] = s.start + 1
            later = torch.arange(columns) >= torch.tensor(seen)[:, None]
            group.mask = _added(later, like)[:, None, None]
        return group

    @staticmethod
    def _several(segments: Sequence[Segment], at: int, like: Tensor) -> SlotGroup:
        """Rows in neighbouring slots that feed the same positions."""
        first, width = segments[0], segments[0].width
        columns = first.start + width
        group = SlotGroup(
            first=first.slot,
            last=first.slot + len(segments),
            width=width,
            at=(at, at + len(segments) * width),
            columns=columns,
        )
        later = torch.arange(columns) > torch.arange(first.start, columns)[:, None]
        group.mask = _added(later, like)[None, None]
        return group


def _added(hidden: Tensor, like: Tensor) -> Tensor:
    """An additive mask that hides the columns for which `hidden` is true."""
    return torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, -torch.inf).to(like.device)


class _Attention(Protocol):
    """A layer's attention, as transformers hands it over."""

    layer_idx: int


def _attend(
    module: _Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: object,
) -> tuple[Tensor, None]:
    """Called by transformers in place of its own attention: [1, H, N, E] -> [1, N, H, E]."""
    unknown = sorted(name for name, value in more.items() if name not in _HARMLESS and value is not None)
    if unknown or attention_mask is not None or dropout:
        raise NotImplementedError(f"attention in slots does not know {unknown or 'masks and dropout'}")
    return _CURRENT.get().attend(module.layer_idx, query[0].transpose(0, 1), scaling)[None], None


AttentionInterface.register(_NAME, _attend)


def supports_kv_slots(backbone: CausalLM, columns: int) -> bool:
    """Whether slots give the model's own numbers for rows of this many positions; checked once, with two rows.

    An attention window that no row outgrows makes no difference, since a slot holds only its row.
    """
    if not isinstance(backbone, Backbone) or (backbone.window is not None and columns > backbone.window):
        return False
    if ways_of(backbone.lm).answering != "padded":
        return False
    known, weight = _COVERED.setdefault(backbone, {}), input_table(backbone.lm).weight
    kind = f"{backbone.lm.config._attn_implementation} {weight.dtype} {weight.device}"
    if kind not in known:
        with without_hooks(backbone.lm):
            known[kind] = _same(backbone)
    return known[kind]


@torch.no_grad()
def _same(backbone: Backbone) -> bool:
    """Compare two rows, packed and read in parts, with each read alone in one pass."""
    config = backbone.lm.config
    kinds = {type(layer) for layer in backbone.new_cache().layers}
    if text_config(backbone.lm) is not config or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    training = backbone.lm.training
    backbone.lm.eval()
    try:
        ids = [torch.arange(1 + 7 * b, 10 + 5 * b, device=backbone.device) % backbone.vocabulary for b in range(2)]
        embeds = [backbone.embed(row) for row in ids]
        want = [backbone.step(e[None], positions_BT=torch.arange(len(e), device=backbone.device)[None])[0] for e in embeds]
        slots = KVSlots(2, 4)
        passes = [(6, 0), (1, 4), (2, 1), (0, 2)]  # how many columns either row feeds
        got: list[list[Tensor]] = [[], []]
        fed = [0, 0]
        slots.reserve(16)
        for widths in passes:
            rows = sorted((b for b in range(2) if widths[b]), key=lambda b: (widths[b] > 1, b))
            states = slots.forward(
                backbone,
                torch.cat([embeds[b][fed[b] : fed[b] + widths[b]] for b in rows]),
                torch.cat([torch.arange(fed[b], fed[b] + widths[b], device=backbone.device) for b in rows]),
                [Segment(b, fed[b], widths[b]) for b in rows],
            )
            for b, part in zip(rows, states.split([widths[b] for b in rows]), strict=True):
                got[b].append(part)
                fed[b] += widths[b]
        rough = 1e-3 if want[0].dtype == torch.float32 else 5e-2
        return all(
            bool(((torch.cat(mine) - whole).abs().amax() <= rough * whole.abs().amax()).item())
            for mine, whole in zip(got, want, strict=True)
        )
    except (NotImplementedError, TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError):
        return False  # whatever it is that the family does otherwise, the loop knows it
    finally:
        backbone.lm.train(training)
