"""The matrix of what a resumed run may change: exact, noted, with consent, or refused; each row once an epoch.

Every case resumes the same run, inside its first epoch, after update 2 of 6 (windows of 4, 4 and 2 rows, two epochs).
The reference is the run that nobody broke. Dropout is off, so that what differs in the last digits differs in no more.
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

RUN = [
    "--save_strategy",
    "steps",
    "--save_steps",
    "1",
    "--eval_strategy",
    "no",
    "--save_total_limit",
    "9",
    "--num_train_epochs",
    "2",
    "--lora_dropout",
    "0",
    "--optim",
    "adamw_torch",
]
DONE, WINDOWS = 2, 3  # updates before the break, and an epoch's
ADAPTER = "adapter/adapter_model.safetensors"
HALF = "--gradient_accumulation_steps 2"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is changed for the resumed run, and what must become of it."""

    name: str
    rule: Rule
    flags: str = ""
    says: str = ""  # among what is written to stderr
    base: str = "model"  # its folder
    threads: int = 2  # of the resumed run
    threads_before: int = 2
    processes: int = 1
    processes_before: int = 1


EXACT, NOTED, CONSENT, REFUSED = Rule.EXACT, Rule.NOTED, Rule.CONSENT, Rule.REFUSED
# fmt: off
MATRIX = (
    Case(name="nothing", rule=EXACT),
    Case(name="a moved base", rule=EXACT, base="moved"),
    Case(name="logging, saving", rule=EXACT, flags="--logging_steps 2 --save_minutes 0"),
    Case(name="pack_tokens", rule=NOTED, flags="--pack_tokens 120", says="--pack_tokens was 240, is 120"),
    Case(name="unpacked, batch x accumulation of the same window", rule=NOTED,
         flags=f"--pack_tokens 0 --per_device_train_batch_size 2 {HALF}",
         says="--per_device_train_batch_size was 1, is 2"),
    Case(name="checkpointing", rule=NOTED, flags="--gradient_checkpointing on", says="was off, is on"),
    Case(name="fewer lanes", rule=NOTED, flags="--parallel_micro_batches 1", says="was 2, is 1"),
    Case(name="a base in 4 bits", rule=NOTED, flags="--dequantize off", says="--dequantize was on, is off"),
    Case(name="2 cores -> 1", rule=CONSENT, threads=1, says="--parallel_micro_batches was 2, is 1"),
    Case(name="1 core -> 2", rule=CONSENT, threads_before=1, says="CPU threads was 1, is 2"),
    Case(name="the reference path", rule=CONSENT, flags="--kernels reference", says="--kernels was fast, is reference"),
    Case(name="another attention function", rule=CONSENT, flags="--attention sdpa", says="was per_document, is sdpa"),
    Case(name="1 process -> 2", rule=CONSENT, flags=HALF, processes=2, says="number of processes was 1, is 2"),
    Case(name="2 processes -> 1", rule=CONSENT, processes_before=2, says="number of processes was 2, is 1"),
    Case(name="another window", rule=REFUSED, flags=HALF, says="rows: give --gradient_accumulation_steps 4"),
    Case(name="precision", rule=REFUSED, flags="--precision bf16", says="--precision was fp32, is bf16"),
    Case(name="16-bit base", rule=REFUSED, flags="--load_in_4bit false", says="--load_in_4bit was True, is False"),
    Case(name="another base", rule=REFUSED, base="others_weights", says="the base model's weights changed"),
    Case(name="another configuration of the base", rule=REFUSED, base="others_configuration", says="configuration"),
    Case(name="learning rate", rule=REFUSED, flags="--learning_rate 1e-3", says="--learning_rate was 0.0002"),
)
# fmt: on


@dataclass(frozen=True)
class Started:
    """A run that went through, and its rows, window by window."""

    folder: Path
    rows: list[list[str]]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bases(inputs: Path) -> Path:
    """Copies of the base: moved, with other weights, with other numbers in its configuration."""
    for name in ("moved", "others_weights", "others_configuration"):
        shutil.copytree(inputs / "model", inputs / name)
    path = inputs / "others_configuration" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    path = inputs / "others_weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3c")
    return inputs


@pytest.fixture(scope="module")
def started(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Started]:
    """Unbroken runs, by processes and threads: made when a case asks for them."""
    return {}


def run(argv: list[str], rows: Path, *, processes: int, threads: int) -> tuple[int, str]:
    """Exit code, and what was written to stderr by another process than this one."""
    rows.mkdir()
    if processes == 2:
        codes, messages = run_two(argv, argv, rows=rows)
        assert codes[0] == codes[1]
        return codes[0], "".join(messages)
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "local_rows", record_rows(rows))
        return exit_code(argv), ""


def unbroken(inputs: Path, case: Case, started: dict[tuple[int, int], Started], folder: Path) -> Started:
    key = (case.processes_before, case.threads_before)
    if key not in started:
        argv = flags(inputs, folder / "run", *RUN, *(HALF.split() if case.processes_before == 2 else ()))
        code, error = run(argv, folder / "rows", processes=case.processes_before, threads=case.threads_before)
        assert code == 0, error
        started[key] = Started(folder / "run", recorded_rows(folder / "rows"))
    return started[key]


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_resumed_run(
    bases: Path,
    started: dict[tuple[int, int], Started],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    case: Case,
) -> None:
    before = unbroken(bases, case, started, tmp_path_factory.mktemp("unbroken"))
    folder = tmp_path / "run"
    shutil.copytree(before.folder, folder)
    for step in range(DONE + 1, 2 * WINDOWS + 1):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(folder / "adapter")
    kept = contents(folder)
    resume = ("--resume_from_checkpoint", "auto", *case.flags.split())
    argv = [str(bases / case.base) if flag == str(bases / "model") else flag for flag in flags(bases, folder, *RUN)]
    where = {"processes": case.processes, "threads": case.threads}
    capfd.readouterr()

    needs_two_tries = case.rule in (REFUSED, CONSENT) and case.processes == 1
    if needs_two_tries:  # a launch of two processes takes its time: what they say without consent is told elsewhere
        code, _ = run([*argv, *resume], tmp_path / "refused", **where)
        said = capfd.readouterr().err
        assert code == 2 and case.says in said and "Traceback" not in said
        assert ("--allow_inexact_resume true" in said) is (case.rule is CONSENT)
        assert contents(folder) == kept
    consent = ("--allow_inexact_resume", "true") if case.rule in (REFUSED, CONSENT) else ()
    code, said = run([*argv, *resume, *consent], tmp_path / "rows", **where)
    said += capfd.readouterr().err
    assert case.says in said
    if case.rule is REFUSED:
        assert code == 2 and contents(folder) == kept
        return
    assert code == 0, said
    check_rows(before.rows[:DONE] + recorded_rows(tmp_path / "rows"), before.rows)
    assert ("inexactly, as asked" in said) is (case.rule is CONSENT)
    assert ("last digits may differ" in said) is (case.rule is NOTED)
    check_result(case, folder, before.folder)


def check_rows(taken: list[list[str]], unbroken_rows: list[list[str]]) -> None:
    """Each row exactly once an epoch, and in the windows of the run that nobody broke."""
    for start in (0, WINDOWS):
        count = Counter(id for window in taken[start : start + WINDOWS] for id in window)
        assert count == dict.fromkeys((f"r{number}" for number in range(10)), 1)
    assert [sorted(window) for window in taken] == [sorted(window) for window in unbroken_rows]


def check_result(case: Case, folder: Path, unbroken_folder: Path) -> None:
    lines, expected = metrics(folder), metrics(unbroken_folder)
    if case.rule is EXACT:
        assert contents(folder)[ADAPTER] == contents(unbroken_folder)[ADAPTER]
        return
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [line[name] for line in lines] == pytest.approx([line[name] for line in expected], rel=1e-3), name
