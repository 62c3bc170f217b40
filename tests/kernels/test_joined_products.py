"""Projections of one input computed together: the same gradient, and a dropout mask of its own for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import tiny_model
from torch import Tensor, nn
from torch.nn.functional import linear
from windows import NO_DROPOUT, make_run, make_window, plain_peft, randomise_adapter, reference_gradient, relative

from medsum_core import device as device_module
from medsum_core.kernels import FAST_MODEL_TYPES
from medsum_core.kernels.layers import apply_fast_layers, recompute_activations
from medsum_core.kernels.layers.adapter_copies import AdapterCopies
from medsum_core.kernels.layers.dropout import DroppedElements, draw_seeds
from medsum_core.kernels.layers.joined_products import JoinedProducts, draw_products, join_projections
from medsum_core.kernels.layers.lora_linear import fuse_lora_layers
from medsum_core.model.lora import LoraSettings, attach_lora
from train_loop import train_step

SIZE, RATE = 64, 0.3
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_the_gradient_of_a_window_equals_that_over_full_logits(kind: str) -> None:
    model = attach_lora(tiny_model(kind).requires_grad_(False), NO_DROPOUT, base_name="tiny")
    apply_fast_layers(model, keep_dense=False, fewer_launches=True)
    randomise_adapter(model)
    assert sum(getattr(module.forward, "shared_input", None) is not None for module in model.modules()) >= 5
    window = make_window(6)
    loss, expected = reference_gradient(plain_peft(tiny_model(kind), model), window)
    run = make_run(model, pack_tokens=96)
    assert train_step(run, window, learning_rate=0.0).loss == pytest.approx(loss, rel=1e-5)
    assert relative(run.optimizer.gradients, expected) <= 1e-5  # type: ignore[attr-defined]


def test_recomputed_layers_have_the_masks_of_the_forward_pass() -> None:
    gradients = []
    for recomputes in (False, True):
        model = attach_lora(tiny_model("gemma").requires_grad_(False), LoraSettings(dropout=RATE), base_name="tiny")
        apply_fast_layers(model, keep_dense=False, fewer_launches=True)
        randomise_adapter(model)
        if recomputes:
            recompute_activations(model)
        run = make_run(model, pack_tokens=96)
        torch.manual_seed(3)
        train_step(run, make_window(4), learning_rate=0.0)
        gradients.append(run.optimizer.gradients)  # type: ignore[attr-defined]
    assert relative(*gradients) <= 1e-6


def make(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, list[Any]]:
    """A model of two joined projections of different widths, one with a bias, and their fused layers."""
    torch.manual_seed(0)
    base = nn.ModuleDict({"wide": nn.Linear(SIZE, 96, bias=False), "narrow": nn.Linear(SIZE, 32)}).to(dtype)
    config = LoraConfig(r=8, lora_alpha=24, target_modules=["wide", "narrow"], lora_dropout=RATE, **settings)
    model: Any = get_peft_model(base.requires_grad_(False), config)  # type: ignore[arg-type]
    randomise_adapter(model).train()
    fuse_lora_layers(model, keep_dense=False)
    projections = [model.base_model.model[name] for name in ("wide", "narrow")]
    join_projections(projections)
    return model, [projection.forward for projection in projections]


def with_gradients(outputs: list[Tensor], weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """The outputs, and what autograd gives for x and the weights from `probes`."""
    return [*outputs, *torch.autograd.grad(outputs, [x, *weights], [probe.to(x.dtype) for probe in probes()])]


def probes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, 7, width, generator=generator) for width in (96, 32)]


def make_input(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 7, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def joined(layers: list[Any], weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """The same as `with_gradients`, computed by `JoinedProducts`."""
    products = draw_products(layers)
    assert isinstance(products, JoinedProducts)
    outputs, saved = products.forward(x, weights)
    dys = [probe.to(x.dtype) for probe in probes()]
    dx, dweights = products.backward(dys, x, saved, weights, needs_dx=True)
    assert dx is not None
    return [*outputs, dx.view(x.shape), *dweights]


def test_each_projection_has_a_mask_of_its_own_forward_and_backward() -> None:
    _, layers = make()
    weights = [weight for layer in layers for weight in layer.adapter]
    torch.manual_seed(11)
    found = joined(layers, weights, make_input())
    torch.manual_seed(11)
    seed, _ = draw_seeds(2)
    x = make_input().requires_grad_()
    masks = DroppedElements(2 * x.numel(), rate=RATE, seed=seed, device=CPU).without(torch.ones(2, *x.shape))
    assert not torch.equal(masks[0], masks[1])
    outputs = []
    for layer, mask in zip(layers, masks, strict=True):
        base, (lora_A, lora_B) = layer.layer.get_base_layer(), layer.adapter
        outputs.append(base(x) + 24 / 8 * linear(linear(x * mask / (1 - RATE), lora_A), lora_B))
    for one, other in zip(found, with_gradients(outputs, weights, x), strict=True):
        assert relative(one, other) <= 1e-5


def test_stored_16_bit_copies_are_bit_identical_to_converting_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cpu_has_bf16_units", lambda: True)
    model, layers = make(torch.bfloat16)
    weights, x, results = [weight for layer in layers for weight in layer.adapter], make_input(torch.bfloat16), []
    copies = AdapterCopies(model, torch.bfloat16)
    torch.manual_seed(11)
    with copies.current():
        results.append(joined(layers, weights, x))
        assert draw_products(layers).copies_nrK is not None  # type: ignore[attr-defined]
    torch.manual_seed(11)
    results.append(joined(layers, weights, x))
    assert draw_products(layers).copies_nrK is None  # type: ignore[attr-defined]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert all(gradient.dtype == torch.float32 for gradient in results[0][3:])


def test_adapters_of_different_ranks_are_computed_in_turn() -> None:
    _, layers = make(rank_pattern={"narrow": 4}, alpha_pattern={"narrow": 12})
    assert not isinstance(draw_products(layers), JoinedProducts)


@pytest.mark.parametrize("changed", ["factor", "rate", "mode"])
def test_projections_whose_settings_differ_later_are_computed_in_turn(changed: str) -> None:
    _, layers = make()
    assert isinstance(draw_products(layers), JoinedProducts)
    narrow = layers[1].layer
    if changed == "factor":
        narrow.scaling["default"] *= 3
    elif changed == "rate":
        narrow.lora_dropout["default"].p = 0.5
    else:
        narrow.eval()
    assert not isinstance(draw_products(layers), JoinedProducts)
