"""Weights that are not the model's own are refused by name, in fp32 and NF4; so are absent files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_model, tiny_tokenizer
from torch import Tensor

from medsum_core.errors import MAX_REASON, InputError
from medsum_core.model.base import load_base, load_config, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(load: Callable[..., object], folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(str(folder), **options)
    message = str(caught.value)
    assert message.count("\n") == 0 and len(message) < 900
    return message.replace(str(folder), "FOLDER")


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], tuple[str, ...]]] = {
    "another prefix": (
        lambda tensors: {f"other.{name}": tensor for name, tensor in tensors.items()},
        ("21 missing (lm_head.weight, model.embed_tokens.weight, model.layers.0.inp", "20 unexpected (other.model."),
    ),
    "a missing layer": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != LAYER},
        (f"1 missing ({LAYER})",),
    ),
    "another shape": (
        lambda tensors: tensors | {LAYER: torch.zeros(64, 256)},
        (f"1 of another shape ({LAYER} (64, 256) instead of (512, 256))",),
    ),
    "an extra tensor": (
        lambda tensors: tensors | {"model.layers.1.mlp.extra.weight": torch.zeros(64, 256)},
        ("1 unexpected (model.layers.1.mlp.extra.weight)",),
    ),
}


@pytest.mark.parametrize("in_4bit", [False, True], ids=["fp32", "NF4"])
@pytest.mark.parametrize("change,named", CHANGES.values(), ids=list(CHANGES))
def test_weights_of_another_model_are_named_and_counted(
    folder: Path, change: Callable[..., Any], named: tuple[str, ...], in_4bit: bool
) -> None:
    change_weights(folder, change)
    message = refusal(load_base, folder, precision="fp32", load_in_4bit=in_4bit)
    assert "FOLDER: its weights are not those of LlamaForCausalLM" in message
    assert all(words in message for words in named), message


@pytest.mark.parametrize("in_4bit", [False, True], ids=["fp32", "NF4"])
def test_weights_that_a_text_model_does_not_use_are_allowed(folder: Path, in_4bit: bool) -> None:
    """A saved copy of a tied head, constants of old versions, the tower of a multimodal class."""
    unused = ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.vision_tower.encoder.q.weight")
    change_weights(folder, lambda tensors: tensors | {name: torch.zeros(512, 256) for name in unused})
    load_base(str(folder), precision="fp32", load_in_4bit=in_4bit)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_refused_as_such(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    load = {"config.json": load_config, "tokenizer.json": load_tokenizer}.get(name, load_base)
    options = {"precision": "fp32"} if load is load_base else {}
    assert f"FOLDER: {name} is a git-lfs pointer" in refusal(load, folder, **options)


def test_truncated_weights_are_refused_as_such(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    message = refusal(load_base, folder, precision="fp32")
    assert "model.safetensors can't be read as safetensors, is it cut short?" in message


def test_absent_shards_of_the_index_are_named(folder: Path) -> None:
    names = [f"model-0000{number}-of-00009.safetensors" for number in range(1, 6)]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    assert f"5 files of weights are absent ({names[0]}, {names[1]}, {names[2]}, ...)" in refusal(
        load_base, folder, precision="fp32"
    )
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "model.safetensors.index.json is no index of weights" in refusal(load_base, folder, precision="fp32")


@pytest.mark.parametrize("kind", ["gemma", "qwen2"])
def test_an_absent_tokenizer_is_refused_as_such(folder: Path, kind: str) -> None:
    """For some families transformers makes an empty one, which tokenizes every text to nothing."""
    change_config(folder, model_type=kind)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "there is no tokenizer in it" in refusal(load_tokenizer, folder)
    (folder / "added_tokens.json").write_text("{}")
    assert "entries and no words; are the tokenizer's files there?" in refusal(load_tokenizer, folder)


CONFIGS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "is not a valid JSON file"),
    "an unknown type": ('{"model_type": "nonesuch"}', "has model type `nonesuch` but Transformers does not recognize"),
    "a value of another kind": ('{"model_type": "llama", "vocab_size": "x"}', "'vocab_size'"),
    "an unknown function": ('{"model_type": "llama", "hidden_act": "nonesuch", "vocab_size": 8}', "nonesuch"),
    "no causal model": ('{"model_type": "t5"}', "t5 is no causal language model"),
    "another quantisation": (
        '{"model_type": "llama", "vocab_size": 8, "quantization_config": {"quant_method": "gptq", "bits": 4}}',
        "its files are quantised (gptq)",
    ),
}


@pytest.mark.parametrize("text,cause", CONFIGS.values(), ids=list(CONFIGS))
def test_the_cause_is_the_librarys_error_message(folder: Path, text: str, cause: str) -> None:
    (folder / "config.json").write_text(text)
    message = refusal(load_base, folder, precision="fp32")
    assert cause in message
    assert len(message) < 2 * MAX_REASON + 60
