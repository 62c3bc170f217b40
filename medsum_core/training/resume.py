"""Save the state of a run to a checkpoint, and restore it."""

from __future__ import annotations

import time
from typing import Any

from accelerate import Accelerator

from medsum_core.checkpoint.checkpoint import (
    Checkpoint,
    Progress,
    course_of,
    later_checkpoints,
    save_checkpoint,
)
from medsum_core.checkpoint.rng import capture_rng, restore_rng, start_rng
from medsum_core.config.run_folder import CHECKPOINTS_FOLDER
from medsum_core.errors import FinalSaveError
from medsum_core.files import SaveError
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter_tensors
from medsum_core.training.agreement import differing_process, gather_json
from medsum_core.training.distributed import any_process, print_main
from medsum_core.training.optimizer_state import load_optimizer_state, optimizer_state
from medsum_core.training.run import Run


def save_run(run: Run, progress: Progress, *, final: bool) -> None:
    """Write a checkpoint from the first process. If that fails, earlier checkpoints stay and training continues.

    Raises FinalSaveError when the last save of a run fails, and when the processes are not at the same place.
    """
    started = time.perf_counter()
    if difference := differing_process({**vars(progress), "fingerprints": run.fingerprints}, run.accelerator):
        raise FinalSaveError(f"not saved: {difference}; resume with --resume_from_checkpoint auto")
    rng = gather_json(capture_rng(), run.accelerator)
    problem = _write(run, progress, rng) if run.accelerator.is_main_process else None
    run.saved_at = time.monotonic()  # after a failed save too: the next attempt waits for the full interval
    failed = any_process(problem is not None, run.accelerator)
    run.seconds["saving"] += time.perf_counter() - started
    if not failed:
        return
    if final:
        raise FinalSaveError(
            f"the last checkpoint could not be written: {problem or 'see the first process'}; once that is mended, "
            "--resume_from_checkpoint auto goes on from the one before"
        )
    run.save_failures.append(f"step {progress.step}: {problem}")
    text = f"warning: no checkpoint at step {progress.step}: {problem}; earlier checkpoints remain, training goes on"
    print_main(text, run.accelerator)


def restore_run(run: Run, checkpoint: Checkpoint) -> None:
    """Restore adapter, optimiser, scaler and random states."""
    load_adapter_tensors(run.model, checkpoint.adapter_tensors)
    names = [name for name, _ in run.parameters]
    load_optimizer_state(run.optimizer, names, checkpoint.optimizer_tensors, checkpoint.optimizer_scalars)
    if checkpoint.scaler is not None:
        run.scaler.load_state_dict(checkpoint.scaler)
    restore_random_state(checkpoint, seed=run.config.train.seed, process=run.accelerator.process_index)
    run.resumed_at = run.windows_done(checkpoint.progress)
    _begin_course(run, checkpoint)


def restore_random_state(checkpoint: Checkpoint, *, seed: int, process: int) -> None:
    """Restore this process's random state; a process that the checkpoint has none for starts its own."""
    if process < len(checkpoint.rng):
        restore_rng(checkpoint.rng[process])
    else:  # another process's state would give both the same dropout masks
        start_rng(seed, checkpoint.progress.step, process)


def random_state_notes(checkpoint: Checkpoint, accelerator: Accelerator) -> list[str]:
    """Lines that say how random states (of dropout masks) are restored if the number of processes has changed."""
    saved, now = len(checkpoint.rng), accelerator.num_processes
    if saved == now:
        return []
    kept = f"random states are restored on the first {min(saved, now)} of {now} processes"
    if saved < now:
        return [f"{kept}; the others begin one from --seed, the number of updates done and their own number"]
    return [f"{kept}; those of {saved - now} more that the checkpoint holds are left unused"]


def _begin_course(run: Run, checkpoint: Checkpoint) -> None:
    """Set which checkpoints the run may delete; those after the one resumed from are kept, unless a flag says so."""
    folder, output = run.folder / CHECKPOINTS_FOLDER, run.config.output
    if not run.accelerator.is_main_process:
        return
    run.course = course_of(checkpoint, folder)
    later = later_checkpoints(checkpoint, folder)
    if output.overwrite_later_checkpoints:
        run.course.update(later)
    elif later and output.resume_from_checkpoint != "auto":
        print_main(
            f"later checkpoints stay, and `auto` would go on from them: {', '.join(later)}; "
            "--overwrite_later_checkpoints deletes them once a new one is written",
            run.accelerator,
        )


def _write(run: Run, progress: Progress, rng: list[dict[str, Any]]) -> str | None:
    tensors, scalars = optimizer_state(run.optimizer, [name for name, _ in run.parameters])
    try:
        if run.log is not None:
            run.log.sync()
        path = save_checkpoint(
            run.folder / CHECKPOINTS_FOLDER,
            progress=progress,
            adapter_tensors=adapter_tensors(run.model),
            adapter_config=adapter_config(run.model),
            optimizer_tensors=tensors,
            optimizer_scalars=scalars,
            rng=rng,
            scaler=run.scaler.state_dict() if run.scaler.is_enabled() else None,
            fingerprints=run.fingerprints,
            resolved=run.resolved,
            keep_last=run.config.output.save_total_limit,
            deletable=run.course,
        )
    except (SaveError, OSError) as error:
        return str(error)
    run.course.add(path.name)
    return None
