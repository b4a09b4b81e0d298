"""Steady passes: every slot feeds one column at fixed addresses, so that one CUDA graph launch does the whole pass.

While rows think or speak they feed one column each: a few hundred small kernels, which take the host longer to launch than
a GPU to compute. A CUDA graph launches them all at once, but only reads the addresses that it was recorded with. So inputs
lie in fixed tensors, every slot takes part (an idle one writes into the last column, which no row has reached), and all
attend to a number of columns rounded up to a power of two, masked.

The same pass without a graph gives the same numbers; on a CPU it is what the tests run.

Shapes: R slots, C columns that are seen, N rows that feed one, D width.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from unspoken.core.engine.kv_slots import KVSlots, Segment, SlotGroup
from unspoken.core.fast.unhooked import has_hooks
from unspoken.core.lm.backbone import Backbone

AFTER = 4
"""Number of passes of a kind made the usual way before one is recorded; recording takes as long as three passes."""


@dataclass
class _Pass:
    """A pass over all slots, and its inputs."""

    embeds_RD: Tensor
    positions_R: Tensor
    columns_R: Tensor
    slots_R: Tensor
    seen_R: Tensor
    graph: Any = None
    out_RD: Tensor | None = None


class CudaGraphRunner:
    """Steady passes of some slots.

    Args:
        backbone: the model; its weights may change in place, and nothing else.
        slots: the slots of its rows.
        record: record CUDA graphs; False runs the same pass without.
    """

    def __init__(self, backbone: Backbone, slots: KVSlots, record: bool) -> None:
        self._slots, self._record = weakref.proxy(slots), record
        self._backbone = weakref.proxy(backbone)
        self._passes: dict[tuple[int, torch.dtype], _Pass] = {}
        self._asked: Counter[tuple[int, torch.dtype]] = Counter()
        self._pool: Any = None
        self._fails = False
        self.made = 0  # steady passes so far

    def forget(self) -> None:
        """The slots have moved."""
        self._passes.clear()
        self._asked.clear()
        self._pool = None  # a pool whose graphs are gone cannot be used again

    def forward(self, embeds_ND: Tensor, positions_N: Tensor, segments: Sequence[Segment]) -> Tensor | None:
        """Feed one column for each of some slots; returns the states [N, D], or None if the pass must be made the usual
        way."""
        slots = self._slots
        if self._fails or not slots.keys or any(segment.width > 1 for segment in segments):
            return None
        if torch.is_autocast_enabled(embeds_ND.device.type):
            return None  # its copies of the weights are gone when it ends
        need = max(segment.start for segment in segments) + 1
        kind = min(slots.columns, 1 << max(need - 1, 63).bit_length()), embeds_ND.dtype
        self._asked[kind] += 1
        if self._asked[kind] <= AFTER:
            return None
        if kind not in self._passes:
            self._passes[kind] = self._new(embeds_ND)
        one = self._passes[kind]
        rows = torch.tensor([(s.slot, s.start) for s in segments]).to(embeds_ND.device, non_blocking=True)
        slots_N, starts_N = rows[:, 0], rows[:, 1]
        one.embeds_RD.zero_().index_copy_(0, slots_N, embeds_ND)
        one.positions_R.zero_().index_copy_(0, slots_N, positions_N)
        one.columns_R.fill_(slots.columns - 1).index_copy_(0, slots_N, starts_N)
        one.seen_R.fill_(1).index_copy_(0, slots_N, starts_N + 1)
        if not self._record:
            one.out_RD = self._run(one, kind[0])
        elif one.graph is None and not self._capture(one, kind[0]):
            return None
        else:
            one.graph.replay()  # pyright: ignore[reportOptionalMemberAccess]
        self.made += 1
        assert one.out_RD is not None
        return one.out_RD.index_select(0, slots_N)

    def _new(self, like_ND: Tensor) -> _Pass:
        R, at = self._slots.rows, like_ND.device
        zeros_R = torch.zeros(R, dtype=torch.long, device=at)
        return _Pass(
            embeds_RD=like_ND.new_zeros(R, like_ND.shape[1]),
            positions_R=zeros_R.clone(),
            columns_R=zeros_R.clone(),
            slots_R=torch.arange(R, device=at),
            seen_R=zeros_R + 1,
        )

    def _run(self, one: _Pass, columns: int) -> Tensor:
        """Run the pass on what its input tensors hold."""
        later_RC = torch.arange(columns, device=one.seen_R.device) >= one.seen_R[:, None]
        mask_RC = one.embeds_RD.new_zeros(later_RC.shape).masked_fill_(later_RC, -torch.inf)
        everyone = SlotGroup(
            first=0,
            last=len(one.slots_R),
            width=1,
            at=(0, len(one.slots_R)),
            columns=columns,
            mask=mask_RC[:, None, None],
        )
        self._slots.plan((one.slots_R, one.columns_R), [everyone])
        with self._slots.attention(self._backbone):
            return self._backbone.step(one.embeds_RD[None], positions_BT=one.positions_R[None], cache=self._slots)[0]

    def _capture(self, one: _Pass, columns: int) -> bool:
        """Record the pass. False: this model cannot be recorded."""
        usual = torch.cuda.current_stream()
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(usual)
            with torch.cuda.stream(stream):  # libraries make their workspaces outside the graph
                for _ in range(2):
                    self._run(one, columns)
            usual.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                one.out_RD = self._run(one, columns)
            self._pool = self._pool or graph.pool()
            one.graph = graph
        except RuntimeError:  # something in the model waits for the host, or allocates where it must not
            torch.cuda.set_stream(usual)  # an end that raises leaves the stream of the recording in place
            self._fails = True
            self.forget()
            return False
        return True


_SPARE: WeakKeyDictionary[Any, dict[tuple[int, Any], KVSlots]] = WeakKeyDictionary()


def acquire_slots(backbone: Backbone, rows: int, columns: int, graphs: bool | None, user: object) -> KVSlots:
    """Slots for a user, with steady passes if they pay off. Slots of an earlier user are reused, so that nothing is
    recorded again.

    Args:
        graphs: record CUDA graphs; None = on a GPU.
        user: when this object is deleted, its slots can be reused.
    """
    # A recording calls no hook when it is replayed, and in a steady pass hooks would see slots that feed nothing.
    if not (backbone.device.type == "cuda" if graphs is None else graphs) or has_hooks(backbone.lm):
        return KVSlots(rows, columns)
    kind = (rows, _addresses(backbone))
    spare = _SPARE.setdefault(backbone, {})
    if (slots := spare.pop(kind, None)) is None:
        spare.clear()  # one set is kept, of the size asked for last
        slots = KVSlots(rows, columns)
        slots.steady = CudaGraphRunner(backbone, slots, record=backbone.device.type == "cuda")
    weakref.finalize(user, spare.__setitem__, kind, slots)
    return slots


def release(backbone: Backbone) -> None:
    """Free the slots and recordings kept for a next user: training needs the memory."""
    _SPARE.pop(backbone, None)


def _addresses(backbone: Backbone) -> Any:
    """What a recorded pass relies on: the addresses of the weights and the model's mode."""
    tensors = (*backbone.lm.parameters(), *backbone.lm.buffers())
    return backbone.lm.training, tuple(tensor.data_ptr() for tensor in tensors)
