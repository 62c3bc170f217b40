"""The run folder: the names of its files, and `config.json`, which decoding, merging and resuming read back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from medsum_core.config.locks import release_lock, take_lock
from medsum_core.config.run_config import RunConfig
from medsum_core.errors import InputError
from medsum_core.files import WRONG_KIND, read_plain_file, write_text_atomic

if TYPE_CHECKING:  # keeps the start of a script fast
    from filelock import BaseFileLock

CONFIG_NAME = "config.json"
ADAPTER_FOLDER = "adapter"
ADAPTER_RECORD_NAME = "adapter.sha256.json"
METRICS_NAME = "metrics.jsonl"
CURVE_NAME = "loss_curve.png"
REPORT_NAME = "report.md"
AUDIT_NAME = "target_audit.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"
LOCK_NAME = ".lock"


def default_folder(preset: str) -> str:
    """`runs/<preset>-<time>`, for a run without --output_dir."""
    return f"runs/{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def make_run_folder(folder: Path, *, chosen: bool) -> Path:
    """Create it, private to its owner, and return it. Raises InputError if the system refuses.

    `chosen`: named by the user, and may exist. A default folder that exists belongs to another run, started in the same
    second: the later run gets the suffix `-2` and so on.
    """
    try:
        if chosen:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return folder
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in count(1):
            free = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            with suppress(FileExistsError):
                free.mkdir(mode=0o700)
                return free
    except OSError as error:
        raise InputError(f"--output_dir {folder}: can't be made ({error.strerror})") from error
    raise AssertionError("there is always a next number")


class FolderLock:
    """Makes this process the only writer of a folder, from `take` to the end of the `with` block."""

    def __init__(self) -> None:
        self._lock: BaseFileLock | None = None

    @property
    def held(self) -> bool:
        """Whether `take` has succeeded and the block has not ended."""
        return self._lock is not None

    def take(self, folder: Path, *, lock_file: Path | None = None) -> None:
        """Lock the folder. Raises InputError when another process has it, or the system refuses.

        `lock_file`: a path outside the folder; without it the folder must exist.
        """
        if not self.held:
            self._lock = take_lock(lock_file or folder / LOCK_NAME, name=f"--output_dir {folder}")

    def release(self) -> None:
        """Release the lock and delete the lock file."""
        if self._lock is not None:
            release_lock(self._lock)
            self._lock = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def write_run_config(folder: Path, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """`config.json`: every setting as resolved (`settings`), and what the run was made with (`facts`)."""
    values = {"settings": config.to_json(), "facts": dict(facts)}
    write_text_atomic(folder / CONFIG_NAME, json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_run_config(folder: str | Path) -> RunConfig:
    """The settings of a finished or interrupted run, as resolved. Raises InputError if the folder has none."""
    try:
        return RunConfig.from_json(_read_config(folder)["settings"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_run(folder) from error


def run_of(folder: str | Path) -> Path | None:
    """The folder itself, or the run folder of a checkpoint or adapter; None if it belongs to no run."""
    place = Path(folder).resolve()
    if place.name == ADAPTER_FOLDER:
        place = place.parent
    elif place.parent.name == CHECKPOINTS_FOLDER:
        place = place.parents[1]
    return place if (place / CONFIG_NAME).exists() else None


def read_run_facts(folder: str | Path) -> dict[str, Any]:
    """What the run was made with, as `write_run_config` was given it; empty for a run that recorded nothing.

    Raises InputError if the folder holds no run.
    """
    try:
        return dict(_read_config(folder).get("facts", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _not_a_run(folder) from error


def _read_config(folder: str | Path) -> Any:
    path = Path(folder) / CONFIG_NAME
    try:
        return json.loads(read_plain_file(path))
    except WRONG_KIND as error:
        raise _not_a_run(folder) from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error


def _not_a_run(folder: str | Path) -> InputError:
    path = Path(folder) / CONFIG_NAME
    return InputError(f"{path}: missing, or not the settings of a run; is {folder} a run folder?")
