"""Bad input to the training script: one message that helps, exit code 2, no traceback, no patient text, nothing written."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from tiny_run import CANARY, HEADER, contents, exit_code, flags

from medsum_core.training import setup

ROOT = Path(__file__).parents[2]


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a refused run."""
    assert exit_code(argv) == 2
    shown = capsys.readouterr()
    assert shown.err.count("error: ") == 1
    assert "Traceback" not in shown.err and CANARY not in shown.out + shown.err
    return shown.err[shown.err.index("error: ") :]


BAD = {
    "missing file": (("--train_file", "nowhere.csv"), "nowhere.csv"),
    "unknown flag": (("--no_such_flag", "1"), "--no_such_flag"),
    "wrong type": (("--learning_rate", "fast"), "--learning_rate"),
    "no room for a prompt": (("--max_length", "8", "--max_new_tokens", "4"), "--max_length"),
    "no note fits": (("--max_length", "70", "--max_new_tokens", "4"), "--max_length"),
    "target matches nothing": (("--lora_target_modules", "no_proj"), "no_proj"),
    "unreachable model": (("--model_name_or_path", "nobody/no-such-model"), "nobody/no-such-model"),
    "missing config file": (("--config", "nowhere.yaml"), "nowhere.yaml"),
    "folder not writable": (("--output_dir", "/proc/medsum"), "/proc/medsum"),
    "nothing to resume by that name": (("--resume_from_checkpoint", "nowhere"), "nowhere"),
    "a sheet without rows": (("--examples_file", "sheet.csv"), "--report_rows 0"),
    "a sheet in no folder": (("--examples_file", "nowhere/sheet.csv", "--report_rows", "1"), "nowhere"),
}


@pytest.mark.parametrize("more,named", BAD.values(), ids=list(BAD))
def test_a_wrong_flag_is_named(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], named: str
) -> None:
    assert named in refusal(flags(inputs, tmp_path / "run", *more), capsys)
    assert list(tmp_path.iterdir()) == []


ROW = f'1,CC,"Doctor: hi {CANARY}","{CANARY}."\n'
BAD_ROWS = {
    "ragged": (HEADER + ROW + f"2,CC,Doctor: {CANARY}\n", "row 2"),
    "a quote left open": (HEADER + ROW + f'2,CC,"Doctor: {CANARY},"x"\n', "row 2"),
    "empty cell": (HEADER + ROW + f"2,CC,Doctor: {CANARY},\n", "row 2"),
    "same id twice": (HEADER + ROW + ROW, "1"),
    "missing column": (f"ID,section_header,dialogue\n1,CC,{CANARY}\n", "section_text"),
    "no rows": (HEADER, "rows.csv"),
    "not text": (HEADER.encode() + ROW.encode("utf-16"), "rows.csv"),
}


@pytest.mark.parametrize("text,named", BAD_ROWS.values(), ids=list(BAD_ROWS))
def test_a_bad_row_is_named_and_not_shown(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, named: str
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(flags(inputs, tmp_path / "run", "--train_file", str(rows)), capsys)
    assert named in message and "rows.csv" in message
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    "text,named",
    [("learning_rate: fast\n", "learning_rate"), ("learning_rte: 1\n", "learning_rte"), ("a: [", "settings.yaml")],
    ids=["wrong type", "unknown", "broken"],
)
def test_a_bad_settings_file_is_named(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    assert named in refusal(flags(inputs, tmp_path / "run", "--config", str(settings)), capsys)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_reached_is_bad_input(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)  # between attempts
    more = ("--model_name_or_path", "nobody/no-such-model", "--offline", "false")
    assert "nobody/no-such-model" in refusal(flags(inputs, tmp_path / "run", *more), capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_written_over(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert "--resume_from_checkpoint auto" in refusal(flags(inputs, tmp_path), capsys)
    assert contents(tmp_path) == {"kept.txt": b"kept"}


def test_the_key_of_a_former_sheet_is_not_replaced(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sheet.key.csv").write_text("kept")
    more = ("--report_rows", "1", "--examples_file", str(tmp_path / "sheet.csv"))
    assert "sheet.key.csv" in refusal(flags(inputs, tmp_path / "run", *more), capsys)
    assert contents(tmp_path) == {"sheet.key.csv": b"kept"}


def test_a_full_disk_at_the_start_is_bad_input(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(setup, "write_run_config", full)
    assert "No space left" in refusal(flags(inputs, tmp_path / "run"), capsys)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"]
)  # FSDP: of its first version, which the launcher takes if not told
def test_other_sharded_launches_are_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    assert "accelerate launch --use_fsdp --fsdp_version 2" in refusal(flags(inputs, tmp_path / "run"), capsys)


def test_the_process_itself_ends_with_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train_loop.py"), "--train_file", "nowhere.csv", "--lora_r", "zero"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: 2 problems:") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_without_validation_rows_is_no_match_for_settings_that_need_them(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").write_bytes((inputs / "train.csv").read_bytes())
    argv = [*flags(inputs, tmp_path / "run", "--dataset_name", str(tmp_path / "rows"), "--eval_generate", "1")]
    for flag in ("--train_file", "--validation_file"):
        del argv[argv.index(flag) : argv.index(flag) + 2]
    assert "--eval_generate: needs validation rows" in refusal(argv, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
