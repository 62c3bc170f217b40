"""Families of models: each row of the table in examples/models.md, the check at start, and which layers are adapted."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoding_models import reference
from families import FAMILIES, Family, without_timm
from family_table import EQUAL, HEAD, LIKEWISE, ROWS, SETTINGS, STOP, make_folder, row
from packaging.version import Version
from support import tiny_config, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, BltConfig, MistralForCausalLM

import infer
from medsum_core.config.arguments import LORA_PROJECTIONS
from medsum_core.errors import InputError
from medsum_core.generation import kv_cache
from medsum_core.generation.generate import generate
from medsum_core.kernels import choose
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter, save_adapter
from medsum_core.model.attention import OWN_ATTENTION
from medsum_core.model.base import load_base
from medsum_core.model.families import CACHED_MODEL_TYPES, adapter_targets, attention_heads
from medsum_core.model.lora import LoraSettings, attach_lora, fit_to, trainable_parameters
from medsum_core.training.family_check import check_family
from medsum_core.training.memory import measure_model

PAGE = Path(__file__).resolve().parents[2] / "examples" / "models.md"
REFUSED_BEFORE = {"mamba2": "5.24"}  # the version of transformers from which beams can reorder its state
BY_NAME = {family.name: family for family in FAMILIES}


def table() -> dict[str, str]:
    """The table's rows by their first cell, without the head."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    assert rows.pop("family") == f"| {' | '.join(HEAD)} |"
    return rows


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_loss_gradient_and_notes_are_transformers_own_or_the_family_is_refused(family: Family, tmp_path: Path) -> None:
    """`python tests/helpers/family_table.py` prints the table anew, where it is out of date."""
    found = row(family, tmp_path)
    later = REFUSED_BEFORE.get(family.name)
    if later is None or Version(transformers.__version__) < Version(later):
        assert found == table()[family.name]
    else:
        assert EQUAL in found
    assert all(cell in (EQUAL, LIKEWISE) or cell.startswith("refused: ") for cell in found.split(" | ")[2:4])


def test_the_table_has_a_row_for_each_family_and_no_other() -> None:
    rows = table()
    assert rows.keys() == BY_NAME.keys()
    assert sum(row.count(f"| {EQUAL} |") > 0 for row in rows.values()) >= 25
    cached = {BY_NAME[name].text_type for name, line in rows.items() if "our cache" in line}
    assert set(CACHED_MODEL_TYPES) == cached  # every family that decodes with our cache is tested


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed, which the test needs to be absent")
def test_a_class_that_needs_an_absent_package_is_refused_naming_it(tmp_path: Path) -> None:
    config = BY_NAME["gemma3n, multimodal"].config()
    with pytest.raises(InputError, match="requires the timm library"):
        measure_model(config, SETTINGS, precision="fp32", kernels="reference")
    with without_timm():
        folder = make_folder(BY_NAME["gemma3n, multimodal"], tmp_path)
    with pytest.raises(InputError, match="requires the timm library"):
        load_base(str(folder), precision="fp32")


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    """A family that is not among the packable ones, so that `check_family` runs."""
    return make_folder(BY_NAME["mistral"], tmp_path)


def start(folder: Path) -> None:
    base = load_base(str(folder), precision="fp32")
    model = attach_lora(base, fit_to(base, SETTINGS), base_name="tiny")
    check_family(model, ROWS, kernels=choose("reference"), attention=OWN_ATTENTION)


def test_a_family_that_scales_its_logits_is_refused_with_both_losses(
    mistral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(mistral)
    plain = MistralForCausalLM.forward

    def scaled(self: Any, *args: Any, **options: Any) -> Any:
        output = plain(self, *args, **options)
        output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(MistralForCausalLM, "forward", scaled)
    with pytest.raises(InputError, match=r"loss on 2 rows is \d+\.\d{4} where the model's own is \d+\.\d{4}"):
        start(mistral)


def test_a_family_whose_notes_differ_is_refused_with_both_log_probabilities(
    mistral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = kv_cache.attend

    def without_cache(*args: Any, **options: Any) -> Any:
        return plain(*args, **{**options, "window": 1})  # a new token sees itself only

    monkeypatch.setattr(kv_cache, "attend", without_cache)
    message = r"chooses a token of log-probability -\d+\.\d{4} where this loop chooses one of -\d+\.\d{4}"
    with pytest.raises(InputError, match=message):
        start(mistral)
    with pytest.raises(InputError, match=message):  # also for a base without an adapter, when notes are written
        base = {"precision": "fp32", "load_in_4bit": False}
        infer._load_model(str(mistral), base, None, choose("reference"), False, [row.prompt_ids for row in ROWS])


@pytest.mark.parametrize("error", [TypeError, RuntimeError, AttributeError, KeyError])
def test_a_family_whose_code_fails_is_refused_with_the_reason(
    mistral: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(*args: Any, **options: Any) -> Any:
        raise error("no such thing")

    monkeypatch.setattr(MistralForCausalLM, "forward", failing)
    with pytest.raises(InputError, match=r"mistral is no tested family and can't be trained here: .*no such thing"):
        start(mistral)


def test_out_of_memory_in_the_check_is_not_reported_as_an_unsupported_family(
    mistral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **options: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(MistralForCausalLM, "forward", failing)
    with pytest.raises(RuntimeError, match="can't allocate"):
        start(mistral)


def test_a_repetition_penalty_of_the_generation_config_does_not_affect_the_check(mistral: Path) -> None:
    base = load_base(str(mistral), precision="fp32")
    assert base.generation_config is not None
    base.generation_config.repetition_penalty = 5.0
    model = attach_lora(base, fit_to(base, SETTINGS), base_name="tiny")
    check_family(model, ROWS, kernels=choose("reference"), attention=OWN_ATTENTION)
    assert base.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3"])
def test_saved_tensors_in_16_bits_take_about_half_of_those_in_fp32(name: str) -> None:
    """Also with experts, whose product is measured in bf16 (the meta device has no other), and with values narrower than keys."""
    fp32, bf16 = (
        measure_model(BY_NAME[name].config(), SETTINGS, precision=precision, kernels="reference").saved_tensors
        for precision in ("fp32", "bf16")
    )
    assert len(fp32) > 20
    assert 1.5 <= sum(fp32) / sum(bf16) <= 2.0


def test_a_model_made_of_others_is_refused_by_name_before_its_memory_is_planned() -> None:
    """`infer.py` asks for this on a GPU only, `train_loop.py` everywhere."""
    with pytest.raises(InputError, match="blt names no number of layers"):
        attention_heads(BltConfig())


def test_a_family_that_cannot_run_on_the_meta_device_gets_the_rule_of_thumb() -> None:
    config = BY_NAME["falcon"].config()
    size = measure_model(config, SETTINGS, precision="bf16", kernels="reference")
    assert size.saved_tensors == (34 * config.hidden_size * config.num_hidden_layers,)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_batched_notes_by_a_models_own_cache_are_those_of_each_prompt_alone(num_beams: int, tmp_path: Path) -> None:
    """Notes end at different times, so that others are moved to their slots and new ones start beside them."""
    model: Any = load_base(str(make_folder(BY_NAME["lfm2"], tmp_path)), precision="fp32")
    prompts, lengths = [list(row.prompt_ids[:length]) for row in ROWS for length in (3, 6, 9)], [2, 7, 4, 6, 3, 5]
    found = generate(model, prompts, stop_token_ids=(STOP,), max_new_tokens=lengths, num_beams=num_beams, batch_size=3)
    for prompt, length, note in zip(prompts, lengths, found, strict=True):
        own = reference(model, prompt, stops=(STOP,), max_new_tokens=length, num_beams=num_beams)
        assert note.token_ids == own.token_ids


# ---- which layers are adapted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text", "llama", "qwen2", "qwen3"])
def test_auto_targets_are_the_seven_projections(kind: str) -> None:
    assert adapter_targets(tiny_model(kind), ["auto"]) == LORA_PROJECTIONS
    size = measure_model(tiny_config(kind), LoraSettings(target_modules=("auto",)), precision="fp32", kernels="fast")
    assert size.targets == LORA_PROJECTIONS


def test_all_linear_leaves_out_the_head_experts_and_gates_of_one_output() -> None:
    assert set(adapter_targets(tiny_model(), ["all-linear"])) == set(LORA_PROJECTIONS)
    with torch.device("meta"):
        mixture = AutoModelForCausalLM.from_config(BY_NAME["qwen2_moe"].config())
    linear = {name.rsplit(".", 1)[-1] for name, module in mixture.named_modules() if isinstance(module, nn.Linear)}
    left_out = {"lm_head", "shared_expert_gate", "gate_proj", "up_proj", "down_proj"}
    assert linear >= left_out and linear - set(adapter_targets(mixture, ["all-linear"])) == left_out


def test_the_towers_of_a_multimodal_model_get_no_adapter_and_the_adapter_loads_again(tmp_path: Path) -> None:
    folder = make_folder(BY_NAME["gemma3, multimodal"], tmp_path / "base")
    base = load_base(str(folder), precision="fp32")
    assert any("vision_tower" in name and name.endswith("q_proj") for name, _ in base.named_modules())
    model = attach_lora(base, fit_to(base, SETTINGS), base_name="tiny")
    names = [name for name, _ in trainable_parameters(model)]
    assert names and all(".language_model." in name for name in names)
    save_adapter(tmp_path / "adapter", adapter_tensors(model), adapter_config(model))
    again = load_adapter(load_base(str(folder), precision="fp32"), tmp_path / "adapter", base_name="tiny")
    assert adapter_tensors(again).keys() == adapter_tensors(model).keys()


def test_an_adapter_with_layers_on_a_tower_still_loads(tmp_path: Path) -> None:
    """Adapters of earlier versions have no `exclude_modules`."""
    folder = make_folder(BY_NAME["gemma3, multimodal"], tmp_path / "base")
    settings = LoraSettings(r=4, dropout=0.0, target_modules=("q_proj",))
    model = attach_lora(load_base(str(folder), precision="fp32"), settings, base_name="tiny")
    assert any("vision_tower" in name for name in adapter_tensors(model))
    save_adapter(tmp_path / "adapter", adapter_tensors(model), adapter_config(model))
    again = load_adapter(load_base(str(folder), precision="fp32"), tmp_path / "adapter", base_name="tiny")
    assert adapter_tensors(again).keys() == adapter_tensors(model).keys()


@pytest.mark.parametrize("pattern", [r"(a+)+$", ["q_proj"], r"(.*\.)?((a|a)+)\..*", 7])
def test_a_pattern_of_an_untrusted_adapter_is_refused(pattern: Any, tmp_path: Path) -> None:
    model = attach_lora(tiny_model(), LoraSettings(r=4, dropout=0.0), base_name="tiny")
    config = adapter_config(model) | {"exclude_modules": pattern}
    save_adapter(tmp_path, adapter_tensors(model), config)
    with pytest.raises(InputError, match="exclude_modules"):
        load_adapter(tiny_model(), tmp_path, base_name="tiny")


def test_target_names_of_experts_are_refused(tmp_path: Path) -> None:
    """PEFT would adapt their stacked weights, for which it has no dropout and this project no loading."""
    base = load_base(str(make_folder(BY_NAME["deepseek_v3"], tmp_path)), precision="fp32")
    with pytest.raises(InputError, match="gate_proj matches no linear layer that takes an adapter"):
        fit_to(base, LoraSettings(target_modules=("o_proj", "gate_proj")))
