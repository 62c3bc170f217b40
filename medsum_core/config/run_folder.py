"""The run folder: the names of its files, and `config.json`, which decoding, merging and resuming read back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsum_core.config.run_config import RunConfig
from medsum_core.errors import InputError
from medsum_core.files import read_plain_file, write_text_atomic

CONFIG_NAME = "config.json"
ADAPTER_FOLDER = "adapter"
METRICS_NAME = "metrics.jsonl"
CURVE_NAME = "loss_curve.png"
REPORT_NAME = "report.md"
AUDIT_NAME = "target_audit.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"


def default_folder(preset: str) -> str:
    """`runs/<preset>-<time>`, for a run that names none."""
    return f"runs/{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def make_run_folder(folder: Path) -> None:
    """Create it, private to its owner. Raises InputError if the system refuses."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: can't be made ({error.strerror})") from error


def write_run_config(folder: Path, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """`config.json`: every setting as resolved (`settings`), and what the run was made with (`facts`)."""
    values = {"settings": config.to_json(), "facts": dict(facts)}
    write_text_atomic(folder / CONFIG_NAME, json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_run_config(folder: str | Path) -> RunConfig:
    """The settings of a finished or interrupted run, as resolved. Raises InputError if the folder holds none."""
    path = Path(folder) / CONFIG_NAME
    try:
        values = json.loads(read_plain_file(path))
        return RunConfig.from_json(values["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: missing, or not the settings of a run; is {folder} a run folder?") from error
