"""The matrix of what a resumed run may change: exact, noted, with consent, or refused; each row once an epoch.

Every case resumes a run inside of an epoch, mostly after update 2 of 6 (two epochs with windows of 4, 4 and 2 rows).
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

# fmt: off
RUN = ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no", "--save_total_limit", "9",
       "--num_train_epochs", "2", "--lora_dropout", "0", "--optim", "adamw_torch"]
# fmt: on
WINDOWS = 3  # an epoch's
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
    begins_with: str = ""  # the case whose run it resumes; none: the one that nobody broke
    done: int = 2  # updates before the break


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
    Case(name="one micro-batch at a time", rule=NOTED, flags="--parallel_micro_batches 1", says="was 2, is 1"),
    Case(name="a base in 4 bits", rule=NOTED, flags="--dequantize off", says="--dequantize was on, is off"),
    Case(name="2 cores -> 1", rule=CONSENT, threads=1, says="--parallel_micro_batches was 2, is 1"),
    Case(name="1 core -> 2", rule=CONSENT, threads_before=1, says="CPU threads was 1, is 2"),
    Case(name="the reference path", rule=CONSENT, flags="--kernels reference", says="--kernels was fast, is reference"),
    Case(name="another attention function", rule=CONSENT, flags="--attention sdpa", says="was per_document, is sdpa"),
    Case(name="1 process -> 2", rule=CONSENT, flags=HALF, processes=2,
         says="random states are restored on the first 1 of 2 processes; the others begin one"),
    Case(name="2 processes -> 1", rule=CONSENT, begins_with="1 process -> 2", done=4,
         says="number of processes was 2, is 1"),
    Case(name="another window", rule=REFUSED, flags=HALF, says="rows: give --gradient_accumulation_steps 4"),
    Case(name="precision", rule=REFUSED, flags="--precision bf16", says="--precision was fp32, is bf16"),
    Case(name="16-bit base", rule=REFUSED, flags="--load_in_4bit false", says="--load_in_4bit was True, is False"),
    Case(name="another base", rule=REFUSED, base="others_weights", says="the base model's weights changed"),
    Case(name="another configuration of the base", rule=REFUSED, base="others_configuration", says="configuration"),
    Case(name="learning rate", rule=REFUSED, flags="--learning_rate 1e-3", says="--learning_rate was 0.0002"),
)
# fmt: on


@dataclass(frozen=True)
class Went:
    """A run that went to its end: its rows, window by window, and what it said on stderr."""

    folder: Path
    rows: list[list[str]]
    said: str


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
def went() -> dict[str, Went]:
    """What is resumed or compared with more than once, by name: made when a case asks for it."""
    return {}


def run(argv: list[str], rows: Path, *, processes: int, threads: int) -> tuple[int, str]:
    """Exit code, and what was written to stderr by other processes than this one."""
    rows.mkdir()
    if processes == 2:
        codes, messages = run_two(argv, argv, rows=rows)
        assert codes[0] == codes[1]
        return codes[0], "".join(messages)
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "local_rows", record_rows(rows))
        return exit_code(argv), ""


def unbroken(bases: Path, went: dict[str, Went], folder: Path, *, threads: int) -> Went:
    name = f"unbroken on {threads}"
    if name not in went:
        code, _ = run(flags(bases, folder / "run", *RUN), folder / "rows", processes=1, threads=threads)
        assert code == 0
        went[name] = Went(folder / "run", recorded_rows(folder / "rows"), "")
    return went[name]


def broken(before: Went, folder: Path, *, done: int) -> dict[str, bytes]:
    """A copy of the run as if it had been killed after so many updates; its files."""
    shutil.copytree(before.folder, folder)
    for step in range(done + 1, 2 * WINDOWS + 1):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(folder / "adapter")
    return contents(folder)


def command_line(case: Case, bases: Path, folder: Path) -> list[str]:
    argv = [*flags(bases, folder, *RUN), "--resume_from_checkpoint", "auto", *case.flags.split()]
    return [str(bases / case.base) if flag == str(bases / "model") else flag for flag in argv]


def resumed(case: Case, before: Went, bases: Path, folder: Path) -> tuple[int, Went]:
    """The exit code and the rest of the case's run, with consent where it is needed."""
    consent = ("--allow_inexact_resume", "true") if case.rule in (REFUSED, CONSENT) else ()
    argv, rows = [*command_line(case, bases, folder), *consent], folder.with_name("rows")
    code, said = run(argv, rows, processes=case.processes, threads=case.threads)
    taken = recorded_rows(rows) if code == 0 else []
    return code, Went(folder, before.rows[: case.done] + taken, said)


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_resumed_run(
    bases: Path,
    went: dict[str, Went],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    case: Case,
) -> None:
    straight = unbroken(bases, went, tmp_path_factory.mktemp("unbroken"), threads=case.threads_before)
    before, folder = straight, tmp_path / "run"
    if case.begins_with:
        before = two_processes(bases, went, straight, tmp_path_factory.mktemp("two"))
    if case.processes == 2:
        result, code, said = two_processes(bases, went, straight, tmp_path_factory.mktemp("two")), 0, ""
    else:
        kept = broken(before, folder, done=case.done)
        if case.rule in (REFUSED, CONSENT):
            check_refusal(case, command_line(case, bases, folder), tmp_path / "none", capfd)
            assert contents(folder) == kept
        capfd.readouterr()
        code, result = resumed(case, before, bases, folder)
        said = capfd.readouterr().err
    said += result.said
    assert case.says in said
    if case.rule is REFUSED:
        assert code == 2 and contents(folder) == kept
        return
    assert code == 0, said
    assert ("inexactly, as asked" in said) is (case.rule is CONSENT)
    assert ("last digits may differ" in said) is (case.rule is NOTED)
    check_rows(result.rows, straight.rows)
    check_result(case, result.folder, straight.folder)


def two_processes(bases: Path, went: dict[str, Went], before: Went, folder: Path) -> Went:
    """The case of two processes: a launch of them takes long, so that there is one."""
    (case,) = (case for case in MATRIX if case.processes == 2)
    if case.name not in went:
        broken(before, folder / "run", done=case.done)
        code, went[case.name] = resumed(case, before, bases, folder / "run")
        assert code == 0, went[case.name].said
    return went[case.name]


def check_refusal(case: Case, argv: list[str], rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without consent, and where none helps: what to do is said."""
    capfd.readouterr()
    code, _ = run(argv, rows, processes=1, threads=case.threads)
    said = capfd.readouterr().err
    assert code == 2 and case.says in said and "Traceback" not in said
    assert ("--allow_inexact_resume true" in said) is (case.rule is CONSENT)


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
