"""A base that can't be used is bad input with its reason: pipes, damaged or 8-bit weights, a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from support import tiny_model, tiny_tokenizer

from medsum_core.errors import InputError
from medsum_core.model import embedded
from medsum_core.model.base import load_base, load_config, load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_base(str(folder), precision="fp32")
    return str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_the_folder_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for load in (load_config, load_tokenizer):
        with pytest.raises(InputError, match=f"{name} is no file"):
            load(str(folder))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_8_bits_are_refused(folder: Path, dtype: torch.dtype) -> None:
    """transformers would read them without the scales that belong to them."""
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert "holds weights in 8 bits" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"garbage" * 20, (1 << 40).to_bytes(8, "little") + b"{}"])
def test_damaged_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "can't be read as safetensors" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, "[]", '{"model_type": {}}', '{"model_type": "gemma", "vocab_size": "x"}']
)
def test_an_invalid_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "can't be loaded" in refusal(folder)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the packages with the weights need not be installed."""
    monkeypatch.setattr(embedded, "_part_paths", lambda model: [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_during_the_conversion_is_bad_input_and_leaves_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(model: embedded.EmbeddedModel, work: Path) -> None:
        (work / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(embedded, "_assemble", lambda model, parts, path: path.touch())
    monkeypatch.setattr(embedded, "_dequantise", fail)
    with pytest.raises(InputError, match=r"can't be written .*No space left.*make room"):
        embedded.embedded_folder()
    assert list((empty_cache / "medsum").iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_bad_input(empty_cache: Path) -> None:
    empty_cache.write_text("a file where the folder should be")
    with pytest.raises(InputError, match="the cache folder can't be made"):
        embedded.embedded_folder()
