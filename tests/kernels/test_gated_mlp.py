"""The gated MLP: equal to transformers' and PEFT's own modules, with less saved for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import tiny_model
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from windows import randomise_adapter, relative

from medsum_core.kernels.layers import apply_fast_layers
from medsum_core.kernels.layers.gated_mlp import use_gated_mlps
from medsum_core.model.lora import LoraSettings, attach_lora

MLPS = {"gemma": GemmaMLP, "gemma3_text": Gemma3MLP, "llama": LlamaMLP}


def make_model(kind: str, dtype: torch.dtype, *, gated: bool, **settings: Any) -> Any:
    """A tiny model with an adapter drawn at random; without `gated` its MLPs keep the forward of transformers."""
    base = tiny_model(kind).to(dtype).requires_grad_(False)
    model = attach_lora(base, LoraSettings(r=4, **settings), base_name="")
    apply_fast_layers(model, keep_dense=False)
    for module in model.modules():
        if isinstance(module, MLPS[kind]) and not gated:
            del module.forward
    return randomise_adapter(model)


def step(model: Any) -> tuple[Tensor, list[Tensor]]:
    """The MLPs' joint output and the gradients of their input and of all adapters in them."""
    torch.manual_seed(3)
    mlps: list[Any] = [module for module in model.modules() if hasattr(module, "gate_proj")]
    size = mlps[0].gate_proj.in_features
    x = torch.randn(2, 5, size).to(next(iter(mlps[0].gate_proj.get_base_layer().parameters())).dtype).requires_grad_()
    y = torch.stack([mlp(x) for mlp in mlps])
    trained = [p for mlp in mlps for p in mlp.parameters() if p.requires_grad]
    return y.detach(), list(torch.autograd.grad(y.float().square().sum(), [x, *trained]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("dtype,bound", [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("kind", list(MLPS))
def test_output_and_gradients_equal_the_modules_own(
    kind: str, dtype: torch.dtype, bound: float, has_kernels: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernels:
        monkeypatch.setattr("medsum_core.kernels.layers.gated_mlp.on_cpu", lambda x: False)
        bound = 0.0  # torch's own functions: bit-identical
    expected, expected_gradients = step(make_model(kind, dtype, gated=False, dropout=dropout))
    found, gradients = step(make_model(kind, dtype, gated=True, dropout=dropout))
    assert relative(found, expected) <= bound and float(found.abs().max()) > 0
    assert len(gradients) == len(expected_gradients) > 6
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, reference) <= bound and float(reference.abs().max()) > 0


def saved_bytes(model: Any) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mlp: Any = next(module for module in model.modules() if hasattr(module, "gate_proj"))
        mlp(torch.randn(1, 8, mlp.gate_proj.in_features))
    return sum(size for place, size in storages.items() if place not in frozen)


def test_the_activated_gate_and_the_product_are_not_saved() -> None:
    plain, gated = (saved_bytes(make_model("gemma", torch.float32, gated=is_gated)) for is_gated in (False, True))
    mlp: Any = next(m for m in make_model("gemma", torch.float32, gated=True).modules() if hasattr(m, "gate_proj"))
    assert plain - gated == 2 * 8 * mlp.gate_proj.out_features * 4


def test_with_its_adapter_disabled_the_mlp_equals_the_bases() -> None:
    model = make_model("gemma", torch.float32, gated=True)
    mlp: Any = next(module for module in model.modules() if hasattr(module, "gate_proj"))
    x = torch.randn(1, 3, mlp.gate_proj.in_features)
    gate, up, down = (getattr(mlp, f"{name}_proj").get_base_layer() for name in ("gate", "up", "down"))
    with model.disable_adapter():
        assert torch.equal(mlp(x), down(mlp.act_fn(gate(x)) * up(x)))
    assert not torch.equal(mlp(x), down(mlp.act_fn(gate(x)) * up(x)))


def test_without_an_adapter_on_its_down_projection_the_mlp_keeps_the_forward_of_transformers() -> None:
    model = make_model("gemma", torch.float32, gated=True, target_modules=("gate_proj", "up_proj"))
    assert use_gated_mlps(model) == 0
    assert not any("forward" in vars(module) for module in model.modules() if isinstance(module, GemmaMLP))


def test_an_unknown_activation_keeps_the_forward_of_transformers() -> None:
    model = make_model("gemma", torch.float32, gated=False)
    for module in model.modules():
        if isinstance(module, GemmaMLP):
            module.act_fn = nn.Tanh()
    assert use_gated_mlps(model) == 0


def test_a_model_whose_adapter_was_unloaded_equals_the_base() -> None:
    model = make_model("gemma", torch.float32, gated=True)
    tokens = torch.arange(5)[None]
    with model.disable_adapter(), torch.no_grad():
        expected = model(input_ids=tokens).logits
    assert torch.equal(model.unload()(input_ids=tokens).logits, expected)
