"""Make one system call of a command fail, each call in turn, and check what is left.

    python benchmarks/faults.py [--commands train infer ...] [--sample N]

Commands: train, resume, infer, infer --resume, score --json, merge, conversion (of the embedded model), all with
fictional files and a tiny model, in forks of one process (`forked_runs.py`). Faults (`faulty_calls.py`): EIO, ENOSPC, a
call that does half of what it was asked for, SIGKILL and SIGTERM, at the k-th call that reads, creates, writes, syncs,
renames or removes a file of the command's own.

Checked each time: the exit code is a documented one, there is no traceback, no finished note or checkpoint is lost,
and exit code 2 has written nothing; after the command is repeated, the files are those of an uninterrupted run, to the
byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.faulty_calls import CHANGING, FAULTS, READING, Fault, FaultyCalls
from benchmarks.faulty_commands import COMMANDS, Command, lay_out, outcome, prepare
from benchmarks.forked_runs import fork, preload, wait

LOG_CHARACTERS = 1500


@dataclass(frozen=True, kw_only=True)
class Point:
    """One fault of one command; `place` is the call and its path."""

    command: Command
    fault: Fault
    place: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.command.name}: {self.fault.kind} at call {self.fault.call}, {' '.join(self.place)}"

    @property
    def codes(self) -> set[int]:
        """The documented exit codes."""
        if self.fault.kind.startswith("SIGKILL"):
            return {-signal.SIGKILL}
        if self.fault.kind == "SIGTERM":
            return {75, -signal.SIGTERM, 0} if self.command.resumable else {-signal.SIGTERM}
        if self.fault.kind == "short":
            return {0}
        return {0, 2, self.command.save_code}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The folders: what commands start from, where they run, and what they print."""

    template: Path
    work: Path
    log: Path
    journal: Path

    def attempt(self, command: Command, *, again: bool = False, fault: Fault | None = None) -> int:
        """The exit code of the command in a process of its own. What it finished is written to the journal."""
        self.log.write_text("")
        return wait(fork(lambda: self._run(command.again if again else command.run, fault), self.log))

    def _run(self, run: Callable[[Path], object], fault: Fault | None) -> int:
        import torch

        from medsum_core import files
        from medsum_core.process import run_as_script

        torch.set_num_threads(1)
        files.READ_PAUSES = (0.0,) * len(files.READ_PAUSES)
        os.umask(0o077)
        journal_finished(self.journal)
        calls = FaultyCalls(self.work, fault)
        calls.plant()
        code = run_as_script(lambda: run(self.work))
        if fault is None:
            self.journal.with_suffix(".calls").write_text(json.dumps(calls.seen))
        return code

    def points(self, command: Command) -> list[Point]:
        """All faults at all calls of an uninterrupted run; signals once between two calls that change something."""
        calls = json.loads(self.journal.with_suffix(".calls").read_text())
        return [
            Point(command=command, fault=Fault(call=number, kind=kind), place=(name, path))
            for number, (name, path) in enumerate(calls, start=1)
            for kind in FAULTS[name]
            if kind not in ("SIGKILL", "SIGTERM") or number == 1 or calls[number - 2][0] in CHANGING
        ]


def journal_finished(journal: Path) -> None:
    """Record each finished note and checkpoint in a file that faults do not affect."""
    from medsum_core.generation.part_file import PartFile
    from medsum_core.training import resume

    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    add, save = PartFile.add, resume.save_checkpoint

    def add_and_tell(part: PartFile, row: str, *arguments: Any) -> None:
        add(part, row, *arguments)
        os.write(descriptor, f"{part.path.name} {row}\n".encode())

    def save_and_tell(*arguments: Any, **keywords: Any) -> Path:
        path = save(*arguments, **keywords)
        os.write(descriptor, f"{path.name}\n".encode())
        return path

    PartFile.add, resume.save_checkpoint = add_and_tell, save_and_tell  # type: ignore[method-assign]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lost(bench: Bench, before: dict[str, bytes]) -> str | None:
    """What was finished and is not there: a note, or the newest checkpoint."""
    from medsum_core.checkpoint.checkpoint import find_checkpoint

    lines = bench.journal.read_text().splitlines()
    part, out = bench.work / "notes.csv.part.jsonl", bench.work / "notes.csv"
    for name, row in (line.split() for line in lines if not line.startswith("step-")):
        of_out = name == part.name
        held, written = (part, out) if of_out else (bench.work / "run" / name, bench.work / "run" / "report.md")
        if not written.exists() and row not in (held.read_text() if held.exists() else ""):
            return "a finished note is lost"
    earlier = before.get(part.name, b"").count(b"\n") - 1
    if earlier > 0 and not out.exists() and (not part.exists() or part.read_text().count("\n") - 1 < earlier):
        return "a finished note is lost"
    steps = [line for line in lines if line.startswith("step-")]
    steps += [name.split("/")[2] for name in before if name.startswith("run/checkpoints/step-")]
    if steps:
        newest = find_checkpoint(bench.work / "run" / "checkpoints", "auto")
        if newest is None or newest.name < max(steps):
            return "a finished checkpoint is lost"
    return None


def reads_input(point: Point, before: dict[str, bytes]) -> bool:
    """Whether the call reads an input: a folder that the command itself made may be left if it can't be listed."""
    name, path = point.place
    if name == "open" and path not in before:  # a folder is opened only to flush it after a write
        return False
    return name in READING and any(f"{found}/".startswith(f"{path}/") for found in before)


def problem(bench: Bench, point: Point, expected: dict[str, bytes]) -> tuple[int, str | None]:
    """The exit code, and what is wrong with how the command ended or with what it left; None: nothing."""
    lay_out(point.command, bench.template, bench.work)
    before = contents(bench.work)
    code = bench.attempt(point.command, fault=point.fault)
    log = bench.log.read_text(errors="replace")
    if code not in point.codes:
        return code, f"exit code {code}\n{log[-LOG_CHARACTERS:]}"
    if "Traceback" in log or "Exception ignored" in log:
        return code, f"a traceback, exit code {code}\n{log[-LOG_CHARACTERS:]}"
    if message := lost(bench, before):
        return code, f"{message}, exit code {code}\n{log[-LOG_CHARACTERS:]}"
    if code == 2 and reads_input(point, before) and contents(bench.work) != before:
        return code, f"bad input, but files were written\n{log[-LOG_CHARACTERS:]}"
    found = outcome(bench.work)
    if code != 0 or found.keys() != expected.keys():
        again = bench.attempt(point.command, again=True)
        log = bench.log.read_text(errors="replace")
        if again not in point.command.again_codes:
            return code, f"exit code {code}, given again {again}\n{log[-LOG_CHARACTERS:]}"
        found = outcome(bench.work)
    differing = [name for name in expected if name in found and expected[name] != found[name]]
    differing += sorted(expected.keys() ^ found.keys())
    return code, f"exit code {code}, in the end these files differ: {differing}" if differing else None


def uninterrupted(bench: Bench, command: Command) -> dict[str, bytes]:
    """What an uninterrupted run leaves; asserts that a second one leaves the same."""
    found = []
    for _ in range(2):
        lay_out(command, bench.template, bench.work)
        code = bench.attempt(command)
        assert code == 0, f"uninterrupted {command.name}: {code}\n{bench.log.read_text()}"
        found.append(outcome(bench.work))
    differing = [name for name in {**found[0], **found[1]} if found[0].get(name) != found[1].get(name)]
    assert not differing, f"two uninterrupted runs differ: {differing}"
    return found[0]


def try_command(bench: Bench, command: Command, *, sample: int | None, chance: random.Random) -> tuple[int, list[str]]:
    """Try the command's points and print the counts. Returns the number of points and the failures."""
    started = time.monotonic()
    expected = uninterrupted(bench, command)
    every = bench.points(command)
    points = every if sample is None or sample >= len(every) else chance.sample(every, sample)
    ended: dict[str, Counter[int]] = {}
    failures = []
    for point in points:
        code, message = problem(bench, point, expected)
        ended.setdefault(point.fault.kind, Counter())[code] += 1
        if message is not None:
            failures.append(f"{point}: {message}")
            print(failures[-1], flush=True)
    print(
        f"{command.name}: {every[-1].fault.call} calls, {len(points)} of {len(every)} points, {len(failures)} failed, "
        f"{time.monotonic() - started:.0f} s"
    )
    for kind, codes in ended.items():
        print(f"  {kind}: " + ", ".join(f"exit {code}: {count}" for code, count in sorted(codes.items())), flush=True)
    return len(points), failures


def main(argv: Sequence[str] | None = None) -> int:
    names = [command.name for command in COMMANDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=names, default=names)
    parser.add_argument("--sample", type=int, help="so many points a command, drawn; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    preload()
    total, failures = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(template=folder / "template", work=folder / "work", log=folder / "log", journal=folder / "done")
        bench.work.mkdir()
        prepare(bench.work)
        bench.work.rename(bench.template)
        for command in COMMANDS:
            if command.name in options.commands:
                chance = random.Random(f"{options.seed} {command.name}")
                count, failed = try_command(bench, command, sample=options.sample, chance=chance)
                total, failures = total + count, failures + failed
    print(f"{total} points tried, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
