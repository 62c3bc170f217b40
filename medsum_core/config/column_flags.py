"""The flags for a file's columns in commands other than `train_loop.py`; by default the run's settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

from medsum_core.config.arguments import DataArguments
from medsum_core.config.run_folder import read_run_config, run_of
from medsum_core.errors import InputError
from medsum_core.tasks.find import task_text

COLUMN_FLAGS = (
    "task", "id_column", "dialogue_column", "note_column", "section_column", "section", "number_rows", "image_column",
)  # fmt: skip


def add_column_flags(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = ()) -> None:
    """Add the flags of `COLUMN_FLAGS` as `train_loop.py` has them; one that is not given is None."""
    for field in fields(DataArguments):
        if field.name not in COLUMN_FLAGS or field.name in leave_out:
            continue
        how: dict[str, Any] = {"help": field.metadata["help"], "default": None}
        how |= {"action": "store_true"} if field.default is False else {"metavar": field.metadata["metavar"]}
        parser.add_argument(f"--{field.name}", **how)


def column_settings(values: argparse.Namespace, *, run: str | None = None) -> DataArguments:
    """The data settings of the run, or the defaults, with those of `COLUMN_FLAGS` that were given.

    `--section` and `--section_column` exclude each other, so the one that is given replaces the run's other one. Raises
    InputError where both are given, and where `run` is not a run folder, a checkpoint or an adapter of one.
    """
    flags = {name: getattr(values, name, None) for name in COLUMN_FLAGS}
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if "section" in given and "section_column" in given:
        raise InputError("--section and --section_column both say where the section comes from: give one")
    if "task" in given:
        given["task"] = task_text(given["task"])
    data = DataArguments() if run is None else read_run_config(run_of(run) or run).data
    if "section" in given:
        given["section_column"] = None
    elif "section_column" in given:
        given["section"] = None
    return replace(data, **given)
