"""Products of a few rows, whichever way round they are taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from medsum_core.few_rows import MAX_ROWS, few_rows_linears, few_rows_product


@pytest.mark.parametrize("num_rows", [1, 2, 8, MAX_ROWS, MAX_ROWS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_of_a_linear_layer(num_rows: int, dtype: torch.dtype) -> None:
    x_MK, weight_NK = torch.randn(num_rows, 64).to(dtype), torch.randn(192, 64).to(dtype)
    found = few_rows_product(x_MK, weight_NK)
    assert found.shape == (num_rows, 192) and found.dtype == dtype and found.is_contiguous()
    expected = linear(x_MK.double(), weight_NK.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize("shape", [(1, 5, 64), (5, 64), (1, 100, 64)])
def test_layers_compute_the_same_and_are_left_as_they_were(shape: tuple[int, ...]) -> None:
    plain, biased = nn.Linear(64, 32, bias=False), nn.Linear(64, 32)
    model = nn.ModuleList([plain, biased])
    x = torch.randn(shape)
    expected = [layer(x) for layer in model]
    with pytest.raises(RuntimeError), few_rows_linears(model):
        assert "forward" in vars(plain) and "forward" not in vars(biased)  # a bias is nn.Linear's own business
        for layer, reference in zip(model, expected, strict=True):
            torch.testing.assert_close(layer(x), reference, rtol=0, atol=1e-5)
        raise RuntimeError
    assert "forward" not in vars(plain)
    assert torch.equal(plain(x), expected[0])
