"""Merging: the files equal base and adapter up to rounding and load in plain transformers, or nothing is left."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from support import section_parts, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from medsum_core.data.prompt import build_renderer
from medsum_core.errors import InputError
from medsum_core.generation.generate import generate
from medsum_core.merge import __main__ as command
from medsum_core.merge.__main__ import main
from medsum_core.merge.fold import fold, save_if_equal
from medsum_core.merge.parity import Parity, compare_logits, note_logits
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter, save_adapter
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.lora import LoraSettings, attach_lora
from medsum_core.process import run_as_script

DIALOGUE = "Doctor: Any fever?\nPatient: No."
PROMPTS = [[2, 40, 41, 42, 43], [2, 60, 61]]


def adapted(base: Path, run: Path, *, precision: str = "bf16", load_in_4bit: bool = False) -> PeftModel:
    loaded = load_base(str(base), precision=precision, load_in_4bit=load_in_4bit)
    return load_adapter(loaded, run / "adapter", base_name=str(base))


def tuned(base: Path, settings: LoraSettings) -> PeftModel:
    model = attach_lora(load_base(str(base), precision="bf16"), settings, base_name=str(base))
    chance = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=chance)
    model.requires_grad_(False)
    return model.eval()


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_every_merged_projection_is_the_fp32_sum_rounded_once(base: Path, run: Path) -> None:
    before = weights(load_base(str(base), precision="bf16"))
    model = adapted(base, run)
    scaling = model.peft_config["default"].lora_alpha / model.peft_config["default"].r  # type: ignore[attr-defined]
    lora = {name: tensor.float() for name, tensor in adapter_tensors(model).items()}
    after = weights(fold(model))
    assert after.keys() == before.keys()
    num_merged = 0
    for name, weight in after.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before[name]
        if f"{stem}.lora_A.weight" in lora:
            delta = scaling * (lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"])
            expected = (before[name].float() + delta).to(torch.bfloat16)
            num_merged += 1
            assert not torch.equal(weight, before[name])
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, expected), name
    assert num_merged == 7 * 2  # the projections of both layers, and nothing else


@pytest.mark.parametrize("use_dora", [False, True], ids=["plain", "dora"])
def test_merged_weights_equal_those_of_pefts_merge_and_unload(tmp_path: Path, base: Path, use_dora: bool) -> None:
    model = tuned(base, LoraSettings(r=4, dropout=0.0, use_dora=use_dora, target_modules=("q_proj", "down_proj")))
    save_adapter(tmp_path, adapter_tensors(model), adapter_config(model))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    expected = weights(PeftModel.from_pretrained(plain, tmp_path).merge_and_unload())
    found = weights(fold(model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def mild_run(run: Path, base: Path, tmp_path: Path) -> Path:
    """The run with a smaller adapter: rounding a large random one would change a random model's logits too much."""
    folder = tmp_path / "mild"
    shutil.copytree(run, folder)
    model = adapted(base, run)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.1)
    save_adapter(folder / "adapter", adapter_tensors(model), adapter_config(model))
    return folder


def test_the_command_writes_a_model_for_plain_transformers(
    mild_run: Path,
    base: Path,
    dialogues: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "merged"
    main(["--run", str(mild_run), "--output_dir", str(out), "--num_prompts", "3", "--input_file", str(dialogues)])
    printed = capsys.readouterr().out
    assert "on 3 prompts (" in printed and "largest logit difference" in printed and "greedy agreement" in printed
    assert [path.name for path in out.parent.iterdir()] == ["merged"]  # the draft is gone
    assert not list(out.glob("*.bin")) and list(out.glob("*.safetensors"))
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    renderer = build_renderer(tiny_tokenizer())
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == list(renderer.stop_token_ids) and len(renderer.stop_token_ids) == 2
    assert (
        load_tokenizer(str(out)).chat_template == renderer.tokenizer.chat_template
    )  # loading it for further training gives the base's template
    prompt = build_renderer(load_tokenizer(str(out))).prompt_ids(section_parts(DIALOGUE, "CC"))
    asked = {"section": "CC", "add_generation_prompt": True, "return_dict": False}
    assert tokenizer.apply_chat_template([{"role": "user", "content": DIALOGUE}], **asked) == prompt
    model, merged, ids = model.float(), fold(adapted(base, mild_run)).float(), torch.tensor([prompt])
    for module in merged.modules():
        vars(module).pop("forward", None)  # the fast norms round differently
    assert torch.equal(model(ids).logits, merged(ids).logits)
    written = model.generate(ids, max_new_tokens=8)[0, len(prompt) :].tolist()
    (note,) = generate(model, [prompt], stop_token_ids=renderer.stop_token_ids, max_new_tokens=8)
    assert [token for token in written if token not in renderer.stop_token_ids] == list(note.token_ids)


def test_parity_holds_for_a_right_merge_only(base: Path, run: Path) -> None:
    expected = note_logits(adapted(base, run, precision="fp32"), PROMPTS, build_renderer(tiny_tokenizer()))
    exact = compare_logits(fold(adapted(base, run, precision="fp32")), expected)
    assert exact.holds and exact.agreement == 1 and exact.largest_logit_difference < 1e-4 * exact.logit_range
    assert exact.num_prompts == 2 and exact.num_tokens == sum(len(one.logits_TV) for one in expected)
    assert not compare_logits(load_base(str(base), precision="fp32"), expected).holds
    twice = adapted(base, run, precision="fp32")
    for name, parameter in twice.named_parameters():
        if "lora_B" in name:
            parameter.mul_(2)
    assert not compare_logits(fold(twice), expected).holds
    broken = fold(adapted(base, run, precision="fp32"))
    broken.get_decoder().norm.weight.fill_(float("nan"))
    assert not compare_logits(broken, expected).holds


@pytest.mark.parametrize(
    ("difference", "same", "holds"), [(5.0, 90, True), (5.1, 100, False), (0.0, 89, False), (float("nan"), 100, False)]
)
def test_parity_needs_both_bounds(difference: float, same: int, holds: bool) -> None:
    parity = Parity(
        largest_logit_difference=difference,
        logit_range=100.0,
        num_same_tokens=same,
        num_tokens=100,
        num_prompts=4,
        arithmetic="float32",
    )
    assert parity.holds is holds


def test_a_merge_beyond_the_bounds_leaves_nothing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forget(model: PeftModel) -> PreTrainedModel:
        plain: PreTrainedModel = model.unload()
        return plain

    monkeypatch.setattr(command, "fold", forget)
    out = tmp_path / "merged"
    out.mkdir()
    assert run_as_script(lambda: main(["--run", str(run), "--output_dir", str(out), "--num_prompts", "2"])) == 1
    assert "not what base and adapter are" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out] and not any(out.iterdir())


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    renderer = build_renderer(tiny_tokenizer())
    monkeypatch.setattr(renderer.tokenizer, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        save_if_equal(tiny_model(), [], tmp_path / "out", renderer=renderer, max_new_tokens=8, text_files={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_is_bad_input_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """safetensors raises an error of its own."""

    def fail(_: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    renderer = build_renderer(tiny_tokenizer())
    with pytest.raises(InputError, match=r"--output_dir .*can't be written .*No space left"):
        save_if_equal(tiny_model(), [], tmp_path / "out", renderer=renderer, max_new_tokens=8, text_files={})
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_not_empty_is_refused(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for output in (tmp_path, kept):
        with pytest.raises(InputError, match="not an empty folder"):
            main(["--run", str(run), "--output_dir", str(output)])
    assert kept.read_text() == "mine"
    for nameless in ("", ".", "./", "/", "new/.."):
        with pytest.raises(InputError, match="names no new folder"):
            main(["--run", str(run), "--output_dir", nameless])


def test_merging_into_4_bits_is_refused(base: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="16-bit"):
        main(["--run", str(run), "--output_dir", str(tmp_path / "out"), "--load_in_4bit"])
    with pytest.raises(InputError, match="16-bit"):
        fold(adapted(base, run, precision="fp32", load_in_4bit=True))
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_and_zero_prompts_are_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="run folder"):
        main(["--run", str(tmp_path), "--output_dir", str(out)])
    with pytest.raises(InputError, match="--num_prompts 0"):
        main(["--run", str(run), "--output_dir", str(out), "--num_prompts", "0"])
    assert not out.exists()


def test_the_lock_of_a_killed_merge_is_removed(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text("whole")
    (tmp_path / ".out.lock").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        main(["--run", str(run), "--output_dir", str(output)])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
