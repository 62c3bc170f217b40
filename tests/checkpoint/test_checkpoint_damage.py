"""Every damaged file of a checkpoint is found and named, and the checkpoint before it is used."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from checkpoints import ALL_FILES, save

from medsum_core.checkpoint.checkpoint import find_checkpoint, load_checkpoint
from medsum_core.errors import InputError
from medsum_core.files import MANIFEST


def check_skipped(folder: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_checkpoint(folder, "auto")
    assert found is not None and found.name == "step-000001"
    error = capsys.readouterr().err
    assert "step-000002 is damaged" in error and damaged in error and error.count("\n") == 1
    with pytest.raises(InputError, match=re.escape(damaged)):
        find_checkpoint(folder, folder / "step-000002")


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("damage", ["deleted", "empty", "short", "long", "flipped", "folder", "link", "pipe"])
def test_every_damaged_file_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = file.read_bytes()
    if damage in ("deleted", "folder", "link", "pipe"):
        file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)  # refused although the bytes are right
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage != "deleted":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"empty": b"", "short": data[:-1], "long": data + b"\n", "flipped": flipped}[damage])
    check_skipped(tmp_path, name, capsys)


def test_flipped_bits_and_truncated_files_are_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in ALL_FILES:
        file = path / name
        data = file.read_bytes()
        chosen = random.Random(name).sample(range(len(data) * 8), min(len(data) * 8, 250))
        for bit in chosen if name != MANIFEST else range(len(data) * 8):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(InputError, match="damaged"):
                load_checkpoint(path)
        for length in random.Random(name).sample(range(len(data)), min(len(data), 40)):
            file.write_bytes(data[:length])
            with pytest.raises(InputError, match="damaged"):
                load_checkpoint(path)
        file.write_bytes(data)
        assert load_checkpoint(path).progress.step == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "sub/file", "extra.json", ""])
def test_a_manifest_may_name_its_own_files_only(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_text())
    for changed in (
        {**manifest["files"], name: manifest["files"]["state.json"]},
        {name: manifest["files"]["state.json"]},
    ):
        text = json.dumps({"files": changed, "format": 1}, indent=1, sort_keys=True) + "\n"
        (path / MANIFEST).write_text(text)
        with pytest.raises(InputError, match=MANIFEST):
            load_checkpoint(path)


def test_a_renamed_checkpoint_is_not_taken_for_a_newer_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000009")
    found = find_checkpoint(tmp_path, "auto")
    assert found is not None and found.name == "step-000001"
    assert "step-000009" in capsys.readouterr().err


def test_no_checkpoint_is_none_and_only_damaged_ones_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_checkpoint(tmp_path / "absent", "auto") is None
    (save(tmp_path, 1) / MANIFEST).unlink()
    with pytest.raises(InputError, match="1 damaged and no valid") as caught:
        find_checkpoint(tmp_path, "auto")
    assert "step-000001" in capsys.readouterr().err and "move that folder away" in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoint(tmp_path, tmp_path / "step-000007")
