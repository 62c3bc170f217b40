"""metrics.jsonl: complete lines, cut back to a step on resume, private; a full disk does not end a run."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from windows import make_example

from medsum_core.errors import InputError
from medsum_core.training.metrics import MetricsLog, StepStats, cut_back, read_metrics


def write(path: Path, steps: range) -> None:
    log = MetricsLog(path)
    for step in steps:
        log.append({"step": step, "loss": 2.0 / (step + 1), "learning_rate": 2e-4})


def test_the_figures_of_a_window_are_sums_over_its_rows() -> None:
    window = [make_example(5, 3, seed=1), make_example(9, 2, seed=2)]
    stats = StepStats.of(window, 0.0, loss=1.5, grad_norm=0.5, skipped=False)
    assert (stats.num_tokens, stats.num_targets) == (19, 5)


def test_appends_lines_that_read_back_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    former = os.umask(0)
    try:
        write(path, range(2))
        write(path, range(2, 4))
    finally:
        os.umask(former)
    assert [record["step"] for record in read_metrics(path)] == [0, 1, 2, 3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_cut_back_keeps_lines_up_to_the_step_and_its_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    log = MetricsLog(path)
    log.append({"step": 3, "eval_loss": 1.5})
    log.append({"step": 4, "loss": 1.0})
    before = path.read_bytes().splitlines(keepends=True)
    assert cut_back(path, step=3) == 4
    assert path.read_bytes() == b"".join(before[:4])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_incomplete_last_line_is_tolerated_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    whole = path.read_bytes()
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for length in range(second_end, len(whole)):
        path.write_bytes(whole[:length])
        assert [record["step"] for record in read_metrics(path)] == [0, 1]
        assert cut_back(path, step=2) == 2
        assert path.read_bytes() == whole[:second_end]


def test_a_bad_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize("torn", [b'{"st', b"\0\0\0", b"[1]", b'{"step": "3"}', b"\xff", b"[" * 100_000])
def test_a_damaged_line_is_removed_if_all_lines_up_to_the_step_come_before_it(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn + b'\n{"step": 4}\n')
    before = path.read_bytes()
    with pytest.raises(InputError, match="line 3"):
        cut_back(path, step=4)
    assert path.read_bytes() == before
    assert cut_back(path, step=3) == 2
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(torn + b'\n{"step": 4}\n')
    assert cut_back(path, step=3) == 0


def test_no_file_is_left_open(tmp_path: Path) -> None:
    """A notebook trains many times in one process."""
    before = os.listdir("/proc/self/fd")
    logs = [MetricsLog(tmp_path / str(number)) for number in range(3)]
    for log in logs:
        log.append({"step": 1})
        log.sync()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_only_records_up_to_the_step_are_left_whatever_their_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 9, 2, 3):
        MetricsLog(path).append({"step": step})
    assert cut_back(path, step=2) == 2
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_cut_back_without_a_file_does_nothing(tmp_path: Path) -> None:
    assert cut_back(tmp_path / "metrics.jsonl", step=3) == 0


def test_non_finite_values_become_null_and_a_step_is_required(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    with pytest.raises(ValueError, match="step"):
        log.append({"loss": 1.0})
    text = path.read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
    }


def test_a_full_disk_is_reported_once_and_the_lines_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    log, write_some = MetricsLog(path), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) <= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_some(descriptor, data[: len(data) - 5])  # a torn line, then nothing more

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.append({"step": 1})
        log.append({"step": 2})
    log.append({"step": 3})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    assert capsys.readouterr().err.count("No space left") == 1


def test_the_last_line_of_a_run_is_written_at_the_next_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later line follows it: the next chance is the sync before the last checkpoint."""
    path, write_some, failures = tmp_path / "metrics.jsonl", os.write, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fail_once(descriptor: int, data: bytes) -> int:
        if failures:
            raise failures.pop()
        return write_some(descriptor, data)

    flushed: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(path.read_bytes()))
    log = MetricsLog(path)
    monkeypatch.setattr(os, "write", fail_once)
    log.append({"step": 1})
    assert path.read_bytes() == b"" and not failures
    log.sync()
    assert flushed == [b'{"step": 1}\n']
