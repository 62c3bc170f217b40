"""The base stays frozen and differentiable; exactly the adapter trains, in fp32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel
from windows import NO_DROPOUT, make_run, make_window, randomise_adapter, relative, tuned

from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.generation.generate import generate
from medsum_core.kernels import choose
from medsum_core.kernels.layers import recompute_activations
from medsum_core.model import base as base_module
from medsum_core.model.adapter_files import (
    adapter_config,
    adapter_tensors,
    load_adapter,
    load_adapter_tensors,
    save_adapter,
)
from medsum_core.model.base import load_base, load_config, load_tokenizer
from medsum_core.model.forward import autocast, head_softcap, head_weight, no_adapter_casts
from medsum_core.model.lora import LoraSettings, attach_lora, check_only_adapter_trains, trainable_parameters
from medsum_core.training.optimizer import lr_at
from medsum_core.training.validation import evaluate_loss
from train_loop import train_step

FEW_TARGETS = LoraSettings(
    r=16, dropout=0.0, target_modules=("o_proj", "down_proj")
)  # the other layers keep bitsandbytes' forward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def window() -> list[Example]:
    return make_window(5)


def load_nf4(folder: Path) -> PreTrainedModel:
    return load_base(str(folder), precision="fp32", load_in_4bit=True)


def four_bit_layers(model: nn.Module) -> list[Linear4bit]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def base_hash(model: nn.Module) -> str:
    """sha256 over every frozen weight, 4-bit ones dequantised."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        state = getattr(parameter, "quant_state", None)
        dense = parameter if state is None else bnb.functional.dequantize_4bit(parameter.data, state)
        digest.update(dense.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def gradient(model: PeftModel, window: list[Example]) -> list[Tensor]:
    torch.manual_seed(3)
    run: Any = make_run(model, pack_tokens=64)
    train_step(run, window, learning_rate=0.0)
    return run.optimizer.gradients


def evaluate(model: PeftModel, window: list[Example]) -> None:
    run = make_run(model)
    evaluate_loss(
        model, window, accelerator=run.accelerator, kernels=run.kernels, attention=run.attention, **run.collate_settings
    )


def generate_notes(model: PeftModel, window: list[Example]) -> None:
    prompts = [row.input_ids[: row.num_prompt_tokens] for row in window]
    for num_beams in (1, 2):
        generate(model, prompts, stop_token_ids=(1,), max_new_tokens=4, num_beams=num_beams, batch_size=2)


def plain_forward(model: PeftModel, window: list[Example]) -> None:
    """transformers' own forward and `generate`, in evaluation mode."""
    with torch.no_grad():
        model.eval()
        model(input_ids=torch.tensor([window[0].input_ids]))
        model.generate(input_ids=torch.tensor([window[0].input_ids]), max_new_tokens=3, do_sample=False)
        model.train()


def save_and_load(model: PeftModel, window: list[Example], folder: Path) -> None:
    save_adapter(folder, adapter_tensors(model), adapter_config(model))
    model.state_dict()
    load_adapter_tensors(model, adapter_tensors(model))


@pytest.mark.parametrize("settings", [NO_DROPOUT, FEW_TARGETS], ids=["all", "few"])
@pytest.mark.parametrize("four_bit", [False, True])
def test_evaluating_generating_and_saving_change_neither_base_nor_gradient(
    four_bit: bool, settings: LoraSettings, folder: Path, window: list[Example], tmp_path: Path
) -> None:
    base = load_nf4(folder) if four_bit else load_base(str(folder), precision="fp32")
    model = tuned(base, settings)
    bits, expected = base_hash(model), gradient(model, window)
    actions: list[Callable[[PeftModel, list[Example]], None]] = [
        evaluate,
        generate_notes,
        plain_forward,
        lambda model, rows: save_and_load(model, rows, tmp_path),
    ]
    for act in actions:
        act(model, window)
        assert base_hash(model) == bits
        assert all(module.training for module in model.modules())
        for found, reference in zip(gradient(model, window), expected, strict=True):
            assert torch.equal(found, reference)


@pytest.fixture
def packing_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AVX512-BF16, as bitsandbytes sees one: evaluation repacks weights for a kernel without a backward."""

    def pack(weight: Tensor, state: Any) -> tuple[Tensor, Any]:
        state.packing_format_for_cpu = True
        return weight, state

    def kernel(a: Tensor, b: Tensor, out: Tensor | None = None, state: Any = None) -> Tensor:
        with torch.no_grad():
            return nn.functional.linear(a, bnb.functional.dequantize_4bit(b, state).to(a.dtype))

    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    monkeypatch.setattr("bitsandbytes.nn.modules._convert_weight_packed_for_cpu", pack)
    monkeypatch.setattr("bitsandbytes.nn.modules._convert_weight_packed_for_cpu_inverse", lambda *both: both)
    monkeypatch.setattr("bitsandbytes.functional.gemv_4bit", kernel)


@pytest.mark.usefixtures("packing_cpu")
@pytest.mark.parametrize("guarded", [True, False])
def test_the_gradient_survives_an_evaluation_where_bitsandbytes_repacks_weights(
    guarded: bool, folder: Path, window: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not guarded:  # without the guard the gradient must change, else this test shows nothing
        monkeypatch.setattr(base_module, "keep_4bit_differentiable", lambda model: None)
    base = load_nf4(folder)
    assert {layer.support_avx512bf16_for_cpu for layer in four_bit_layers(base)} == {not guarded}
    model = tuned(base, FEW_TARGETS)
    before = gradient(model, window)
    evaluate(model, window)
    error = relative(gradient(model, window), before)
    assert error == 0 if guarded else error > 0.1


def test_each_nf4_layer_has_the_quantisation_settings(folder: Path) -> None:
    base = load_nf4(folder)
    layers = four_bit_layers(base)
    assert len(layers) == 2 * 7
    for layer in layers:
        state: Any = layer.weight.quant_state  # type: ignore[attr-defined]
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
        assert layer.compute_dtype == torch.float32 and layer.weight.dtype == torch.uint8
        assert layer.support_avx512bf16_for_cpu is False
    assert not isinstance(base.lm_head, Linear4bit)
    others = [p for p in base.parameters() if getattr(p, "quant_state", None) is None]
    assert {parameter.dtype for parameter in others} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in base.parameters()) and not base.training


@pytest.mark.parametrize("precision,dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("four_bit", [False, True])
def test_the_base_keeps_its_precision_and_tied_head_and_the_adapter_is_fp32(
    four_bit: bool, precision: str, dtype: torch.dtype, folder: Path
) -> None:
    base = load_base(str(folder), precision=precision, load_in_4bit=four_bit)
    if four_bit:
        assert {layer.compute_dtype for layer in four_bit_layers(base)} == {dtype}
    model = attach_lora(base, NO_DROPOUT, base_name="tiny")
    assert head_weight(model).data_ptr() == base.get_parameter("model.embed_tokens.weight").data_ptr()
    for name, parameter in model.named_parameters():
        expected = torch.float32 if "lora_" in name else torch.uint8 if hasattr(parameter, "quant_state") else dtype
        assert parameter.dtype == expected, name
        assert parameter.requires_grad == ("lora_" in name), name
    assert len(trainable_parameters(model)) == 2 * 7 * 2
    assert model.peft_config["default"].base_model_name_or_path == "tiny"


def test_another_trainable_parameter_or_a_16_bit_adapter_is_an_error() -> None:
    model = tuned(tiny_model())
    check_only_adapter_trains(model)
    norm: Any = model.get_submodule("base_model.model.model.norm")
    norm.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="exactly the adapter"):
        check_only_adapter_trains(model)
    norm.weight.requires_grad_(False)
    parameter = trainable_parameters(model)[0][1]
    parameter.data = parameter.data.bfloat16()
    with pytest.raises(RuntimeError, match="fp32"):
        check_only_adapter_trains(model)
    with pytest.raises(RuntimeError, match="nothing trains"):
        check_only_adapter_trains(tuned(tiny_model()).requires_grad_(False))


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "adamw_torch"])
def test_every_lora_tensor_changes_at_the_smallest_learning_rate(optim: str, window: list[Example]) -> None:
    model = tuned(tiny_model())
    bits = base_hash(model)
    before = [parameter.detach().clone() for _, parameter in trainable_parameters(model)]
    smallest_rate = lr_at(74, schedule="linear", peak=2e-4, warmup_steps=0, num_steps=75)
    stats = train_step(make_run(model, optim=optim, max_grad_norm=1.0), window, learning_rate=smallest_rate)
    assert not stats.skipped and stats.grad_norm > 0
    for (name, parameter), former in zip(trainable_parameters(model), before, strict=True):
        assert (parameter != former).float().mean() > 0.98, name
    assert base_hash(model) == bits


def test_a_fresh_adapter_changes_nothing_and_both_its_matrices_get_gradients(window: list[Example]) -> None:
    base = tiny_model()
    torch.manual_seed(0)
    model = attach_lora(base, NO_DROPOUT, base_name="tiny")
    first = dict(zip([name for name, _ in trainable_parameters(model)], gradient(model, window), strict=True))
    for name, tensor in first.items():  # B is zero: A's gradient is zero until B has moved
        assert bool(tensor.any()) == ("lora_B" in name), name
    train_step(make_run(model, optim="adamw_torch"), window, learning_rate=1e-3)
    assert all(bool(tensor.any()) for tensor in gradient(model, window))


@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("use_dora", [False, True])
def test_checkpointing_activations_changes_no_gradient(use_dora: bool, dropout: float, window: list[Example]) -> None:
    model = tuned(tiny_model(), LoraSettings(r=16, dropout=dropout, use_dora=use_dora))
    expected = gradient(model, window)
    recomputed: list[int] = []
    layer: Any = model.get_submodule("base_model.model.model.layers.0.self_attn.o_proj")
    layer.register_forward_hook(lambda *_: recomputed.append(1))
    recompute_activations(model)
    found = gradient(model, window)
    assert relative(found, expected) <= 1e-6
    assert all(bool(tensor.any()) for tensor in found)
    assert len(recomputed) == 2 * 2  # two packed micro-batches, each layer run twice
    embedding = model.get_input_embeddings()
    assert not embedding._forward_hooks  # checkpointing here needs no gradient of the inputs


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_a_family_that_cannot_be_recomputed_is_refused(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned(tiny_model(), kernels=kernels)
    monkeypatch.setattr(type(model.get_base_model()), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match=r"--gradient_checkpointing: .* gemma; use off"):
        choose(kernels).recompute(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_adapters_input_has_the_dtype_of_the_base(dtype: torch.dtype) -> None:
    model, found = tuned(tiny_model().to(dtype), kernels="reference"), set()
    adapter: Any = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default")
    adapter.register_forward_pre_hook(lambda _, inputs: found.add(inputs[0].dtype))
    with no_adapter_casts(model), autocast(model):
        model(torch.tensor([[2, 3, 4]]))
    assert adapter.weight.dtype == torch.float32 and found == {dtype}


def test_dropout_depends_on_the_seed(window: list[Example]) -> None:
    model = tuned(tiny_model(), LoraSettings(r=16, dropout=0.05))
    expected = gradient(model, window)
    run: Any = make_run(model, pack_tokens=64)
    torch.manual_seed(4)
    train_step(run, window, learning_rate=0.0)
    assert relative(run.optimizer.gradients, expected) > 1e-3


@pytest.mark.parametrize("targets", [("q_proj", "qkv_proj"), ("lm_head",), ("norm",), ("layers.0.q_proj",)])
def test_a_target_that_matches_nothing_is_bad_input(targets: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="this model has down_proj"):
        attach_lora(tiny_model(), LoraSettings(target_modules=targets), base_name="tiny")


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "~/no-such-folder", "../nothing"])
def test_a_missing_folder_is_not_looked_up_on_a_hub(name: str) -> None:
    for load in (load_config, load_tokenizer):
        with pytest.raises(InputError, match="no folder"):
            load(name)


def test_an_incomplete_folder_and_an_offline_miss_are_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_base(str(tmp_path), precision="fp32")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (
        tmp_path / "pytorch_model.bin"
    ).mkdir()  # opening it would fail: a format that can carry code is refused by its name
    with pytest.raises(InputError, match=r"only pytorch_model\.bin, a format that can run code"):
        load_base(str(tmp_path), precision="fp32")
    with pytest.raises(InputError, match="--offline"):
        load_config("someone/no-such-model-here", offline=True)


def test_head_with_an_adapter_or_a_bias_is_refused_and_its_cap_is_read() -> None:
    model = tuned(tiny_model("gemma2"))
    assert head_softcap(model) == 30.0
    assert head_softcap(tiny_model()) is None
    base = tiny_model()
    base.set_output_embeddings(nn.Linear(256, 512, bias=True))
    untied = LoraConfig(target_modules=["lm_head"], ensure_weight_tying=True)  # else PEFT warns
    adapted = get_peft_model(tiny_model(), untied)
    for refused in (base, adapted):
        with pytest.raises(InputError, match="head"):
            head_weight(refused)


def test_loading_an_adapter_leaves_a_4_bit_base_unchanged(folder: Path, tmp_path: Path) -> None:
    model = tuned(load_nf4(folder))
    bits = base_hash(model)
    save_adapter(tmp_path, adapter_tensors(model), adapter_config(model))
    again = load_adapter(load_nf4(folder), tmp_path, base_name="tiny")
    assert base_hash(again) == bits
    choose("fast").apply(again, keep_dense=True)
    again.requires_grad_(False)
    for name, parameter in again.named_parameters():
        parameter.requires_grad_("lora_" in name)
    window = make_window(3)
    assert relative(gradient(again.train(), window), gradient(model, window)) <= 1e-6
    randomise_adapter(again, seed=6)
    assert relative(gradient(again, window), gradient(model, window)) > 0.1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells which files are mapped")
def test_no_weight_of_a_quantised_base_is_in_a_mapped_file(folder: Path) -> None:
    base = load_nf4(folder)
    assert head_weight(base).data_ptr() == base.get_input_embeddings().weight.data_ptr()  # still tied
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    mapped = [range(*(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]
    inside = [name for name, weight in base.named_parameters() if any(weight.data_ptr() in span for span in mapped)]
    assert inside == []
