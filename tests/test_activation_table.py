"""GELU from a table: for every number of 16 bits what torch's own function gives, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from medsum_core import activation_table
from medsum_core.activation_table import gelu_tanh, gelu_tanh_backward


def every_number() -> Tensor:
    """All 65,536 of them, infinities, NaNs and denormal ones included, in a shuffled order."""
    bits = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).view(256, 256)


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal, a NaN being equal to a NaN."""
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_values_and_gradients_of_every_number_are_those_of_torch() -> None:
    x = every_number()
    assert same(gelu_tanh(x, out=torch.empty_like(x)), gelu(x, approximate="tanh"))
    for dy in (torch.ones_like(x), torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)):
        assert same(gelu_tanh_backward(dy, x), torch.ops.aten.gelu_backward(dy, x, approximate="tanh"))


def test_the_tables_are_looked_up_for_contiguous_bf16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(activation_table, "_values", refuse)
    monkeypatch.setattr(activation_table, "_slopes", refuse)
    for x in (torch.randn(4, 6), torch.randn(6, 4).to(torch.bfloat16).t(), torch.randn(4, 6).half()):
        out = torch.empty(x.shape, dtype=x.dtype)
        assert torch.equal(gelu_tanh(x, out=out), gelu(x, approximate="tanh"))
        expected = torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh")
        assert torch.equal(gelu_tanh_backward(torch.ones_like(x), x), expected)
    with pytest.raises(AssertionError, match="looked up"):
        gelu_tanh(every_number(), out=every_number())
