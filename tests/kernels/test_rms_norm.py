"""The norms' forward and backward against transformers' own, and what they save for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import tiny_model
from torch import Tensor, nn
from torch._decomp import decomposition_table
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from windows import make_run, make_window, relative, tensors_saved, tuned

from medsum_core.kernels.layers.rms_norm import frozen_rms_norm, use_fast_norms
from train_loop import train_step

NORMS = (GemmaRMSNorm, Gemma2RMSNorm, Gemma3RMSNorm, LlamaRMSNorm)


def make_norm(norm_class: Any, dtype: torch.dtype) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A frozen norm of 64 features with random weights, an input far from unit size, and a gradient of the output."""
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(norm_class(64)).to(dtype).requires_grad_(False)
    model[0].weight.copy_(torch.randn(64, generator=generator))
    x, gradient = (torch.randn(2, 7, 64, generator=generator).mul_(30).to(dtype) for _ in range(2))
    return model, x.requires_grad_(), gradient


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("norm_class", NORMS)
def test_output_and_gradient_are_those_of_transformers(
    norm_class: Any, dtype: torch.dtype, bound: float, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernels:
        monkeypatch.setattr("medsum_core.kernels.layers.rms_norm.on_cpu", lambda x: False)
        # torch has this operator on GPUs only; on a CPU its decomposition takes its place
        backward = decomposition_table[torch.ops.aten._fused_rms_norm_backward.default]
        monkeypatch.setattr(torch.ops.aten, "_fused_rms_norm_backward", backward)
    model, x, gradient = make_norm(norm_class, dtype)
    expected = model(x)
    (expected_gradient,) = torch.autograd.grad(expected, x, gradient)
    assert use_fast_norms(model) == 1
    found = model(x)
    (found_gradient,) = torch.autograd.grad(found, x, gradient)
    assert found.dtype == dtype and relative(found, expected) <= bound
    assert has_kernels or torch.equal(found, expected)
    assert relative(found_gradient, expected_gradient) <= bound


@pytest.mark.parametrize("norm_class", NORMS)
def test_only_the_input_and_one_number_a_token_are_saved(norm_class: Any) -> None:
    model, x, _ = make_norm(norm_class, torch.bfloat16)
    use_fast_norms(model)
    with tensors_saved() as saved:
        model(x)
    large = [tensor for tensor in saved if tensor.numel() >= x.numel()]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm_class", NORMS)
def test_the_recomputed_output_is_bit_identical(norm_class: Any, dtype: torch.dtype) -> None:
    model, x, _ = make_norm(norm_class, dtype)
    use_fast_norms(model)
    norm = frozen_rms_norm(model[0])
    y, inverse_rms = norm.forward(x)
    assert torch.equal(norm.output(x, inverse_rms), y) and torch.equal(y, model(x))


def test_a_weight_of_a_wider_dtype_widens_the_output_as_in_transformers() -> None:
    model, x, _ = make_norm(LlamaRMSNorm, torch.bfloat16)
    model.float()
    expected = model(x)
    use_fast_norms(model)
    found = model(x)
    assert found.dtype == expected.dtype == torch.float32 and relative(found, expected) <= 5e-3


def test_a_norm_that_trains_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen"):
        use_fast_norms(nn.Sequential(GemmaRMSNorm(64)))


def test_norm_weights_changed_before_the_first_update_are_used() -> None:
    losses = []
    for kernels in ("reference", "fast"):
        model = tuned(tiny_model(), kernels=kernels)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" in name:
                    weight.add_(0.5)
        run = make_run(model, kernels=kernels)
        losses.append(train_step(run, make_window(2), learning_rate=0.0).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
