"""Adapter files: PEFT loads those that are written here, and those that are read are treated as untrusted."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save
from support import tiny_model
from torch import Tensor
from windows import make_window, tuned

from medsum_core.config.arguments import MAX_RANK
from medsum_core.config.run_config import parse_run
from medsum_core.config.validation import LARGEST
from medsum_core.data.collator import pad_rows
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.errors import InputError
from medsum_core.model.adapter_files import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    adapter_base_name,
    adapter_config,
    adapter_hashes,
    adapter_tensors,
    load_adapter,
    load_adapter_tensors,
    save_adapter,
)
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import head_weight, hidden_states
from medsum_core.model.lora import LoraSettings, attach_lora

VARIANTS = {
    "plain": LoraSettings(r=8, dropout=0.05),
    "rslora": LoraSettings(r=8, alpha=12, dropout=0.0, use_rslora=True, target_modules=("q_proj", "v_proj")),
    "dora": LoraSettings(r=8, dropout=0.0, use_dora=True, target_modules=("q_proj",)),
    "gaussian": LoraSettings(r=8, init="gaussian", target_modules=("o_proj",)),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tuned(tiny_model(), VARIANTS["plain"])
    save_adapter(tmp_path / "adapter", adapter_tensors(model), adapter_config(model))
    return tmp_path / "adapter"


def logits(model: PeftModel) -> Tensor:
    batch = pad_rows(make_window(3), pad_token_id=0)
    with torch.no_grad(), document_attention(model):
        return hidden_states(model, batch)[batch.targets_BT != IGNORE_INDEX] @ head_weight(model).T


def load(folder: Path, base_name: str = "tiny") -> PeftModel:
    return load_adapter(tiny_model(), folder, base_name=base_name)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensor(folder: Path, change: Any) -> None:
    from safetensors.torch import save_file

    tensors = load_file(folder / WEIGHTS_NAME)
    name = sorted(tensors)[3]
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / WEIGHTS_NAME)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_peft_loads_our_files_onto_the_plain_base_with_equal_logits(variant: str, tmp_path: Path) -> None:
    model = tuned(tiny_model(), VARIANTS[variant], kernels="reference")
    save_adapter(tmp_path, adapter_tensors(model), adapter_config(model))
    expected = logits(model.eval())
    peft_model = PeftModel.from_pretrained(tiny_model(), str(tmp_path), local_files_only=True).eval()
    theirs = logits(peft_model)
    ours = logits(load(tmp_path))
    assert torch.equal(ours, expected)
    torch.testing.assert_close(theirs, expected, rtol=1e-5, atol=1e-5)
    for name, tensor in adapter_tensors(peft_model).items():
        assert torch.equal(tensor, adapter_tensors(model)[name])
    with model.disable_adapter():
        assert not torch.allclose(logits(model), expected, atol=1e-2)  # the adapter does something


def test_files_are_fp32_and_name_the_base_as_it_was_given(saved: Path) -> None:
    assert {tensor.dtype for tensor in load_file(saved / WEIGHTS_NAME).values()} == {torch.float32}
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]
    assert adapter_base_name(saved) == "tiny"
    assert json.loads((saved / CONFIG_NAME).read_text())["inference_mode"] is True


def test_a_loaded_adapter_is_frozen_and_in_evaluation_mode(saved: Path) -> None:
    model = load(saved)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_missing_folder_is_not_looked_up_on_a_hub(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", Path("google/gemma-2b-it")):
        with pytest.raises(InputError, match="no such folder"):
            load(folder)


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\x80\x04."])
def test_a_missing_or_damaged_file_is_bad_input(saved: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load(saved)


def test_files_that_can_carry_code_are_never_opened(saved: Path) -> None:
    for name in ("adapter_model.bin", "adapter_model.pt", "adapter_model.pkl"):
        (saved / name).mkdir()  # opening one fails, whatever opens it
    load(saved)
    (saved / WEIGHTS_NAME).unlink()
    with pytest.raises(InputError, match="safetensors"):
        load(saved)


def test_another_base_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="'tiny', not 'other'"):
        load(saved, base_name="other")
    with pytest.raises(InputError, match="this base needs"):
        load_adapter(tiny_model(hidden_size=128), saved, base_name="tiny")
    with pytest.raises(InputError, match="do not fit"):
        load_adapter(tiny_model(num_hidden_layers=1), saved, base_name="tiny")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    def poison(tensor: Tensor) -> Tensor:
        tensor.view(-1)[5] = value
        return tensor

    change_tensor(saved, poison)
    with pytest.raises(InputError, match="not finite"):
        load(saved)


def test_a_wrong_shape_is_refused_before_anything_is_copied(saved: Path) -> None:
    change_tensor(saved, lambda tensor: tensor[:-1].contiguous())
    with pytest.raises(InputError, match="this base needs"):
        load(saved)
    model = attach_lora(tiny_model(), VARIANTS["plain"], base_name="tiny")
    before = adapter_tensors(model)
    with pytest.raises(InputError):
        load_adapter_tensors(model, load_file(saved / WEIGHTS_NAME))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_tensors(model).items())


@pytest.mark.parametrize(
    "values",
    [
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"bias": "all"},
        {"lora_bias": True},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 2]]},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["experts.w"]},
        {"alora_invocation_tokens": [3, 4]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"fan_in_fan_out": True},
        {"use_qalora": True},
        {"eva_config": {"rho": 2.0}},
        {"an_unknown_setting": {"scale": 2}},
        {"peft_type": "IA3"},
        {"target_modules": "all-linear"},
        {"target_modules": [".*proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": []},
        {"r": 0},
        {"r": 10**9},
        {"r": True},
        {"r": "8"},
        {"lora_alpha": "32"},
        {"lora_alpha": None},
        {"lora_alpha": 0.5},
        {"lora_alpha": float("nan")},
        {"use_dora": "yes"},
        {"base_model_name_or_path": None},
    ],
    ids=lambda values: "-".join(f"{key}={value}" for key, value in values.items()),
)
def test_settings_that_are_not_plain_lora_are_refused(saved: Path, values: dict[str, Any]) -> None:
    change_config(saved, **values)
    with pytest.raises(InputError):
        load(saved)


def test_the_adapters_file_is_named_for_a_layer_that_the_base_lacks(saved: Path) -> None:
    change_config(saved, target_modules=["q_proj", "c_attn"])
    with pytest.raises(InputError, match=f"{CONFIG_NAME}, target_modules: c_attn matches no linear layer"):
        load(saved)


def test_a_config_of_another_peft_release_loads(saved: Path) -> None:
    config = json.loads((saved / CONFIG_NAME).read_text())
    config["lora_alpha"] = float(config["lora_alpha"])
    older = {key: value for key, value in config.items() if key not in ("arrow_config", "use_bdlora", "lora_bias")}
    (saved / CONFIG_NAME).write_text(json.dumps(older | {"peft_version": "9.9.9", "a_new_switch": False, "new": None}))
    load(saved)


@pytest.mark.parametrize("alpha", [10**400, 1e10, -(10**10), float("inf"), 1.5])
def test_an_alpha_out_of_range_is_refused(saved: Path, alpha: float) -> None:
    config = json.loads((saved / CONFIG_NAME).read_text())
    (saved / CONFIG_NAME).write_text(json.dumps(config | {"lora_alpha": alpha}))
    with pytest.raises(InputError, match="lora_alpha must be a whole number"):
        load_adapter(tiny_model(), saved, base_name=config["base_model_name_or_path"])


def test_what_training_accepts_can_be_read_again(saved: Path) -> None:
    for flag, largest in (("--lora_r", MAX_RANK), ("--lora_alpha", LARGEST)):
        parse_run(["--preset", "demo", flag, str(largest)])
        with pytest.raises(InputError, match=flag):
            parse_run(["--preset", "demo", flag, str(largest + 1)])
    change_config(saved, lora_alpha=LARGEST)
    load(saved)
    change_config(saved, r=MAX_RANK)
    with pytest.raises(InputError, match="this base needs"):  # only these tensors have another rank
        load(saved)


def test_an_adapter_in_8_bits_is_refused(saved: Path) -> None:
    base_name = adapter_base_name(saved)
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(saved / WEIGHTS_NAME).items()}
    (saved / WEIGHTS_NAME).write_bytes(save(tensors))
    with pytest.raises(InputError, match="must be in 16 or 32 bits"):
        load_adapter(tiny_model(), saved, base_name=base_name)


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME])
def test_a_pipe_in_an_adapter_is_refused_at_once(saved: Path, name: str) -> None:
    base_name = adapter_base_name(saved)
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(InputError, match=name):
        load_adapter(tiny_model(), saved, base_name=base_name)
    with pytest.raises(InputError, match="a pipe or a device"):
        adapter_hashes(saved)


def test_a_configuration_nested_too_deeply_is_refused(saved: Path) -> None:
    (saved / CONFIG_NAME).write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(InputError, match="not JSON"):
        adapter_base_name(saved)
