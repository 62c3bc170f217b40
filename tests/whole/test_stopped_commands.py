"""Signals and pipes without a reader: finished notes are kept, drafts are removed, and nothing ends in a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from notes_command import write
from tiny_run import HEADER

import infer
from medsum_core import process
from medsum_core.generation import note_files, writer
from medsum_core.merge import __main__ as merge
from medsum_core.merge import fold
from medsum_core.process import STOP_SIGNALS, run_as_script
from medsum_core.score import __main__ as score

pytestmark = pytest.mark.usefixtures("signals_that_are_not_ignored")
ROOT = Path(__file__).parents[2]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


class Interrupting:
    """A function that sends this process a signal before or after it does its work."""

    def __init__(self, real: Callable[..., Any], number: signal.Signals, *, before: bool = True, call: int = 1) -> None:
        self.real, self.number, self.before, self.left = real, number, before, call

    def __call__(self, *args: Any, **settings: Any) -> Any:
        self.left -= 1
        if self.left == 0 and self.before:
            os.kill(os.getpid(), self.number)
        result = self.real(*args, **settings)
        if self.left == 0 and not self.before:
            os.kill(os.getpid(), self.number)
        return result


PHASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "reading the rows": (infer, "_read_rows", {}),
    "checking the run": (infer, "prepare_writer", {}),
    "loading the model": (infer, "_load_model", {}),
    "after the last note": (writer, "_write_missing", {"before": False}),
    "before the output file": (note_files, "write_text_atomic", {"call": 2}),
    "after the output file": (note_files, "write_text_atomic", {"call": 2, "before": False}),
}


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The notes of an uninterrupted call."""
    folder = tmp_path_factory.mktemp("whole")
    rows = folder / "rows.csv"
    rows.write_text(ROWS)
    write(run, rows, folder / "notes.csv")
    return (folder / "notes.csv").read_bytes()


ROWS = 'ID,section_header,dialogue\n1,CC,"Doctor: Hello.\nPatient: My knee hurts."\n2,ROS,Doctor: Any fever?\n'


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_of_writing_notes_loses_nothing(
    run: Path,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    phase: str,
) -> None:
    number = STOP_SIGNALS[list(PHASES).index(phase) % len(STOP_SIGNALS)]
    place, name, when = PHASES[phase]
    rows, out = tmp_path / "rows.csv", tmp_path / "notes.csv"
    rows.write_text(ROWS)
    argv = ["--run", str(run), "--input_file", str(rows), "--output_file", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, Interrupting(getattr(place, name), number, **when))
        assert run_as_script(lambda: infer.main(argv)) == 75
    message = capsys.readouterr().err.rpartition("stopped: ")[2]
    assert "kept" in message and "--resume" in message and message.count("\n") == 1
    if "output" in phase or "note" in phase:
        part = tmp_path / "notes.csv.part.jsonl"
        assert len(part.read_text().splitlines()) == 1 + 2
        monkeypatch.setattr(infer, "_load_model", lambda *_: pytest.fail("a note is written anew"))
    assert run_as_script(lambda: infer.main([*argv, "--resume"])) == 0
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.csv", "notes.csv.made_from.json", "rows.csv"]


def test_a_hangup_that_nohup_ignores_does_not_stop_the_notes(
    run: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "notes.csv"
    rows.write_text(ROWS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(infer, "_load_model", Interrupting(infer._load_model, signal.SIGHUP))
    assert (
        run_as_script(lambda: infer.main(["--run", str(run), "--input_file", str(rows), "--output_file", str(out)]))
        == 0
    )
    assert out.read_bytes() == whole


class EndedError(Exception):
    """Raised where the process would end by a signal."""


@pytest.fixture
def ending_signals(monkeypatch: pytest.MonkeyPatch) -> list[signal.Signals]:
    """The signals by which this process would have ended."""
    found: list[signal.Signals] = []

    def end(number: signal.Signals) -> NoReturn:
        found.append(number)
        raise EndedError

    monkeypatch.setattr(process, "_end_by_signal", end)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_merge_leaves_no_draft(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending_signals: list[signal.Signals],
    number: signal.Signals,
) -> None:
    monkeypatch.setattr(fold, "_save", Interrupting(fold._save, number, before=False))
    argv = ["--run", str(run), "--output_dir", str(tmp_path / "merged"), "--num_prompts", "1"]
    with pytest.raises(EndedError):
        run_as_script(lambda: merge.main(argv))
    assert ending_signals == [number] and list(tmp_path.iterdir()) == []


def test_an_interrupted_score_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending_signals: list[signal.Signals]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{HEADER}1,CC,Doctor: Fine?,Fine today.\n")
    monkeypatch.setattr(os, "fsync", Interrupting(os.fsync, signal.SIGTERM))
    argv = ["--references", str(rows), "--predictions", str(rows), "--json", str(tmp_path / "scores.json")]
    with pytest.raises(EndedError):
        run_as_script(lambda: score.main(argv))
    assert ending_signals == [signal.SIGTERM] and list(tmp_path.iterdir()) == [rows]


def started(script: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_command_without_resume_cleans_up_and_ends_by_the_signal(number: signal.Signals) -> None:
    process = started("""
        import time
        from medsum_core.process import run_as_script
        def main():
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("cleaned up")
        raise SystemExit(run_as_script(main))
    """)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    shown, messages = process.communicate(timeout=60)
    assert process.returncode == -number and shown == "cleaned up\n"
    assert messages == f"\nstopped by {number.name}\n"


def test_the_second_signal_ends_a_script_at_once() -> None:
    process = started("""
        import time
        from medsum_core.process import run_as_script
        def main():
            try:
                print("ready", flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                print("stopping", flush=True)
                sum(range(10**12))  # a single call in C: no Python handler can run
        raise SystemExit(run_as_script(main))
    """)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGTERM)
    try:
        assert process.communicate(timeout=60) == ("", "")
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM


SCRIPTS: dict[str, tuple[str, int]] = {
    "train": ("train_loop.py --train_file {rows} --output_dir {out}/run", -signal.SIGINT),
    "notes": ("infer.py --model_name_or_path x --input_file {rows} --output_file {out}/notes.csv", 75),
    "one note": ("infer.py --model_name_or_path x --dialogue_file {rows} --section CC", -signal.SIGINT),
    "preview": ("-m medsum_core.preview --train_file {rows}", -signal.SIGINT),
    "merge": ("-m medsum_core.merge --run {out} --output_dir {out}/merged", -signal.SIGINT),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_while_the_libraries_are_imported_shows_no_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.csv").write_text(f"{HEADER}1,CC,Doctor: Fine?,Fine today.\n")
    (tmp_path / "libraries").mkdir()
    interrupting = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise RuntimeError('was imported')\n"
    (tmp_path / "libraries" / "torch.py").write_text(interrupting)
    line, code = SCRIPTS[name]
    argv = [word.format(rows=tmp_path / "rows.csv", out=tmp_path) for word in line.split()]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'libraries'}:{ROOT}"}
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libraries", "rows.csv"]


@pytest.mark.parametrize("command", ["preview", "score", "messages"])
def test_a_pipe_without_a_reader_ends_a_command_quietly(base: Path, tmp_path: Path, command: str) -> None:
    """As in `| head -1`: it ends by SIGPIPE, or goes on where only messages are lost."""
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{HEADER}1,CC,Doctor: Fine?,Fine today.\n")
    argv = ["-m", "medsum_core.score", "--references", str(rows), "--predictions", str(rows)]
    if command == "preview":
        argv = ["-m", "medsum_core.preview", "--train_file", str(rows), "--model_name_or_path", str(base)]
    if command == "messages":
        argv[-1] = str(tmp_path / "absent.csv")
    reader, writer = os.pipe()
    os.close(reader)
    other = "stdout" if command == "messages" else "stderr"
    pipes: dict[str, Any] = {"stdout": writer, "stderr": writer, other: subprocess.PIPE}
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=BUFFERED | {"PYTHONPATH": str(ROOT)}, text=True, **pipes
    )
    os.close(writer)
    assert done.returncode == (2 if command == "messages" else -signal.SIGPIPE)
    assert getattr(done, other) == ""


def test_a_broken_pipe_other_than_stdouts_is_raised() -> None:
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_as_script(main)
