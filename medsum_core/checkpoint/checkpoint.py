"""Checkpoints: all that a bit-identical continuation needs, in safetensors and JSON, written whole or not at all.

`step-NNNNNN/` holds `adapter_model.safetensors` and `adapter_config.json` (PEFT's own format), `optimizer.safetensors`,
`state.json` (progress, random states, scaler, fingerprints, resolved settings) and `manifest.json` (size and sha256 of
each). Files that the manifest does not list are never opened. `files.py` writes and verifies the folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from medsum_core.errors import InputError
from medsum_core.files import DamagedError, looks_complete, read_sealed, remove_folder, sweep_drafts, write_sealed

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (ADAPTER, ADAPTER_CONFIG, OPTIMIZER, STATE)
FOLDER_NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. The order of rows depends on seed and epoch only: `epoch` and `window` are a position in it."""

    step: int  # completed updates
    epoch: int
    window: int  # next window inside the epoch
    windows_in_a_row_skipped: int = 0
    windows_skipped: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    unlogged_nll: float = 0.0  # summed since the last line of metrics.jsonl, over `unlogged_targets`
    unlogged_targets: int = 0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, read whole. `rng` has one entry a process."""

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
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Write `step-NNNNNN/`, durable when this returns, then apply retention; return the folder.

    Retention keeps the newest `keep_last` (at least 2) and the best one. Raises SaveError when the system refuses to
    write: nothing but the draft is removed then. One process writes a run's checkpoints.
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
    target = _free_name(Path(checkpoints_dir), progress.step)
    write_sealed(target, files)
    _retain(target, progress=progress, keep_last=keep_last, warn=warn or _to_stderr)
    return target


def find_checkpoint(
    checkpoints_dir: str | Path, choice: str | Path, *, warn: Callable[[str], None] | None = None
) -> Path | None:
    """The checkpoint to continue from, every byte of it verified.

    `auto`: the newest valid one; each damaged one is named through `warn` (stderr if not given) and passed over; None
    when there is none. Anything else is the folder itself; InputError when it is absent or damaged.
    """
    if str(choice) != "auto":
        return load_checkpoint(choice).path
    warn = warn or _to_stderr
    for path in reversed(_list_checkpoints(Path(checkpoints_dir))):
        try:
            found = _load(path)
            if found.progress.step != _numbers(path)[0]:
                raise DamagedError(f"it holds step {found.progress.step}")
            return path
        except DamagedError as error:
            warn(f"warning: checkpoint {path.name} is damaged ({error}): passed over")
    return None


def checkpoint_of_step(checkpoints_dir: str | Path, step: int) -> Path | None:
    """The folder of one step, such as the best one's; not verified."""
    found = [path for path in _list_checkpoints(Path(checkpoints_dir)) if _numbers(path)[0] == step]
    return found[-1] if found else None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises InputError, naming the file at fault, when it is absent or damaged."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"--resume_from_checkpoint {path}: there is no such folder; `auto` takes the newest valid one")
    try:
        return _load(folder.resolve())
    except DamagedError as error:
        raise InputError(
            f"--resume_from_checkpoint {path}: damaged ({error}); name another folder, "
            "or `auto` to take the newest valid one"
        ) from error


def _load(folder: Path) -> Checkpoint:
    files = read_sealed(folder, FILES)
    try:
        state = json.loads(files[STATE])
        return Checkpoint(
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


def _retain(written: Path, *, progress: Progress, keep_last: int, warn: Callable[[str], None]) -> None:
    """Delete older checkpoints; called once the new one is durable.

    A checkpoint at or beyond the step just written was made before the run was resumed from an earlier step: `auto`
    must not continue from it.
    """
    num_kept = 1
    for path in reversed(_list_checkpoints(written.parent)):
        if path == written:
            continue
        step = _numbers(path)[0]
        is_recent = step < progress.step and num_kept < keep_last and looks_complete(path, FILES)
        num_kept += is_recent
        if is_recent or (step < progress.step and step == progress.best_step):
            continue
        try:
            remove_folder(path)
        except OSError as error:
            warn(f"warning: could not delete the old checkpoint {path.name}: {error.strerror or error}")
    sweep_drafts(written.parent)


def _free_name(checkpoints_dir: Path, step: int) -> Path:
    """`step-NNNNNN`, or `step-NNNNNN-2` and so on where that exists (damaged, or saved before a skipped window).

    The existing one is not replaced: it may be the only valid checkpoint until the new one is complete.
    """
    name = f"step-{step:06d}"
    if not (checkpoints_dir / name).exists():
        return checkpoints_dir / name
    taken = [_numbers(path)[1] for path in _list_checkpoints(checkpoints_dir) if _numbers(path)[0] == step]
    return checkpoints_dir / f"{name}-{max(taken, default=1) + 1}"


def _list_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """Oldest first, by the numbers in their names."""
    if not checkpoints_dir.is_dir():
        return []
    return sorted((path for path in checkpoints_dir.iterdir() if FOLDER_NAME.fullmatch(path.name)), key=_numbers)


def _numbers(path: Path) -> tuple[int, int]:
    """`step-000012-3` -> (12, 3), `step-000012` -> (12, 1)."""
    match = FOLDER_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return tensors_to_bytes(plain, metadata={"format": "pt"})


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
