"""Products with packed weights and joined projections equal those of the layers, which stay unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import tiny_model
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from medsum_core.generation.generate import generate
from medsum_core.kernels.decoding import decoder_layers, packed_weights
from medsum_core.kernels.decoding.packed_weights import Projection, block_products, packed_product, packed_product_times
from medsum_core.kernels.layers import apply_fast_layers
from medsum_core.model.lora import LoraSettings, attach_lora

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.3}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=BOUNDS[found.dtype])


def needs_units(dtype: torch.dtype) -> None:
    if not packed_weights.can_pack(torch.device("cpu"), dtype):
        pytest.skip("this CPU has no fast products of this dtype")


@pytest.mark.parametrize("num_rows", [1, 2, 8, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_equal_those_of_a_linear_layer(num_rows: int, dtype: torch.dtype) -> None:
    needs_units(dtype)
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((num_rows, 64), (192, 64), (192,)))
    expected = linear(x.double(), weight.double(), bias.double())
    close(packed_product(weight, bias)(x), expected)
    close(packed_product(weight, bias, activation="gelu", algorithm="tanh")(x), gelu(expected, approximate="tanh"))
    other = torch.rand(num_rows, 192).to(dtype)
    close(packed_product_times(weight, bias)(x, other), expected * other)
    close(torch.cat([part(x) for part in block_products(weight, 100)], -1), expected - bias.double())


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("packed", [None, torch.float32])
@pytest.mark.parametrize("fused", [False, True])
def test_a_projection_concatenates_the_outputs_of_its_layers(fused: bool, packed: Any, disabled: bool) -> None:
    names = ("q_proj", "k_proj")
    if fused:
        settings = LoraSettings(r=4, dropout=0.0, target_modules=names)
        model: Any = attach_lora(tiny_model(), settings, base_name="")
        apply_fast_layers(model, keep_dense=False)
    else:
        model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=list(names)))
    model.eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = torch.randn(5, 256)
    with torch.no_grad():
        base = torch.cat([linear(x, packed_weights.linear_of(layer).weight) for layer in layers], -1)
        if disabled:
            with model.disable_adapter():
                close(Projection(layers, packed)(x), base)
            return
        found = Projection(layers, packed)(x)
        close(found, torch.cat([layer(x) for layer in layers], -1))
        assert (found[:, :320] - base[:, :320]).abs().max() > 0.1  # the adapter takes part


@pytest.mark.parametrize("num_beams", [1, 2])
def test_without_memory_for_packed_copies_the_layers_themselves_run(
    num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gemma3_text", tie_word_embeddings=False)
    options: dict[str, Any] = {"stop_token_ids": [1], "max_new_tokens": 8, "num_beams": num_beams}
    expected = generate(model, [[2, 9, 30], [2, 17]], **options)
    monkeypatch.setattr("medsum_core.kernels.decoding.packed_weights.fits", lambda num_bytes, device: False)
    monkeypatch.setattr("medsum_core.kernels.decoding.decoder_layers.fits", lambda num_bytes, device: False)
    monkeypatch.setattr(
        "medsum_core.kernels.decoding.packed_weights._pack", lambda weight: pytest.fail("nothing may be packed")
    )
    assert [note.token_ids for note in generate(model, [[2, 9, 30], [2, 17]], **options)] == [
        note.token_ids for note in expected
    ]


def test_the_activation_is_that_of_the_model_whatever_else_its_configuration_names() -> None:
    """Gemma 1 uses `hidden_act`; older configurations of it also have `hidden_activation`."""
    model = tiny_model("gemma", hidden_act="silu", hidden_activation="gelu_pytorch_tanh").get_decoder()
    x, mlp = torch.randn(3, 256), model.layers[0].mlp
    with torch.no_grad():
        close(decoder_layers._mlp(mlp, torch.float32)(x), mlp(x))


def test_whether_copies_fit_depends_on_the_gpu_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "find_device", lambda rank: SimpleNamespace(usable_bytes=10 * rank))
    assert [packed_weights.fits(15, torch.device("cuda", rank)) for rank in (1, 2)] == [False, True]
