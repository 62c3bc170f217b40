"""Checkpoints: the state of a run in safetensors and JSON, written atomically.

It holds fingerprints of data, base and environment; with the same ones a resumed run is bit-identical.

`step-NNNNNN/` holds `adapter_model.safetensors` and `adapter_config.json` (PEFT's own format), `optimizer.safetensors`,
`state.json` (progress, random states, scaler, fingerprints, resolved settings) and `manifest.json` (size and sha256 of
each). Files that the manifest does not list are never opened. `files.py` writes and verifies the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from medsum_core.checkpoint.retention import delete_superseded, free_name, list_checkpoints, numbers
from medsum_core.errors import InputError
from medsum_core.files import DamagedError, ReadFailedError, SaveError, read_sealed, write_sealed

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (ADAPTER, ADAPTER_CONFIG, OPTIMIZER, STATE)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run. `epoch` and `window` are a position in the order of rows, which depends on the seed only."""

    step: int  # completed updates
    epoch: int
    window: int  # next window inside the epoch
    windows_in_a_row_skipped: int = 0
    windows_skipped: int = 0
    best_metric: float | None = None
    best_metric_of: str | None = None  # what it measures (`training/best.py`); None: a checkpoint of an earlier version
    best_step: int | None = None
    evaluations_without_gain: int = 0
    unlogged_nll: float = 0.0  # summed since the last line of metrics.jsonl, over `unlogged_targets`
    unlogged_targets: int = 0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint. `rng` has one entry per process."""

    path: Path
    progress: Progress
    adapter_tensors: dict[str, Tensor]
    adapter_config: dict[str, Any]
    optimizer_tensors: dict[str, Tensor]
    optimizer_scalars: dict[str, Any]
    rng: list[dict[str, Any]]
    scaler: dict[str, Any] | None
    fingerprints: dict[str, Any]
    resolved: dict[str, Any]


def save_checkpoint(
    checkpoints_dir: str | Path,
    *,
    progress: Progress,
    adapter_tensors: dict[str, Tensor],
    adapter_config: dict[str, Any],
    optimizer_tensors: dict[str, Tensor],
    optimizer_scalars: dict[str, Any],
    rng: list[dict[str, Any]],
    scaler: dict[str, Any] | None,
    fingerprints: dict[str, Any],
    resolved: dict[str, Any],
    keep_last: int,
    deletable: Collection[str],
) -> Path:
    """Write `step-NNNNNN/`, flushed to disk on return, then apply retention; return the folder.

    Retention keeps the newest `keep_last` (at least 2) and the best one; of the others it deletes those whose names
    are in `deletable` (`course_of` and those that the run has saved since). Raises SaveError if writing fails, after
    removing the draft only. One process writes a run's checkpoints.
    """
    if keep_last < 2:
        raise InputError("--save_total_limit must be at least 2: the newest checkpoint may be found damaged")
    state = {
        "progress": asdict(progress),
        "rng": rng,
        "scaler": scaler,
        "optimizer": optimizer_scalars,
        "fingerprints": fingerprints,
        "resolved": resolved,
    }
    files = {
        ADAPTER: _tensor_bytes(adapter_tensors),
        ADAPTER_CONFIG: _json_bytes(adapter_config),
        OPTIMIZER: _tensor_bytes(optimizer_tensors),
        STATE: _json_bytes(state),
    }
    try:
        target = free_name(Path(checkpoints_dir), progress.step)
    except ReadFailedError as error:
        raise SaveError(str(error)) from error
    write_sealed(target, files)
    best = progress.best_step
    try:
        delete_superseded(target, files=FILES, best_step=best, keep_last=keep_last, deletable=deletable)
    except ReadFailedError as error:
        print(f"warning: kept all old checkpoints: {error}", file=sys.stderr)
    return target


def find_checkpoint(checkpoints_dir: str | Path, choice: str | Path) -> Path | None:
    """The checkpoint to resume from, with every byte verified.

    `auto`: the newest valid one; each damaged one is reported on stderr and skipped; None when there is no checkpoint
    at all. Any other choice is the folder itself.
    Raises InputError when the folder is absent or damaged, when `auto` finds only damaged ones, and when the system
    fails to read one: it may be undamaged, and resuming from an older one would repeat updates.
    """
    if str(choice) != "auto":
        return load_checkpoint(choice).path
    try:
        found, num_damaged = newest_valid(checkpoints_dir)
    except ReadFailedError as error:
        raise InputError(
            f"--resume_from_checkpoint auto: {error}; try again, or name an older checkpoint's folder"
        ) from error
    if found is None and num_damaged:
        raise InputError(
            f"--resume_from_checkpoint auto: {checkpoints_dir} holds {num_damaged} damaged and no valid "
            "checkpoints; bring one back from a copy, or move that folder away to start anew"
        )
    return found


def newest_valid(checkpoints_dir: str | Path) -> tuple[Path | None, int]:
    """The newest undamaged checkpoint, and the number of newer, damaged ones, which are reported on stderr.

    Raises ReadFailedError when the system fails to read one.
    """
    num_damaged = 0
    for path in reversed(list_checkpoints(Path(checkpoints_dir))):
        if (damage := _damage(path)) is None:
            return path, num_damaged
        print(f"warning: checkpoint {path.name} is damaged ({damage}): passed over", file=sys.stderr)
        num_damaged += 1
    return None, num_damaged


def _damage(path: Path) -> str | None:
    try:
        step = read_checkpoint(path).progress.step
    except DamagedError as error:
        return str(error)
    return None if step == numbers(path)[0] else f"it holds step {step}"


def checkpoint_of_step(checkpoints_dir: str | Path, step: int) -> Path | None:
    """The folder of the checkpoint of a step, not verified."""
    found = [path for path in list_checkpoints(Path(checkpoints_dir)) if numbers(path)[0] == step]
    return found[-1] if found else None


def later_checkpoints(checkpoint: Checkpoint, checkpoints_dir: str | Path) -> list[str]:
    """The names of the checkpoints with a higher number than `checkpoint`."""
    here = numbers(checkpoint.path)
    return [path.name for path in list_checkpoints(Path(checkpoints_dir)) if numbers(path) > here]


def course_of(checkpoint: Checkpoint, checkpoints_dir: str | Path) -> set[str]:
    """The names of this checkpoint and of the earlier ones of the same run.

    Checkpoints of the same run have the same fingerprints. Unreadable and damaged ones are not counted.
    """
    checkpoints_dir = Path(checkpoints_dir)
    if checkpoint.path.parent != checkpoints_dir.resolve():
        return set()
    here, run = numbers(checkpoint.path), _run_of(checkpoint)
    earlier = [path for path in list_checkpoints(checkpoints_dir) if numbers(path) < here]
    return {checkpoint.path.name, *(path.name for path in earlier if _run_of(path) == run)}


def _run_of(checkpoint: Checkpoint | Path) -> dict[str, Any] | None:
    """The fingerprints that identify a checkpoint's run; None if it can't be read."""
    try:
        found = read_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    except (DamagedError, ReadFailedError):
        return None
    return {**found.fingerprints, "num_steps": None}  # a run may be extended


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises InputError, naming the file, if it is absent, damaged or unreadable."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"--resume_from_checkpoint {path}: there is no such folder; `auto` takes the newest valid one")
    try:
        return read_checkpoint(folder.resolve())
    except DamagedError as error:
        raise InputError(
            f"--resume_from_checkpoint {path}: damaged ({error}); name another folder, "
            "or `auto` to take the newest valid one"
        ) from error
    except ReadFailedError as error:
        raise InputError(f"--resume_from_checkpoint {path}: {error}; try again, or name another folder") from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises DamagedError, and ReadFailedError when the system fails to read it."""
    files = read_sealed(folder, FILES)
    try:
        state = json.loads(files[STATE])
        found = Checkpoint(
            path=folder,
            progress=Progress(**state["progress"]),
            adapter_tensors=tensors_from_bytes(files[ADAPTER]),
            adapter_config=json.loads(files[ADAPTER_CONFIG]),
            optimizer_tensors=tensors_from_bytes(files[OPTIMIZER]),
            optimizer_scalars=state["optimizer"],
            rng=state["rng"],
            scaler=state["scaler"],
            fingerprints=state["fingerprints"],
            resolved=state["resolved"],
        )
    except (ValueError, TypeError, KeyError, SafetensorError, RecursionError) as error:
        raise DamagedError("written by another version of this program") from error
    if not _has_types(found):
        raise DamagedError("written by another version of this program")
    return found


def _has_types(found: Checkpoint) -> bool:
    """Whether what was read from JSON has the types that the rest of the program relies on."""
    hints, values = get_type_hints(Progress), vars(found.progress)
    kinds = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    progress_holds = all(
        type(values[name]) in ((*kind, int) if float in kind else kind) for name, kind in kinds.items()
    )
    objects = (found.adapter_config, found.optimizer_scalars, found.fingerprints, found.resolved, *found.rng)
    return progress_holds and bool(found.rng) and all(isinstance(one, dict) for one in objects)


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return tensors_to_bytes(plain, metadata={"format": "pt"})


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
