"""The training script as two processes (`run_two`), with a fault on the second of them.

python two_scripts.py FAULT FLAGS...     ROWS=FOLDER in the environment: `record_rows` there
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank, argv in enumerate((first, second)):
        launch = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        launch |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **launch, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"}
        environment |= {} if rows is None else {"ROWS": str(rows)}
        command = [sys.executable, __file__, fault, *argv]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
    try:
        messages = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all("Traceback" not in message for message in messages), messages
    return [process.returncode for process in processes], messages


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

if __name__ == "__main__":
    fault, *flags = sys.argv[1:]
    if os.environ["RANK"] == "1" and fault in FAULTS:
        FAULTS[fault]()
    if "ROWS" in os.environ:
        train_loop.local_rows = record_rows(Path(os.environ["ROWS"]))  # type: ignore[assignment]
    raise SystemExit(run_as_script(lambda: train_loop.main(flags)))
