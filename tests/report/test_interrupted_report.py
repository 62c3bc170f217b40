"""A report that a signal or a kill interrupts is continued, and ends in the files of an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal
from tiny_run import CANARY, contents, exit_code, flags, metrics

from medsum_core.config.report_parts import part_path
from medsum_core.errors import InputError
from medsum_core.generation.note_files import GeneratedNote
from medsum_core.generation.part_file import PartFile
from medsum_core.report import interrupted, loss_curve

ROOT = Path(__file__).parents[2]
PARTS = ("base_notes.part.jsonl", "tuned_notes.part.jsonl")
NUM_ROWS = 3


class Killed(BaseException):
    """Raised in the place of SIGKILL; nothing in this project catches it."""


def at_note(patch: pytest.MonkeyPatch, number: int, action: Callable[[PartFile], None]) -> None:
    """Call `action` once the `number`-th note of the report, of both sides together, is saved."""
    add, num_saved = PartFile.add, [0]

    def add_and_act(part: PartFile, row: str, note: GeneratedNote) -> None:
        add(part, row, note)
        num_saved[0] += 1
        if num_saved[0] == number:
            action(part)

    patch.setattr(PartFile, "add", add_and_act)


def interrupt(_: PartFile) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill_in_a_write(part: PartFile) -> None:
    with part.path.open("ab") as file:
        file.write(b'{"row": "1", "no')
    raise Killed


def report_flags(inputs: Path, folder: Path, *more: str) -> list[str]:
    return flags(inputs, folder, "--resume_from_checkpoint", "auto", "--report_rows", str(NUM_ROWS), *more)


def files_of(folder: Path) -> dict[str, Any]:
    """The run folder's files without durations and speeds."""
    found: dict[str, Any] = dict(contents(folder))
    found["metrics.jsonl"] = [{**line, "tokens_per_second": None} for line in metrics(folder)]
    report = found["report.md"].decode().splitlines()
    found["report.md"] = [line for line in report if not re.search(r"\| [\d.]+ (s|min|h)\b", line)]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of every run here: its path is in the report, so that equal reports need one path."""
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def straight(inputs: Path, place: Path) -> Path:
    """The uninterrupted run."""
    assert exit_code(report_flags(inputs, place)) == 0
    return place.rename(place.with_name("straight"))


@pytest.fixture
def trained(straight: Path, place: Path) -> Path:
    """The same run after its last checkpoint, before its report."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(straight, place)
    shutil.rmtree(place / "adapter")
    for name in ("report.md", "loss_curve.png", "target_audit.jsonl", "adapter.sha256.json"):
        (place / name).unlink()
    return place


def kept(folder: Path) -> list[list[dict[str, Any]]]:
    """The notes in each existing part file."""
    paths = [folder / name for name in PARTS if (folder / name).exists()]
    return [[json.loads(line) for line in path.read_text().splitlines()[1:] if line.endswith("}")] for path in paths]


@pytest.mark.parametrize(
    "action,number,num_kept",
    [(interrupt, 1, 3), (interrupt, 3, 3), (kill_in_a_write, 1, 1), (kill_in_a_write, 5, 5)],
    ids=["first token after a note", "between the sides", "killed early", "killed late"],
)
def test_an_interrupted_report_keeps_its_notes_and_ends_in_the_same_files(
    inputs: Path,
    straight: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    action: Callable[[PartFile], None],
    number: int,
    num_kept: int,
) -> None:
    """The notes of a side end at the same token, so a signal keeps all three."""
    argv = report_flags(inputs, trained)
    with pytest.MonkeyPatch.context() as patch:
        at_note(patch, number, action)
        if action is interrupt:
            assert exit_code(argv) == 75
            assert "stopped: in the report; resume with --resume_from_checkpoint auto" in capsys.readouterr().err
        else:
            with pytest.raises(Killed):
                exit_code(argv)
    assert sum(map(len, kept(trained))) == num_kept and not (trained / "report.md").exists()
    for path in trained.glob("*.part.jsonl"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = notes_written(argv)
    assert len(written) == 2 * NUM_ROWS - num_kept
    assert files_of(trained) == files_of(straight)


def notes_written(argv: list[str]) -> list[Path]:
    """Run the script to its end; returns the part file of each note that it writes."""
    written: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "add", lambda part, row, note: written.append(part.path))
        assert exit_code(argv) == 0
    return written


def test_after_a_signal_behind_the_last_note_the_report_is_finished(
    inputs: Path, straight: Path, trained: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_note(patch, 2 * NUM_ROWS, interrupt)
        assert exit_code(report_flags(inputs, trained)) == 0
    assert files_of(trained) == files_of(straight)


def test_the_real_script_is_killed_in_its_report_then_hung_up_then_resumed(
    inputs: Path, place: Path, tmp_path: Path
) -> None:
    """With enough rows that kill and hangup come between notes."""
    shutil.rmtree(place, ignore_errors=True)
    valid, rows = tmp_path / "valid.csv", [f"v{n},ROS,Doctor: Any cough on day {n}?,{CANARY} cough." for n in range(48)]
    valid.write_text("ID,section_header,dialogue,section_text\n" + "\n".join(rows) + "\n")
    argv = report_flags(inputs, place, "--validation_file", str(valid), "--report_rows", "48", "--eval_strategy", "no")
    assert exit_code(argv) == 0
    expected = files_of(place.rename(tmp_path / "straight"))
    for name, kills, code in ((PARTS[0], True, -signal.SIGKILL), (PARTS[1], False, 75)):
        with Terminal([sys.executable, str(ROOT / "train_loop.py"), *argv]) as terminal:
            terminal.read_until(lambda part=place / name: part.exists() and part.read_bytes().count(b"\n") > 3)
            if kills:
                terminal.process.kill()
            else:
                terminal.close()
            assert terminal.process.wait(timeout=120) == code, terminal.shown[-800:]
        assert CANARY not in terminal.shown and not (place / "report.md").exists()
    assert 48 < sum(map(len, kept(place))) < 96
    assert exit_code(argv) == 0
    assert files_of(place) == expected


@pytest.mark.parametrize("change", ["no_repeat_ngram_size", "adapter", "damaged"])
def test_notes_of_other_settings_or_damaged_ones_are_written_anew(
    inputs: Path, straight: Path, trained: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    argv = report_flags(inputs, trained)
    with pytest.MonkeyPatch.context() as patch:
        at_note(patch, NUM_ROWS + 1, kill_in_a_write)
        with pytest.raises(Killed):
            exit_code(argv)
    base, tuned = (trained / name for name in PARTS)
    if change == "damaged":
        for path in (base, tuned):
            path.write_bytes(b"{}\n{}\n")
    else:
        for path in (base, tuned):
            header, *notes = [line for line in path.read_text().splitlines() if line.endswith("}")]
            values = json.loads(header)
            settings = values["made_from"]["settings"]
            if change == "adapter" and settings["adapter"] is not None:
                settings["adapter"]["adapter_model.safetensors"] = "0" * 64
            path.write_text("\n".join([json.dumps(values), *notes]) + "\n")
    capsys.readouterr()
    another_rule = ("--no_repeat_ngram_size", "3") if change == "no_repeat_ngram_size" else ()
    written = notes_written([*argv, *another_rule])
    shown = capsys.readouterr().err
    assert written.count(tuned) == NUM_ROWS and written.count(base) == (0 if change == "adapter" else NUM_ROWS)
    assert shown.count("written anew") == (1 if change == "adapter" else 2)
    assert another_rule or files_of(trained) == files_of(straight)


def test_metrics_that_cannot_be_read_for_the_report_are_a_failed_save(
    inputs: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter is saved before, and repeating the command writes the report."""
    with monkeypatch.context() as patch:
        patch.setattr(loss_curve, "read_metrics", refuse_to_read)
        assert exit_code(report_flags(inputs, trained)) == 4
    assert "not everything could be written" in capsys.readouterr().err
    assert exit_code(report_flags(inputs, trained)) == 0


def refuse_to_read(_: object) -> None:
    raise InputError("cannot read the metrics file: Input/output error")


def test_without_a_report_its_saved_notes_are_removed(inputs: Path, trained: Path) -> None:
    for side in interrupted.SIDES:
        part_path(trained, side).write_text("{}\n")
    assert exit_code([*report_flags(inputs, trained), "--report_rows", "0"]) == 0
    assert kept(trained) == []
