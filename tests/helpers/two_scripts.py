"""The training script as two processes (`run_two`), with a fault on the second of them.

Started as a script it forks them, for each job of its standard input, from a process that has imported the libraries:
importing takes longer than what they do.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import train_loop
from medsum_core.checkpoint import checkpoint as checkpoints
from medsum_core.process import run_as_script

ROOT = Path(__file__).parents[2]


def run_two(
    first: list[str], second: list[str], fault: str = "none", *, rows: Path | None = None
) -> tuple[list[int], list[str]]:
    """Exit codes and messages of two processes of one run, started with these flags. `rows`: for `record_rows`."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [str(Path(folder) / f"{rank}.log") for rank in (0, 1)]
        job = {"flags": [first, second], "fault": fault, "rows": rows and str(rows), "logs": logs}
        starter = _starter()
        assert starter.stdin is not None and starter.stdout is not None
        starter.stdin.write(json.dumps(job) + "\n")
        starter.stdin.flush()
        codes = json.loads(starter.stdout.readline())
        messages = [Path(log).read_text() for log in logs]
    assert all("Traceback" not in message for message in messages), messages
    return codes, messages


@cache
def _starter() -> subprocess.Popen[str]:
    """The process that all of them are forked from; it ends with this one, which holds its standard input."""
    path = os.pathsep.join(str(ROOT / name) for name in ("", "tests/helpers", "benchmarks"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    command = [sys.executable, __file__]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def recorded_rows(folder: Path) -> list[list[str]]:
    """The ids of the rows that the loop took, window by window, over all processes: those of `record_rows`."""
    files = [path.read_text().splitlines() for path in sorted(folder.iterdir())]
    return [[id for line in lines for id in json.loads(line)] for lines in zip(*files, strict=True)]


def record_rows(folder: Path) -> Callable[..., Any]:
    """`train_loop.local_rows` that notes the ids of what it hands out, a line a window, in a file of each process."""
    local_rows = train_loop.local_rows

    def recorded(window: Sequence[Any], accelerator: Any) -> Sequence[Any]:
        found = local_rows(window, accelerator)
        with (folder / f"{accelerator.process_index}.jsonl").open("a") as file:
            file.write(json.dumps([example.id for example in found]) + "\n")
        return found

    return recorded


def unreadable() -> None:
    """Every file of the newest checkpoint is a read error."""
    real_open = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        if Path(os.fsdecode(path)).parent.name == "step-000002" and not flags & os.O_CREAT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_open(path, flags, *arguments, **keywords)

    os.open = refuse


def stale_listing() -> None:
    """The newest checkpoint is not in the listing of the folder."""
    found = checkpoints.list_checkpoints
    checkpoints.list_checkpoints = lambda folder: found(folder)[:-1]  # type: ignore[assignment]


def another_step() -> None:
    """The process believes that it is an update ahead."""
    after = train_loop.after_window

    def ahead(progress: Any, **settings: Any) -> Any:
        found = after(progress, **settings)
        return replace(found, step=found.step + 1) if found.step == 1 else found

    train_loop.after_window = ahead


FAULTS = {"unreadable": unreadable, "stale_listing": stale_listing, "another_step": another_step}


def one_process(job: dict[str, Any], rank: int, port: int) -> int:
    """The exit code of this process of the run."""
    launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in launch.items()}
    if rank == 1 and job["fault"] in FAULTS:
        FAULTS[job["fault"]]()
    if job["rows"] is not None:
        train_loop.local_rows = record_rows(Path(job["rows"]))  # type: ignore[assignment]
    return run_as_script(lambda: train_loop.main(job["flags"][rank]))


def main() -> None:
    """A job a line of standard input; the two exit codes are a line of standard output."""
    from forked_runs import fork, preload, wait

    preload()
    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = [fork(partial(one_process, job, rank, port), Path(job["logs"][rank])) for rank in (0, 1)]
        print(json.dumps([wait(pid) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
