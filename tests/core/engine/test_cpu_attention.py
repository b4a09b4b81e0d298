"""Attention of one column per row equals the textbook's, whatever the heads, precisions and strides are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unspoken.core.engine.cpu_attention import Bags, attend_one_column, turns_keys


def textbook(query: Tensor, keys: Tensor, values: Tensor, seen: list[int], scale: float) -> Tensor:
    """[n, G, r, E], computed row by row in float64."""
    out = []
    for q, k, v, columns in zip(query.double(), keys.double(), values.double(), seen, strict=True):
        k, v = k[:, :columns], v[:, :columns]
        out.append((q @ k.transpose(1, 2) * scale).softmax(dim=-1) @ v)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("seen", [[7, 7], [3, 7]])
@pytest.mark.parametrize("C", [10, 128])
def test_it_is_attention(dtype: torch.dtype, shared: int, seen: list[int], C: int):
    torch.manual_seed(0)
    seen = [columns * C // 10 for columns in seen]
    n, G, E, wide = 2, 3, 8, 5
    query = torch.randn(n, 2 * G, shared, E, dtype=dtype)[:, ::2]  # as a model hands it over: with gaps
    keys, values = torch.randn(n, G, C, E, dtype=dtype), torch.randn(n, G, C, wide, dtype=dtype)
    values[:, :, max(seen) :] = keys[:, :, max(seen) :] = torch.nan  # what nobody sees does not show
    if turns_keys(keys):
        keys = keys.transpose(2, 3).contiguous().transpose(2, 3)
    later = torch.arange(max(seen)) >= torch.tensor(seen)[:, None]
    mask = (
        None if seen[0] == seen[1] else torch.zeros(later.shape, dtype=dtype).masked_fill(later, -torch.inf)[:, None, None]
    )
    with torch.inference_mode():
        got = attend_one_column(query, keys, values, Bags.of(n, G, shared, max(seen), C), mask, 0.3)
    exact = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(got.double(), textbook(query, keys, values, seen, 0.3), rtol=exact, atol=exact)
    assert got.dtype == dtype


def test_autocast_may_choose_the_precision_of_products():
    torch.manual_seed(0)
    query, keys, values = (torch.randn(2, 3, columns, 8) for columns in (1, 6, 6))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = attend_one_column(query, keys, values, Bags.of(2, 3, 1, 6, 6), None, 0.3)
    torch.testing.assert_close(got.double(), textbook(query, keys, values, [6, 6], 0.3), rtol=2e-2, atol=2e-2)
