"""A package `wandb` that writes down how it is called, for tests that need no tracker's real package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCE = """
import json
from pathlib import Path

class Run:
    def __init__(self, **given):
        folder = Path(given["dir"]) / "wandb"
        (folder / f"offline-run-20260101_000000-{given['id']}").mkdir(parents=True, exist_ok=True)
        self.path = folder / "calls.jsonl"
        self._write("init", given)

    def _write(self, name, given):
        with self.path.open("a") as file:
            file.write(json.dumps([name, given]) + "\\n")

    def log(self, values, *, step):
        if FAILS_AT == step:
            raise OSError("disk full")
        self._write("log", {"step": step, **values})

    def finish(self, *, exit_code):
        self._write("finish", exit_code)

FAILS_AT = None
init = Run
"""


def install_fake_wandb(site: Path) -> Path:
    """Write the package into a folder that is, or will be, on the path."""
    (site / "wandb").mkdir(parents=True)
    (site / "wandb" / "__init__.py").write_text(SOURCE)
    return site


def calls(run: Path, name: str) -> list[Any]:
    """What the function was given, call by call, by the run in that folder."""
    lines = (run / "wandb" / "calls.jsonl").read_text().splitlines()
    return [given for called, given in map(json.loads, lines) if called == name]
