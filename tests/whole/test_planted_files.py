"""Files that could carry code are neither opened nor read, whatever they are called."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import ALL_FILES, rewrite_state, save
from tiny_run import contents, exit_code, flags, make_canary_inputs

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


def code_that_creates(marker: Path) -> bytes:
    """Opcodes with which an unsafe loader would call `os.system('touch MARKER')`."""
    return b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."


def test_files_of_formats_that_can_carry_code_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    for name in PLANTED:
        (path / name).write_bytes(code_that_creates(marker))
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
def test_code_under_the_name_of_a_checkpoint_file_is_damage(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    (path / name).write_bytes(code_that_creates(marker))
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_setting_added_to_a_checkpoint_is_refused_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, folder, sheet = make_canary_inputs(tmp_path), tmp_path / "run", tmp_path / "planted.csv"
    argv = flags(inputs, folder, "--eval_strategy", "no", "--report_rows", "1", "--num_train_epochs", "2")
    assert exit_code(argv) == 0
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    (path,) = (folder / "checkpoints").iterdir()
    rewrite_state(path, lambda state: state["resolved"].update(examples_file=str(sheet)))
    before = contents(tmp_path)
    assert exit_code([*argv, "--resume_from_checkpoint", "auto"]) == 2
    assert "examples_file" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("resolved"),
        lambda state: state.update(resolved=["precision"]),
        lambda state: state.update(rng=[]),
        lambda state: state.update(rng=[1]),
        lambda state: state.update(fingerprints="x"),
        lambda state: state["progress"].update(step="1"),
        lambda state: state["progress"].update(window=1.5),
        lambda state: state["progress"].update(best_metric="low"),
    ],
)
def test_a_state_with_values_of_wrong_types_is_damage(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = save(tmp_path, 1)
    rewrite_state(path, change)
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


def test_no_code_in_the_tree_reads_formats_that_can_carry_code() -> None:
    words = ("import pickle", "from pickle", "pickle.load", "allow_pickle", "torch.load", "joblib", "import dill")
    words += ("shelve", "trust_remote_code=true")
    files = [path for folder in ("medsum_core", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    files += [path for path in (*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py")) if path.name != Path(__file__).name]
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8").lower()
        found = [word for word in words if word in text]
        assert not found, f"{path}: {found}"
