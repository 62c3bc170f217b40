"""A norm and its projections as one function: equal to the modules' own, with only the norm's input saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from windows import randomise_adapter, relative, tensors_saved

from medsum_core.kernels.layers.lora_linear import fuse_lora_layers
from medsum_core.kernels.layers.norm_linear import normed_projections
from medsum_core.kernels.layers.rms_norm import use_fast_norms

SIZE = 64


class Block(nn.Module):
    def __init__(self, norm_class: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm_class(SIZE)
        self.wide, self.narrow = nn.Linear(SIZE, 96, bias=False), nn.Linear(SIZE, 32, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return torch.cat((self.wide(normed), self.narrow(normed)), -1)


def make(norm_class: Any, dtype: torch.dtype = torch.float32, rate: float = 0.3) -> Any:
    base = Block(norm_class).to(dtype).requires_grad_(False)
    config = LoraConfig(r=8, lora_alpha=24, target_modules=["wide", "narrow"], lora_dropout=rate)
    model = randomise_adapter(get_peft_model(base, config)).train()  # type: ignore[arg-type, type-var]
    fuse_lora_layers(model, keep_dense=False)
    return model


def outputs(model: Any, x: Tensor) -> Tensor:
    block = model.base_model.model
    return torch.cat(normed_projections(block.norm, (block.wide, block.narrow), x), -1)


def gradients(y: Tensor, model: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)).sum(), [*leaves, *trained]
    )


def make_input(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 7, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("norm_class", [Gemma3RMSNorm, LlamaRMSNorm])
def test_output_and_gradients_equal_the_modules_own(norm_class: Any, dtype: torch.dtype, bound: float) -> None:
    model, x = make(norm_class, dtype), make_input(dtype)
    torch.manual_seed(3)
    expected = model(x)
    expected_gradients = gradients(expected, model, x)
    use_fast_norms(model)
    torch.manual_seed(3)
    found = outputs(model, x)
    assert relative(found, expected) <= bound
    for gradient, reference in zip(gradients(found, model, x), expected_gradients, strict=True):
        assert relative(gradient, reference) <= bound and float(reference.abs().max()) > 0


def test_the_norms_output_is_not_saved() -> None:
    model, x = make(Gemma3RMSNorm), make_input()
    use_fast_norms(model)
    with tensors_saved() as saved:
        outputs(model, x)
    assert {tensor.data_ptr() for tensor in saved if tensor.numel() == x.numel()} == {x.data_ptr()}


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    model = make(Gemma3RMSNorm)
    use_fast_norms(model)
    assert all(bool(gradient.abs().any()) for gradient in gradients(outputs(model, make_input().detach()), model))


def test_with_adapters_disabled_norm_and_projections_run_one_by_one() -> None:
    model, x = make(Gemma3RMSNorm), make_input()
    use_fast_norms(model)
    block = model.base_model.model
    with model.disable_adapter():
        normed = block.norm(x)
        expected = torch.cat([layer.get_base_layer()(normed) for layer in (block.wide, block.narrow)], -1)
        assert relative(outputs(model, x), expected) <= 1e-6
