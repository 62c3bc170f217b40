"""What a resumed run may change: exactly equal, with a notice, with consent only, or refused; each row once an epoch.

Each case resumes a run within an epoch, mostly after update 2 of 6 (two epochs with windows of 4, 4 and 2 rows). The
reference is the uninterrupted run. Dropout is off, so that a change can alter only the last digits.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_run import contents, exit_code, flags, metrics
from two_scripts import record_rows, recorded_rows, run_two

import train_loop
from medsum_core.config.on_resume import Rule

# fmt: off
RUN = ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no", "--save_total_limit", "9",
       "--num_train_epochs", "2", "--lora_dropout", "0", "--optim", "adamw_torch"]
# fmt: on
WINDOWS = 3  # an epoch's
ADAPTER = "adapter/adapter_model.safetensors"
HALF = "--gradient_accumulation_steps 2"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is changed for the resumed run, and how it must end."""

    name: str
    rule: Rule
    flags: str = ""
    message: str = ""  # must be in stderr
    base: str = "model"  # folder of the base
    threads: int = 2  # of the resumed run
    threads_before: int = 2
    processes: int = 1
    resumes: str = ""  # name of the case whose run it resumes; default: the uninterrupted run
    done: int = 2  # updates before the interruption


EXACT, NOTED, CONSENT, REFUSED = Rule.EXACT, Rule.NOTED, Rule.CONSENT, Rule.REFUSED
# fmt: off
MATRIX = (
    Case(name="nothing", rule=EXACT),
    Case(name="a moved base", rule=EXACT, base="moved"),
    Case(name="logging, saving", rule=EXACT, flags="--logging_steps 2 --save_minutes 0"),
    Case(name="pack_tokens", rule=NOTED, flags="--pack_tokens 120", message="--pack_tokens was 240, is 120"),
    Case(name="unpacked, batch x accumulation of the same window", rule=NOTED,
         flags=f"--pack_tokens 0 --per_device_train_batch_size 2 {HALF}",
         message="--per_device_train_batch_size was 1, is 2"),
    Case(name="checkpointing", rule=NOTED, flags="--gradient_checkpointing on", message="was off, is on"),
    Case(name="one micro-batch at a time", rule=NOTED, flags="--parallel_micro_batches 1", message="was 2, is 1"),
    Case(name="a base in 4 bits", rule=NOTED, flags="--dequantize off", message="--dequantize was on, is off"),
    Case(name="2 cores -> 1", rule=CONSENT, threads=1, message="--parallel_micro_batches was 2, is 1"),
    Case(name="1 core -> 2", rule=CONSENT, threads_before=1, message="CPU threads was 1, is 2"),
    Case(name="the reference path", rule=CONSENT, flags="--kernels reference", message="--kernels was fast, is reference"),
    Case(name="another attention function", rule=CONSENT, flags="--attention sdpa", message="was per_document, is sdpa"),
    Case(name="1 process -> 2", rule=CONSENT, flags=HALF, processes=2,
         message="random states are restored on the first 1 of 2 processes; the others begin one"),
    Case(name="2 processes -> 1", rule=CONSENT, resumes="1 process -> 2", done=4,
         message="number of processes was 2, is 1"),
    Case(name="another window", rule=REFUSED, flags=HALF, message="rows: give --gradient_accumulation_steps 4"),
    Case(name="precision", rule=REFUSED, flags="--precision bf16", message="--precision was fp32, is bf16"),
    Case(name="16-bit base", rule=REFUSED, flags="--load_in_4bit false", message="--load_in_4bit was True, is False"),
    Case(name="another base", rule=REFUSED, base="others_weights", message="the base model's weights changed"),
    Case(name="another configuration of the base", rule=REFUSED, base="others_configuration", message="configuration"),
    Case(name="learning rate", rule=REFUSED, flags="--learning_rate 1e-3", message="--learning_rate was 0.0002"),
)
# fmt: on


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its rows by window, and its stderr where it ran in other processes."""

    folder: Path
    rows: list[list[str]]
    stderr: str


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bases(inputs: Path) -> Path:
    """Copies of the base: moved, with other weights, with another configuration."""
    for name in ("moved", "others_weights", "others_configuration"):
        shutil.copytree(inputs / "model", inputs / name)
    path = inputs / "others_configuration" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    path = inputs / "others_weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3c")
    return inputs


@pytest.fixture(scope="module")
def finished() -> dict[str, Finished]:
    """Finished runs by name, which several cases resume or compare with; made when first needed."""
    return {}


def run(argv: list[str], rows: Path, *, processes: int, threads: int) -> tuple[int, str]:
    """The exit code, and the stderr of other processes than this one."""
    rows.mkdir()
    if processes == 2:
        codes, messages = run_two(argv, argv, rows=rows)
        assert codes[0] == codes[1]
        return codes[0], "".join(messages)
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "local_rows", record_rows(rows))
        return exit_code(argv), ""


def uninterrupted(bases: Path, finished: dict[str, Finished], folder: Path, *, threads: int) -> Finished:
    name = f"uninterrupted on {threads}"
    if name not in finished:
        code, _ = run(flags(bases, folder / "run", *RUN), folder / "rows", processes=1, threads=threads)
        assert code == 0
        finished[name] = Finished(folder / "run", recorded_rows(folder / "rows"), "")
    return finished[name]


def interrupted(before: Finished, folder: Path, *, done: int) -> dict[str, bytes]:
    """Copy the run as if it had been killed after `done` updates; returns its files."""
    shutil.copytree(before.folder, folder)
    for step in range(done + 1, 2 * WINDOWS + 1):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(folder / "adapter")
    return contents(folder)


def command_line(case: Case, bases: Path, folder: Path) -> list[str]:
    argv = [*flags(bases, folder, *RUN), "--resume_from_checkpoint", "auto", *case.flags.split()]
    return [str(bases / case.base) if flag == str(bases / "model") else flag for flag in argv]


def resumed(case: Case, before: Finished, bases: Path, folder: Path) -> tuple[int, Finished]:
    """The exit code and the finished run of a case, resumed with consent where that could be needed."""
    consent = ("--allow_inexact_resume", "true") if case.rule in (REFUSED, CONSENT) else ()
    argv, rows = [*command_line(case, bases, folder), *consent], folder.with_name("rows")
    code, stderr = run(argv, rows, processes=case.processes, threads=case.threads)
    rows_used = recorded_rows(rows) if code == 0 else []
    return code, Finished(folder, before.rows[: case.done] + rows_used, stderr)


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_resumed_run_is_exact_noted_with_consent_or_refused(
    bases: Path,
    finished: dict[str, Finished],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    case: Case,
) -> None:
    straight = uninterrupted(bases, finished, tmp_path_factory.mktemp("uninterrupted"), threads=case.threads_before)
    before, folder = straight, tmp_path / "run"
    if case.resumes:
        before = two_processes(bases, finished, straight, tmp_path_factory.mktemp("two"))
    if case.processes == 2:
        result, code, stderr = two_processes(bases, finished, straight, tmp_path_factory.mktemp("two")), 0, ""
    else:
        kept = interrupted(before, folder, done=case.done)
        if case.rule in (REFUSED, CONSENT):
            check_refusal(case, command_line(case, bases, folder), tmp_path / "none", capfd)
            assert contents(folder) == kept
        capfd.readouterr()
        code, result = resumed(case, before, bases, folder)
        stderr = capfd.readouterr().err
    stderr += result.stderr
    assert case.message in stderr
    if case.rule is REFUSED:
        assert code == 2 and contents(folder) == kept
        return
    assert code == 0, stderr
    assert ("inexactly, as asked" in stderr) is (case.rule is CONSENT)
    assert ("last digits may differ" in stderr) is (case.rule is NOTED)
    check_rows(result.rows, straight.rows)
    check_result(case, result.folder, straight.folder)


def two_processes(bases: Path, finished: dict[str, Finished], before: Finished, folder: Path) -> Finished:
    """The run of the case with two processes, launched once because that is slow."""
    (case,) = (case for case in MATRIX if case.processes == 2)
    if case.name not in finished:
        interrupted(before, folder / "run", done=case.done)
        code, finished[case.name] = resumed(case, before, bases, folder / "run")
        assert code == 0, finished[case.name].stderr
    return finished[case.name]


def check_refusal(case: Case, argv: list[str], rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without consent the command ends with what to do."""
    capfd.readouterr()
    code, _ = run(argv, rows, processes=1, threads=case.threads)
    stderr = capfd.readouterr().err
    assert code == 2 and case.message in stderr and "Traceback" not in stderr
    assert ("--allow_inexact_resume true" in stderr) is (case.rule is CONSENT)


def check_rows(rows_used: list[list[str]], uninterrupted_rows: list[list[str]]) -> None:
    """Each row occurs once an epoch, in the windows of the uninterrupted run."""
    for start in (0, WINDOWS):
        count = Counter(id for window in rows_used[start : start + WINDOWS] for id in window)
        assert count == dict.fromkeys((f"r{number}" for number in range(10)), 1)
    assert [sorted(window) for window in rows_used] == [sorted(window) for window in uninterrupted_rows]


def check_result(case: Case, folder: Path, uninterrupted_folder: Path) -> None:
    lines, expected = metrics(folder), metrics(uninterrupted_folder)
    if case.rule is EXACT:
        assert contents(folder)[ADAPTER] == contents(uninterrupted_folder)[ADAPTER]
        return
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [line[name] for line in lines] == pytest.approx([line[name] for line in expected], rel=1e-3), name
