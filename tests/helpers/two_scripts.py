"""Started by tests/whole/test_processes_agree.py: the training script with a fault on the second of two processes.

python two_scripts.py FAULT FLAGS...
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import train_loop
from medsum_core.checkpoint import checkpoint as checkpoints
from medsum_core.errors import run_as_script


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
    raise SystemExit(run_as_script(lambda: train_loop.main(flags)))
