"""A matrix times one row on a CPU, as fast as its memory is read.

Thinking and speaking for one question is nothing else, and matrix kernels, which are made for many rows, read weights at
half the speed that memory has. The kernel of embedding bags sums up rows of a table by weights, which is the same product
if the table is the matrix: input i weighs what input i adds to all outputs. So that memory is read from one end to the
other, the table holds the outputs in panels that fit the kernel's registers, one after the other. Sums are kept in float32
and rounded once. Figures: docs/speed/answering.md.

Shapes: I inputs (with a bias one more, which is always 1), O outputs, b outputs of a panel, P panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from unspoken.core.fast.malloc import in_large_pages

HAS_BAGS = "fbgemm" in torch.backends.quantized.supported_engines
"""Whether sums of rows by weights have a fast kernel, for the types in `BAGS_DTYPES`."""

BAGS_DTYPES = (torch.float32, torch.bfloat16)

_WIDEST = {torch.float32: 384, torch.bfloat16: 128}
_REGISTER = 16  # numbers


@dataclass(frozen=True)
class Panels:
    """A matrix for `one_row`.

    Attributes:
        table: [P x I, b].
        count: P.
        outputs: O; the last panel may have more.
        one_11: what the bias is weighed with, the last input of each panel; None = no bias.
    """

    table: Tensor
    count: int
    outputs: int
    one_11: Tensor | None


@cache
def has_one_row(dtype: torch.dtype) -> bool:
    """Whether this way is faster than matrix kernels here: measured with the registers of AVX-512."""
    return HAS_BAGS and dtype in BAGS_DTYPES and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def in_panels(weight_OI: Tensor, bias_O: Tensor | None) -> Panels:
    """A copy of a matrix and its bias for `one_row`."""
    outputs = len(weight_OI)
    count = -(-outputs // _WIDEST[weight_OI.dtype])
    width = -(-outputs // (count * _REGISTER)) * _REGISTER
    parts = [weight_OI.detach()] if bias_O is None else [weight_OI.detach(), bias_O.detach()[:, None]]
    table_PIb = in_large_pages((count, sum(part.shape[1] for part in parts), width), weight_OI.dtype)
    for panel_Ib, *pieces in zip(table_PIb, *(part.split(width) for part in parts), strict=True):
        panel_Ib[:, : len(pieces[0])] = torch.cat(pieces, dim=1).T
        panel_Ib[:, len(pieces[0]) :] = 0
    one_11 = None if bias_O is None else weight_OI.new_ones(1, 1)
    return Panels(table_PIb.view(-1, width), count, outputs, one_11)


def one_row(input_1I: Tensor, panels: Panels) -> Tensor:
    """Input x matrix transposed + bias, without gradients: [1, O]."""
    weights_1I = input_1I if panels.one_11 is None else torch.cat((input_1I, panels.one_11), dim=1)
    inputs = weights_1I.shape[1]
    rows, begins = _everything(panels.count, inputs)
    weights = weights_1I.expand(panels.count, inputs).reshape(-1)
    summed_Pb, *_ = torch.embedding_bag(panels.table, rows, begins, False, 0, False, weights)
    return summed_Pb.view(1, -1)[:, : panels.outputs]


@lru_cache(maxsize=64)
def _everything(count: int, inputs: int) -> tuple[Tensor, Tensor]:
    """All rows of a table, a bag for each panel."""
    with torch.inference_mode(False):
        return (
            torch.arange(count * inputs, dtype=torch.int32),
            torch.arange(0, count * inputs, inputs, dtype=torch.int32),
        )
