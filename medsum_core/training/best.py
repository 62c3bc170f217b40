"""The best evaluation of a run: by which metric, and in which checkpoint its adapter is, also in a resumed run."""

from __future__ import annotations

from dataclasses import replace

from medsum_core.checkpoint.checkpoint import Checkpoint, Progress, checkpoint_of_step, read_checkpoint
from medsum_core.config.run_config import RunConfig
from medsum_core.config.run_folder import CHECKPOINTS_FOLDER
from medsum_core.errors import InputError
from medsum_core.files import DamagedError, ReadFailedError
from medsum_core.training.run import Run


def judged_by(config: RunConfig) -> str:
    """The metric by which evaluations are compared, with the flags that change how it is computed."""
    train, data = config.train, config.data
    if train.metric_for_best_model == "eval_loss":
        return "eval_loss"
    flags = {
        "eval_generate": train.eval_generate,
        "no_repeat_ngram_size": data.no_repeat_ngram_size,
        "grounded": data.grounded,
    }
    return " ".join([train.metric_for_best_model, *(f"--{name} {value}".lower() for name, value in flags.items())])


def best_checkpoint(run: Run, step: int, *, resumed_from: Checkpoint | None) -> Checkpoint:
    """The checkpoint of the best step, from the run folder, or else from the folder of the resumed checkpoint.

    Raises InputError if there is none, as after a failed save, or if it is damaged.
    """
    folders = [run.folder / CHECKPOINTS_FOLDER] + ([] if resumed_from is None else [resumed_from.path.parent])
    found = [path for path in (checkpoint_of_step(folder, step) for folder in folders) if path is not None]
    if not found:
        raise InputError(f"the best adapter, of update {step}, is not among the checkpoints")
    try:
        return read_checkpoint(found[0])
    except (DamagedError, ReadFailedError) as error:
        raise InputError(f"the best adapter, of update {step}, can't be read back ({error})") from error


def resumed_best(run: Run, checkpoint: Checkpoint) -> tuple[Progress, list[str]]:
    """The progress of a checkpoint, and the reasons why its best evaluation is discarded; none if it is still valid.

    It is not valid if evaluations are now compared by another metric, or if `--load_best_model_at_end` could not find
    its adapter at the end. Raises InputError if the run is done, so that no evaluation can replace it for that flag.
    """
    progress, now = checkpoint.progress, judged_by(run.config)
    wants_best, reasons = run.config.train.load_best_model_at_end, []
    if progress.best_metric_of not in (None, now):
        reasons.append(f"evaluations were judged by {progress.best_metric_of}, now by {now}")
    elif wants_best and progress.best_step is not None:
        try:
            best_checkpoint(run, progress.best_step, resumed_from=checkpoint)
        except InputError as error:
            reasons.append(str(error))
    if not reasons:
        return progress, []
    if wants_best and run.is_done(progress):
        raise InputError(f"{reasons[0]}, and the run is done: bring that back, or give --load_best_model_at_end false")
    anew = replace(progress, best_metric=None, best_metric_of=None, best_step=None, evaluations_without_gain=0)
    return anew, [f"{reasons[0]}: the best evaluation so far is forgotten, the best from here on counts"]
