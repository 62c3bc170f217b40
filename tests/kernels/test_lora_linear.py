"""A LoRA projection as one function: equal to PEFT's, and with dropout to autograd's under the same mask."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear
from windows import flat, randomise_adapter, relative

from medsum_core import device as device_module
from medsum_core.kernels.cpu.bf16_products import product, product_transposed
from medsum_core.kernels.layers.dropout import DroppedElements, draw_seeds
from medsum_core.kernels.layers.lora_linear import FrozenWeight, fuse_lora_layers

IN, OUT = 128, 64
CPU = torch.device("cpu")


class OneLayer(nn.Module):
    def __init__(self, *, four_bit: bool, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        dense = nn.Linear(IN, OUT, bias=bias, dtype=dtype)
        self.proj: nn.Module = dense
        if four_bit:
            self.proj = Linear4bit(IN, OUT, bias=bias, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
            self.proj.load_state_dict(dense.state_dict())
            self.proj = self.proj.to("cpu")
            self.proj.support_avx512bf16_for_cpu = False

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def make_layer(
    *, four_bit: bool = False, bias: bool = False, dtype: torch.dtype = torch.float32, **settings: Any
) -> PeftModel:
    """A model of one projection under PEFT, adapter drawn at random, in training mode."""
    base = OneLayer(four_bit=four_bit, bias=bias, dtype=dtype).requires_grad_(False)
    config = LoraConfig(r=8, lora_alpha=24, target_modules=["proj"], **settings)
    model = get_peft_model(base, config)  # type: ignore[arg-type]
    assert isinstance(model, PeftModel)
    return randomise_adapter(model).train()


def make_input(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 7, IN, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def run(model: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """The output and the gradients of the input and of everything that trains."""
    x = make_input(dtype)
    y = model(x)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return y.detach(), list(torch.autograd.grad((y * probe).sum(), [x, *parameters]))


def weight_of(model: PeftModel, *, keep_dense: bool) -> FrozenWeight:
    layer: Any = model.get_submodule("base_model.model.proj")
    return FrozenWeight(layer.get_base_layer(), keep_dense=keep_dense)


@pytest.mark.parametrize("keep_dense", [False, True])
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("four_bit", [False, True])
def test_equals_pefts_own_forward_and_backward(four_bit: bool, bias: bool, use_rslora: bool, keep_dense: bool) -> None:
    model = make_layer(four_bit=four_bit, bias=bias, use_rslora=use_rslora)
    expected, expected_gradients = run(model)
    assert fuse_lora_layers(model, keep_dense=keep_dense) == 1
    found, gradients = run(model)
    assert relative(found, expected) <= 1e-6
    assert len(gradients) == 3
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, reference) <= 1e-5


@pytest.mark.parametrize("four_bit", [False, True])
def test_with_its_adapter_disabled_it_equals_the_base(four_bit: bool) -> None:
    model = make_layer(four_bit=four_bit, bias=True)
    x = make_input()
    with model.disable_adapter():
        expected = model(x)
    fuse_lora_layers(model, keep_dense=False)
    with model.disable_adapter():
        found = model(x)
        assert relative(found, expected) <= 1e-6
        assert relative(torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0]) <= 1e-6
    assert relative(model(x), expected) > 0.01


def test_a_bias_is_added_before_the_output_is_rounded() -> None:
    model = make_layer(bias=True, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    fuse_lora_layers(model, keep_dense=False)
    x, base = make_input(torch.bfloat16).detach(), OneLayer(four_bit=False, bias=True, dtype=torch.bfloat16)
    assert torch.equal(model(x), base(x))


def test_dora_keeps_pefts_own_forward() -> None:
    model = make_layer(use_dora=True)
    expected, _ = run(model)
    assert fuse_lora_layers(model, keep_dense=False) == 0
    assert torch.equal(run(model)[0], expected)


def test_layers_that_are_not_linear_keep_pefts_own_forward() -> None:
    base = nn.Sequential(nn.Embedding(10, 8))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["0"]))  # type: ignore[arg-type]
    assert fuse_lora_layers(model, keep_dense=False) == 0


def test_a_merged_adapter_is_refused_rather_than_added_twice() -> None:
    model = make_layer()
    fuse_lora_layers(model, keep_dense=True)
    model(make_input())
    layer: Any = model.get_submodule("base_model.model.proj")
    layer.merge()
    with pytest.raises(RuntimeError, match="merged"):
        model(make_input())


@pytest.mark.parametrize("four_bit", [False, True])
def test_dropout_uses_one_mask_forward_and_backward(four_bit: bool) -> None:
    rate = 0.3
    model = make_layer(four_bit=four_bit, lora_dropout=rate)
    fuse_lora_layers(model, keep_dense=False)
    torch.manual_seed(11)
    found, gradients = run(model)
    torch.manual_seed(11)
    (seed,) = draw_seeds(1)
    x = make_input()
    lora_A, lora_B = [parameter for parameter in model.parameters() if parameter.requires_grad]
    keep = DroppedElements(x.numel(), rate=rate, seed=seed, device=CPU).without(torch.ones_like(x))
    dropped = x * keep / (1 - rate)
    weight = weight_of(model, keep_dense=False).dense(torch.float32)
    y = linear(x, weight) + 24 / 8 * linear(linear(dropped, lora_A), lora_B)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    expected_gradients = torch.autograd.grad((y * probe).sum(), [x, lora_A, lora_B])
    assert relative(found, y) <= 1e-6
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, reference) <= 1e-5


def test_gradient_with_dropout_equals_finite_differences() -> None:
    model = make_layer(lora_dropout=0.4, dtype=torch.float64)
    fuse_lora_layers(model, keep_dense=False)
    parameters = {name: p.detach().double() for name, p in model.named_parameters() if p.requires_grad}
    x = make_input(torch.float64)[:, :2, :].detach().requires_grad_()

    def forward(x: Tensor, *tensors: Tensor) -> Tensor:
        torch.manual_seed(4)
        return torch.func.functional_call(model, dict(zip(parameters, tensors, strict=True)), (x,)).sum(-1)

    inputs = [x, *[tensor.requires_grad_() for tensor in parameters.values()]]
    assert torch.autograd.gradcheck(forward, inputs, eps=1e-6, atol=1e-6, fast_mode=True)


def test_dropout_draws_from_torchs_generator_only_in_training() -> None:
    model = make_layer(lora_dropout=0.3)
    fuse_lora_layers(model, keep_dense=False)
    torch.manual_seed(1)
    first, second = model(make_input()), model(make_input())
    torch.manual_seed(1)
    assert torch.equal(model(make_input()), first) and not torch.equal(first, second)
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(model(make_input()), model(make_input()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stored_dense_weight_is_bit_identical_to_dequantising_each_time(dtype: torch.dtype) -> None:
    model = make_layer(four_bit=True)
    other = deepcopy(model)
    stored, fresh = weight_of(model, keep_dense=True), weight_of(other, keep_dense=False)
    for asked in (dtype, torch.float32, torch.bfloat16):
        assert torch.equal(stored.dense(asked), fresh.dense(asked))
    assert stored.dense(torch.float32).data_ptr() == stored.dense(torch.float32).data_ptr()
    again = fresh.dense(torch.float32)
    assert again.data_ptr() != fresh.dense(torch.float32).data_ptr()


def test_a_stored_dense_weight_replaces_the_nf4_blocks() -> None:
    model = make_layer(four_bit=True)
    layer: Any = model.get_submodule("base_model.model.proj")
    assert layer.get_base_layer().weight.numel() == IN * OUT // 2  # two weights a byte
    fuse_lora_layers(model, keep_dense=True)
    expected, _ = run(model)
    base = layer.get_base_layer()
    assert type(base) is nn.Linear and base.weight.shape == (OUT, IN) and not base.weight.requires_grad
    assert torch.equal(run(model)[0], expected)


def test_training_with_stored_dense_weights_is_bit_identical() -> None:
    model = make_layer(four_bit=True)
    other = deepcopy(model)
    fuse_lora_layers(model, keep_dense=True)
    fuse_lora_layers(other, keep_dense=False)
    for _ in range(2):
        assert torch.equal(flat([run(model)[0], *run(model)[1]]), flat([run(other)[0], *run(other)[1]]))


def test_a_dense_weight_of_the_right_dtype_is_not_copied() -> None:
    layer = nn.Linear(IN, OUT, bias=False)
    assert FrozenWeight(layer, keep_dense=False).dense(torch.float32).data_ptr() == layer.weight.data_ptr()


def test_bf16_products_in_fp32_arithmetic_equal_native_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = make_input(torch.bfloat16).detach()[0], OneLayer(four_bit=False, bias=False, dtype=torch.bfloat16).proj
    matrix = weight.weight
    assert isinstance(matrix, Tensor)
    found = []
    for has_units in (False, True):
        monkeypatch.setattr(device_module, "cpu_has_bf16_units", lambda units=has_units: units)
        y = product(x, matrix)
        found.append((y, product_transposed(y, matrix)))
        assert y.dtype == torch.bfloat16
    for emulated, native in zip(*found, strict=True):  # each rounded once to bf16's eight bits
        torch.testing.assert_close(emulated, native, rtol=2**-7, atol=2**-9)


def test_bf16_layer_in_fp32_arithmetic_equals_the_native_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_layer(four_bit=True, dtype=torch.bfloat16)
    fuse_lora_layers(model, keep_dense=False)
    found = []
    for has_units in (False, True):
        monkeypatch.setattr(device_module, "cpu_has_bf16_units", lambda units=has_units: units)
        y, gradients = run(model, torch.bfloat16)
        assert y.dtype == gradients[0].dtype == torch.bfloat16
        assert gradients[1].dtype == gradients[2].dtype == torch.float32
        found.append([y, *gradients])
    for emulated, native in zip(*found, strict=True):
        assert relative(emulated, native) < 0.01
