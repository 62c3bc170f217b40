"""Which checkpoints of a run are kept, and their folders' names. Only the run's own checkpoints are deleted."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

from medsum_core.files import (
    DRAFT_PREFIX,
    WRONG_KIND,
    ReadFailedError,
    looks_complete,
    read_with_retries,
    remove_folder,
    sweep,
)

FOLDER_NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?")
DRAFT_NAME = re.compile(rf"{re.escape(DRAFT_PREFIX)}(?:removed-)?{FOLDER_NAME.pattern}-\d+")


def list_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """The checkpoints, oldest first by the numbers in their names. Raises ReadFailedError if listing fails."""
    try:
        paths = read_with_retries(checkpoints_dir, lambda: list(checkpoints_dir.iterdir()))
    except WRONG_KIND:
        return []
    return sorted((path for path in paths if FOLDER_NAME.fullmatch(path.name)), key=numbers)


def numbers(path: Path) -> tuple[int, int]:
    """`step-000012-3` -> (12, 3), `step-000012` -> (12, 1)."""
    match = FOLDER_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def free_name(checkpoints_dir: Path, step: int) -> Path:
    """`step-NNNNNN`, or `step-NNNNNN-2` and so on where that exists (damaged, or saved before a skipped window).

    The existing one is not replaced: it may be the only valid checkpoint until the new one is complete.
    """
    name = f"step-{step:06d}"
    if not (checkpoints_dir / name).exists():
        return checkpoints_dir / name
    taken = [numbers(path)[1] for path in list_checkpoints(checkpoints_dir) if numbers(path)[0] == step]
    return checkpoints_dir / f"{name}-{max(taken) + 1}"


def delete_superseded(
    written: Path,
    *,
    files: Collection[str],
    best_step: int | None,
    keep_last: int,
    deletable: Collection[str],
) -> None:
    """Keep `written`, the best and the newest complete ones, `keep_last` in all; delete the others among `deletable`.

    A deletable one with the same or a higher step was made before the run was resumed from an earlier step; it is
    deleted, so that `auto` does not resume from it. One that can't be read now is neither counted nor deleted.
    """
    step_written, num_kept = numbers(written)[0], 1
    for path in reversed(list_checkpoints(written.parent)):
        if path == written or path.name not in deletable:
            continue
        step = numbers(path)[0]
        try:
            is_recent = step < step_written and num_kept < keep_last and looks_complete(path, files)
        except ReadFailedError as error:
            print(f"warning: kept the old checkpoint {path.name}: {error}", file=sys.stderr)
            continue
        num_kept += is_recent
        if is_recent or (step < step_written and step == best_step):
            continue
        try:
            remove_folder(path)
        except OSError as error:
            reason = error.strerror or error
            print(f"warning: could not delete the old checkpoint {path.name}: {reason}", file=sys.stderr)
    sweep_checkpoint_drafts(written.parent)


def sweep_checkpoint_drafts(checkpoints_dir: Path) -> None:
    """Delete the drafts of crashed saves and deletions. Only one process writes a run folder, so none is in use."""
    sweep(checkpoints_dir, DRAFT_NAME)
