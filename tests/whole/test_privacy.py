"""Patient text stays in the files that were asked for, files are for their owner alone, nothing goes over the network."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_run import CANARY, HEADER, contents, exit_code, flags, metrics

import train_loop
from medsum_core.training.loss import note_nll

ROOT = Path(__file__).parents[2]


def holding(folder: Path) -> list[str]:
    """The files under `folder` that contain the canary."""
    return [path for path, data in contents(folder).items() if CANARY.encode() in data]


def test_a_whole_run_uses_no_network_and_neither_shows_nor_keeps_text(inputs: Path, tmp_path: Path) -> None:
    """Imports, training, evaluation with notes, report: a connection or a name lookup would raise."""
    sheet = tmp_path / "sheet.csv"
    more = ("--eval_generate", "1", "--report_rows", "2", "--examples_file", str(sheet), "--max_steps", "1")
    script = f"""
        import socket, sys
        def refuse(*_, **__):
            raise AssertionError("a run used the network")
        socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
        import train_loop
        train_loop.main({flags(inputs, tmp_path / "run", *more)!r})
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert CANARY.encode() not in done.stdout + done.stderr
    assert holding(tmp_path) == ["sheet.csv"]
    written = [sheet, tmp_path / "sheet.key.csv", *(tmp_path / "run").rglob("*"), tmp_path / "run"]
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_note_that_does_not_fit_is_set_aside_by_id(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    short, long = f"{CANARY}.", f"{CANARY} " * 300
    rows.write_text(f"{HEADER}fits,CC,Doctor: {CANARY},{short}\ntoo-long,CC,Doctor: {CANARY},{long}\n")
    argv = flags(inputs, tmp_path / "run", "--train_file", str(rows), "--dry_run", "true")
    assert exit_code(argv) == 0
    shown = capsys.readouterr()
    assert "1 of 2 rows used" in shown.err and "too-long" in shown.err
    assert CANARY not in shown.out + shown.err


def test_facts_that_are_not_in_the_dialogue_are_counted_and_not_shown(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{HEADER}made-up,CC,Doctor: {CANARY},Takes {CANARY} 50 mg daily.\n")
    train_loop.main(flags(inputs, tmp_path / "run", "--train_file", str(rows), "--eval_strategy", "no"))
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    assert holding(tmp_path / "run") == []
    assert b'"made-up"' in contents(tmp_path / "run")["target_audit.jsonl"]


def test_a_run_that_diverges_names_rows_without_their_text(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def non_finite(*args: torch.Tensor, **settings: float) -> torch.Tensor:
        return note_nll(*args, **settings) * float("nan")

    assert exit_code(flags(inputs, tmp_path / "run", "--eval_strategy", "no"), objective=non_finite) == 3
    shown = capsys.readouterr()
    message = shown.err[shown.err.index("error: ") :]
    ids = message.split("Rows of the last one: ")[1].split(". ")[0].split(", ")
    assert len(ids) == 2 and set(ids) <= {f"r{number}" for number in range(10)}  # the epoch's short last window
    assert "3 windows in a row" in message
    assert CANARY not in shown.out + shown.err and holding(tmp_path) == []
    assert [line for line in metrics(tmp_path / "run") if "loss" in line] == []
