"""A base whose files are NF4 already: the same numbers as quantising here, and merged into the dense base of `--base`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from notes_command import write
from safetensors.torch import load_file, save_file
from support import tiny_model, tiny_tokenizer
from tiny_run import flags, make_canary_inputs, metrics
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import train_loop
from medsum_core.errors import InputError
from medsum_core.merge.__main__ import main as merge
from medsum_core.model.base import load_base, load_config
from medsum_core.model.quantised import is_quantised

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in bf16, `dense`, its NF4 files as transformers writes them, `nf4`, and a run over each."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("made"))
    tiny_model(dtype=torch.bfloat16).save_pretrained(folder / "dense")
    quantised = AutoModelForCausalLM.from_pretrained(
        folder / "dense",
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
    )
    quantised.save_pretrained(folder / "nf4")
    for base, asked in (("dense", "true"), ("nf4", "false")):
        tiny_tokenizer().save_pretrained(folder / base)
        more = ["--eval_strategy", "no", "--max_steps", "2", "--load_in_4bit", asked, "--dequantize", "off"]
        argv = [*flags(folder, folder / f"run-{base}", *more), "--model_name_or_path", str(folder / base)]
        train_loop.main(argv)
    return folder


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


def merged(made: Path, run: str, out: Path, *more: str) -> dict[str, torch.Tensor]:
    merge(["--run", str(made / run), "--output_dir", str(out), "--offline", "--num_prompts", "1", *more])
    return load_file(out / WEIGHTS)


def test_an_nf4_base_is_trained_decoded_and_recorded_like_one_quantised_here(
    made: Path, dialogues: Path, tmp_path: Path
) -> None:
    saved = json.loads((made / "run-nf4" / "config.json").read_text())["settings"]["model"]
    assert saved["load_in_4bit"] is True and saved["precision"] == "fp32"
    assert losses(made / "run-nf4") == losses(made / "run-dense")
    notes = [
        write(made / f"run-{base}", dialogues, tmp_path / f"{base}-{kernels}.csv", "--kernels", kernels)
        for base, kernels in (("nf4", "fast"), ("nf4", "reference"), ("dense", "fast"))
    ]
    assert notes[0] == notes[1] == notes[2]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_nf4_base_is_loaded_in_the_requested_precision(made: Path, precision: str) -> None:
    expected = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    model = load_base(str(made / "nf4"), precision=precision)
    states = [value.quant_state for value in model.parameters() if hasattr(value, "quant_state")]
    others = [value for value in model.parameters() if not hasattr(value, "quant_state")]
    assert len(states) == 7 * 2 and {state.dtype for state in states} == {expected}
    assert len(others) == 6 and {value.dtype for value in others} == {expected}
    assert {module.compute_dtype for module in model.modules() if hasattr(module, "compute_type_is_set")} == {expected}


def test_an_nf4_base_is_merged_into_the_dense_base_of_the_flag(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"itself quantised.*--base"):
        merged(made, "run-nf4", tmp_path / "out")
    with pytest.raises(InputError, match="is in 4 bits as well"):
        merged(made, "run-nf4", tmp_path / "out", "--base", str(made / "nf4"))
    with pytest.raises(InputError, match=r"the run's own base .* is in 16 bits"):
        merged(made, "run-dense", tmp_path / "out", "--base", str(made / "dense"))
    assert not (tmp_path / "out").exists()
    found = merged(made, "run-nf4", tmp_path / "nf4", "--base", str(made / "dense"))
    assert "trained over this base in 4 bits" in capsys.readouterr().out
    expected = merged(made, "run-dense", tmp_path / "dense")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert "quantization_config" not in json.loads((tmp_path / "nf4" / "config.json").read_text())


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_merging_into_another_dense_model_is_refused(made: Path, tmp_path: Path, name: str) -> None:
    """Such as a fine-tuned one: one tensor differs by a twentieth of its size."""
    shutil.copytree(made / "dense", tmp_path / "other")
    tensors = load_file(tmp_path / "other" / WEIGHTS)
    noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    tensors[name] += (0.05 * noise * (tensors[name].float().std() + 0.1)).to(torch.bfloat16)
    save_file(tensors, tmp_path / "other" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"--base .*1 of 20 weights differ, such as {name}"):
        merged(made, "run-nf4", tmp_path / "out", "--base", str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantisation", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "fp4"),
    ],
)
def test_other_quantisations_are_refused(
    base_folder: Path, tmp_path: Path, quantisation: dict[str, object], named: str
) -> None:
    values = json.loads((base_folder / "config.json").read_text()) | {"quantization_config": quantisation}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"quantised \({named}\).*only NF4"):
        is_quantised(load_config(str(tmp_path)))
