"""Files that could carry code are neither opened nor read, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from checkpoints import ALL_FILES, save

from medsum_core.checkpoint.checkpoint import find_checkpoint, load_checkpoint
from medsum_core.errors import InputError

ROOT = Path(__file__).parents[2]

PLANTED = [
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.bin",
    "scheduler.pt",
    "random_states_0.pkl",
    "rng_state.pth",
    "scaler.pt",
    "adapter_model.bin",
    "pytorch_model.bin",
    "training_args.bin",
    "custom_checkpoint_0.pkl",
    "state.pkl",
    "adapter_model.pt",
]


def code_that_plants(marker: Path) -> bytes:
    """What an unsafe loader would run: opcodes that call `os.system('touch MARKER')`."""
    return b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."


def test_planted_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    for name in PLANTED:
        (path / name).write_bytes(code_that_plants(marker))
    opened: list[str] = []
    real_open = os.open

    def watched(name: Any, *arguments: Any, **keywords: Any) -> int:
        opened.append(Path(name).name)
        return real_open(name, *arguments, **keywords)

    monkeypatch.setattr(os, "open", watched)
    assert find_checkpoint(tmp_path, "auto") == path
    assert set(opened) == set(ALL_FILES)
    assert not marker.exists()


@pytest.mark.parametrize("name", ALL_FILES)
def test_planted_code_under_our_names_is_damage(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    (path / name).write_bytes(code_that_plants(marker))
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    assert not marker.exists()


def test_no_code_in_the_tree_reads_formats_that_can_carry_code() -> None:
    words = [
        word[::-1]
        for word in (
            "elkcip",
            "daol.hcrot",
            "bilboj",
            "llid tropmi",
            "evlehs",
            "elkcip_wolla",
            "edoc_etomer_tsurt=eurt",
        )
    ]
    files = [path for folder in ("medsum_core", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    files += [path for path in (*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py")) if path.name != Path(__file__).name]
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8").lower()
        found = [word for word in words if word in text]
        assert not found, f"{path}: {found}"
