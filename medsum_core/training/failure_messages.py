"""Messages for a run that fails: the cause, what to change, and which checkpoint can still be used."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.checkpoint.checkpoint import Progress, find_checkpoint, load_checkpoint
from medsum_core.config.run_folder import CHECKPOINTS_FOLDER
from medsum_core.data.disclosure import show_ids
from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.kernels import GRAPHS
from medsum_core.training.run import Run


def diverged_message(run: Run, progress: Progress, window: Sequence[Example]) -> str:
    """The message of DivergedError: the ids of the last window's rows (no text) and the last usable checkpoint."""
    return (
        f"{progress.windows_in_a_row_skipped} windows in a row had no target or a non-finite loss or gradient; nothing "
        f"was updated by them. Rows of the last one: {show_ids(example.id for example in window)}. {_still_good(run)}. "
        "Try a new run with --precision fp32 or bf16 or a lower --learning_rate, or look at the rows: "
        "python -m medsum_core.preview"
    )


def memory_remedy(run: Run) -> str:
    """The flags that lower this run's memory, in the order to try them, and how to resume."""
    train, graphs = run.config.train, run.kernels.name == GRAPHS
    flags = {
        "--parallel_micro_batches 1": (train.parallel_micro_batches or 1) > 1,
        f"--pack_tokens below {run.pack_tokens}": run.pack_tokens > 0,
        f"--per_device_train_batch_size below {train.per_device_train_batch_size}, with more "
        "--gradient_accumulation_steps for it": run.pack_tokens == 0 and train.per_device_train_batch_size > 1,
        "--gradient_checkpointing on": train.gradient_checkpointing != "on" and not graphs,  # graphs refuse it
        f"in a new run {'--kernels triton or ' if graphs else ''}a lower --max_length": True,
    }
    fitting = ", then ".join(flag for flag, helps in flags.items() if helps)
    return (
        f"in this order {fitting} needs less memory; all but the last give the same gradient and go on with "
        f"--resume_from_checkpoint auto. {_still_good(run)}"
    )


def _still_good(run: Run) -> str:
    """A clause naming the last checkpoint: always usable, as windows that are not finite update nothing."""
    if not run.accelerator.is_main_process:
        return "The first process names the checkpoint that is still good"
    try:
        path = find_checkpoint(run.folder / CHECKPOINTS_FOLDER, "auto")
        if path is None:
            return "No checkpoint had been written"
        return f"Still good is {path}, the adapter as of update {load_checkpoint(path).progress.step}"
    except InputError as error:
        return f"No checkpoint can be read ({error})"
