"""A matrix times one row: the textbook's product for any shape."""

from __future__ import annotations

import pytest
import torch

from unspoken.core.fast.one_row import in_panels, one_row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (385, 64), (1000, 1), (768, 160)])
def test_it_is_the_product(dtype: torch.dtype, biased: bool, shape: tuple[int, int]):
    """Outputs that fill no panel, one panel, or the last one in part."""
    torch.manual_seed(0)
    weight, x = torch.randn(shape, dtype=dtype), torch.randn(1, shape[1], dtype=dtype)
    bias = torch.randn(shape[0], dtype=dtype) if biased else None
    with torch.inference_mode():
        got = one_row(x, in_panels(weight, bias))
    want = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    exact = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]  # sums are kept in float32 and rounded once
    torch.testing.assert_close(got.double(), want, rtol=exact, atol=1e-4)
    assert got.dtype == dtype


def test_what_is_not_finite_stays_so():
    weight = torch.ones(40, 8)
    weight[3, 2], weight[5, 4] = torch.inf, torch.nan
    with torch.inference_mode():
        got = one_row(torch.ones(1, 8), in_panels(weight, None))[0]
    assert got.isinf().nonzero().tolist() == [[3]]
    assert got.isnan().nonzero().tolist() == [[5]]
