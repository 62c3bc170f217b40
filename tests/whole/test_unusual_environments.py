"""Unusual terminals, standard input, memory and caches: the exit code that is promised, never a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import exit_code, flags, make_canary_inputs

import infer
import train_loop
from medsum_core import kernels, preview
from medsum_core.errors import InputError
from medsum_core.generation.batch import Batch
from medsum_core.generation.part_file import holds_notes, part_path
from medsum_core.grounding import __main__ as grounding
from medsum_core.merge import __main__ as merge
from medsum_core.process import run_as_script
from medsum_core.report import finish
from medsum_core.score import __main__ as score
from medsum_core.server import __main__ as server

ROOT = Path(__file__).parents[2]


class AsciiTerminal:
    """stdout and stderr as with `PYTHONIOENCODING=ascii`; `text` is what was printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes = io.BytesIO()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(self._bytes, encoding="ascii", write_through=True))

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode("ascii")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and rows with letters that ASCII lacks in everything that may be shown."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("inputs"))
    rows = "ID,section_header,dialogue,section_text\n"
    rows += "".join(f"é{number},CC,Doctor: Müde? Patient: Ja – 3 Tage.,Müde – 3 Tage.\n" for number in range(3))
    (folder / "rows.csv").write_text(rows, encoding="utf-8")
    (folder / "doubled.csv").write_text(rows + rows.splitlines()[-1] + "\n", encoding="utf-8")
    return folder


Main = Callable[[list[str]], object]
COMMANDS: dict[str, tuple[Main, str, int]] = {
    "train": (train_loop.main, "", 0),
    "infer": (infer.main, "--run {run} --dialogue_file {out}/visit.txt --section CC --max_new_tokens 9", 0),
    "preview": (preview.main, "--train_file {files}/rows.csv --model_name_or_path {files}/model", 0),
    "score": (score.main, "--references {files}/rows.csv --predictions {files}/rows.csv --tokenizer unicode", 0),
    "score, refused": (score.main, "--references {files}/rows.csv --predictions {files}/valid.csv", 2),
    "grounding": (grounding.main, "--input_file {files}/rows.csv --note_column section_text", 0),
    "grounding, refused": (grounding.main, "--input_file {files}/doubled.csv --note_column section_text", 2),
    "merge": (merge.main, "--run {run} --output_dir {out}/merged-ä --input_file {files}/rows.csv", 0),
}


@pytest.fixture(scope="module")
def run(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train_loop.main(flags(inputs, folder, "--max_steps", "1", "--eval_strategy", "no"))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_an_ascii_terminal_makes_no_command_fail(
    inputs: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    main, line, code = COMMANDS[name]
    (tmp_path / "visit.txt").write_text("Doctor: Müde?\nPatient: Ja – 3 Tage.", encoding="utf-8")
    argv = [word.format(files=inputs, run=run, out=tmp_path) for word in line.split()]
    if name == "train":
        argv = flags(inputs, tmp_path / "run-ä", "--train_file", str(inputs / "rows.csv"))
        argv += ["--max_steps", "1", "--eval_strategy", "no"]
    terminal = AsciiTerminal(monkeypatch)
    assert run_as_script(lambda: main(argv)) == code
    assert terminal.text


@pytest.mark.parametrize(("data", "encoding"), [(b"Doctor: M\xfcde?", "Latin-1"), (b"\xff\xfeD\0", "UTF-16")])
def test_standard_input_that_is_not_utf8_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, encoding: str
) -> None:
    """With the C locale Python would pass such bytes on as lone surrogates, which tokenizers refuse."""
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run_as_script(lambda: infer.main(["--run", str(run), "--dialogue_file", "-", "--section", "CC"])) == 2
    said = capsys.readouterr().err
    assert "not UTF-8" in said and encoding in said and said.endswith("save the file as UTF-8\n")


def test_a_pipe_as_a_dialogue_is_refused_at_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    argv = ["--run", str(run), "--dialogue_file", str(tmp_path / "pipe"), "--section", "CC"]
    assert run_as_script(lambda: infer.main(argv)) == 2
    assert "a pipe or a device" in capsys.readouterr().err


def _while_recording() -> BaseException:
    """What torch raises where memory runs out while a CUDA graph is recorded: the end of the recording fails too."""
    error = torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return error


ERRORS = {
    "a graph": _while_recording(),
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA": RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "a CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("name", ERRORS)
def test_out_of_memory_is_exit_code_5_and_names_flags(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise ERRORS[name]

    monkeypatch.setattr(train_loop, "train_step", step)
    argv = flags(inputs, tmp_path / "run", "--eval_strategy", "no")
    assert run_as_script(lambda: train_loop.main(argv), memory_remedy=train_loop.MEMORY_REMEDY) == 5
    message = capsys.readouterr().err.rpartition("\nerror: ")[2]
    assert (
        message.startswith("out of memory (") and "--gradient_checkpointing on" in message and "\n" not in message[:-1]
    )
    assert not (tmp_path / "run" / "adapter").exists() and not list((tmp_path / "run").glob("checkpoints/*"))


def test_out_of_memory_after_an_update_names_flags_to_change_and_the_checkpoint(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, step = [], train_loop.train_step

    def second_fails(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ERRORS["torch"]
        return step(*args, **options)

    monkeypatch.setattr(train_loop, "train_step", second_fails)
    saved = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no")
    argv = flags(inputs, tmp_path / "run", *saved, "--pack_tokens", "64", "--gradient_checkpointing", "off")
    argv += ["--max_steps", "2", "--parallel_micro_batches", "1"]
    assert exit_code(argv) == 5
    message = capsys.readouterr().err.rpartition("\nerror: ")[2]
    names = ["--pack_tokens below 64, then", "--gradient_checkpointing on, then", "in a new run a lower --max_length"]
    places = [message.index(name) for name in names]
    assert places == sorted(places) and message.count("\n") == 1
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert f"Still good is {kept}, the adapter as of update 1" in message and "--parallel_micro" not in message
    lower = ("--pack_tokens", "32", "--gradient_checkpointing", "on", "--resume_from_checkpoint", "auto")
    assert exit_code([*argv, *lower]) == 0
    assert len(calls) == 3  # the first update was not repeated


def test_out_of_memory_while_decoding_keeps_finished_notes(
    run: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, step = tmp_path / "notes.csv", Batch.step

    def fails_after_a_note(batch: Batch) -> Any:
        if part_path(out).read_bytes().count(b"\n") > 1:
            raise ERRORS["torch"]
        return step(batch)

    argv = ["--run", str(run), "--input_file", str(inputs / "rows.csv"), "--output_file", str(out)]
    argv += ["--batch_size", "1", "--max_new_tokens", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", fails_after_a_note)
        assert run_as_script(lambda: infer.main(argv), memory_remedy=infer.MEMORY_REMEDY) == 5
    assert "--batch_size" in capsys.readouterr().err and holds_notes(part_path(out)) and not out.exists()
    assert run_as_script(lambda: infer.main([*argv, "--resume"])) == 0


def test_a_server_without_memory_for_its_cache_ends_at_start(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def zeros(*_: Any, **__: Any) -> None:
        raise ERRORS["torch"]

    monkeypatch.setattr(torch.Tensor, "new_zeros", zeros)
    argv = ["--run", str(run), "--port", "0", "--audit_file", str(tmp_path / "audit.jsonl"), "--max_new_tokens", "2"]
    assert run_as_script(lambda: server.main(argv), memory_remedy=server.MEMORY_REMEDY) == 5
    assert "--batch_size" in capsys.readouterr().err.rpartition("error: ")[2]


def test_out_of_memory_in_the_report_keeps_the_adapter_and_names_the_flag_to_finish(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(*_: Any, **__: Any) -> None:
        raise ERRORS["torch"]

    monkeypatch.setattr(finish, "compare_base_and_tuned", compare)
    argv = [
        *flags(inputs, tmp_path / "run", "--eval_strategy", "no", "--resume_from_checkpoint", "auto"),
        "--report_rows",
    ]
    assert exit_code([*argv, "2"]) == 5
    message = capsys.readouterr().err.rpartition("\nerror: ")[2]
    assert "in the report; the adapter is saved" in message and "--report_rows 0" in message
    assert list((tmp_path / "run" / "adapter").iterdir())
    assert exit_code([*argv, "0"]) == 0


def test_out_of_memory_while_the_model_is_loaded_names_flags(
    run: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ERRORS["torch"]

    monkeypatch.setattr(infer, "_load_model", load)
    argv = ["--run", str(run), "--input_file", str(inputs / "rows.csv"), "--output_file", str(tmp_path / "notes.csv")]
    assert run_as_script(lambda: infer.main(argv), memory_remedy=infer.MEMORY_REMEDY) == 5
    message = capsys.readouterr().err.rpartition("error: ")[2]
    assert "--batch_size" in message and "--resume" in message and not (tmp_path / "notes.csv").exists()


def test_a_real_request_for_too_much_memory_is_recognised() -> None:
    assert run_as_script(lambda: torch.empty(1 << 60, dtype=torch.uint8)) == 5


def test_other_errors_are_not_taken_for_out_of_memory(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(train_loop, "train_step", step)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        exit_code(flags(inputs, tmp_path / "run", "--eval_strategy", "no"))


def test_scoring_works_without_a_home_folder(inputs: Path, tmp_path: Path) -> None:
    """As in a container that runs under a user id without an account."""
    (tmp_path / "sitecustomize.py").write_text("import pwd\npwd.getpwuid = {}.__getitem__\n")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("HOME")}
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "medsum_core.score", *["--references", str(inputs / "rows.csv")]]
    command += ["--predictions", str(inputs / "rows.csv"), "--tokenizer", "unicode"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "[100.0, 100.0]" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["train_loop.py", "infer.py"])
def test_compiled_code_is_cached_for_the_user_not_beside_the_source(tmp_path: Path, name: str) -> None:
    """A clone shared by a group may be read-only, and one user's compiled code must not run for all."""
    script = f"""
import runpy, sys
sys.argv = ["script", "--help"]
try:
    runpy.run_path({str(ROOT / name)!r}, run_name="__main__")
except SystemExit:
    pass
from medsum_core.kernels.cpu import elementwise
print(elementwise.rms_inverse.stats.cache_path)
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith(str(tmp_path / "medsum" / "numba"))


def test_without_a_folder_for_compiled_code_the_error_names_numba_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> None:
        raise RuntimeError("cannot cache function 'rms_inverse': no locator available for file 'elementwise.py'")

    monkeypatch.setattr(kernels, "_fast", fail)
    with pytest.raises(InputError, match="NUMBA_CACHE_DIR"):
        kernels.choose("fast", "cpu")
