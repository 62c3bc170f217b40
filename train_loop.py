"""Fine-tune Gemma on clinical dialogues: this file assembles the parts and holds the training loop.

    python train_loop.py --preset demo

A window is the rows of one optimiser update: processes x batch x accumulation. Its loss is summed over the note tokens
and divided once, by the number of note tokens in the whole window. Therefore the gradient does not depend on how the
rows are cut into micro-batches, packed, or distributed over processes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from medsum_core.config.run_config import RunConfig, parse_run
from medsum_core.errors import DivergedError, StoppedBySignal, explain_out_of_memory
from medsum_core.kernels import set_up_process
from medsum_core.process import keep_files_private, run_as_script, set_arithmetic, start_script, value_or_exit

if __name__ == "__main__":
    set_up_process()  # before numpy and torch start threads
    start_script()
    config = value_or_exit(lambda: parse_run(sys.argv[1:]))  # --help and a wrong setting: before the slow imports

import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.data.collator import Collate, MicroBatch, each_row_once, split_window
from medsum_core.data.masking import Example
from medsum_core.data.prompt import BuildRenderer, build_renderer
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import autocast, head_softcap, head_weight, hidden_states, no_adapter_casts
from medsum_core.report.finish import write_results
from medsum_core.training.agreement import close_connections_on_error
from medsum_core.training.distributed import any_process, local_rows, sum_gradients, sum_over_processes
from medsum_core.training.failure_messages import diverged_message, memory_remedy
from medsum_core.training.loss import Objective, note_nll, with_options
from medsum_core.training.metrics import StepStats
from medsum_core.training.optimizer import set_lr
from medsum_core.training.plan import plan_run
from medsum_core.training.resume import save_run
from medsum_core.training.run import Run, after_window
from medsum_core.training.setup import BuildOptimizer, build_run
from medsum_core.training.sharding import with_equal_counts
from medsum_core.training.signals import StopFlag, stop_on_signals
from medsum_core.training.validation import evaluate

MAX_SKIPPED_IN_A_ROW = 3
MEMORY_REMEDY = "before the first update: --load_in_4bit true or a smaller base needs less; --dry_run true estimates it"


@close_connections_on_error()
def main(
    argv: Sequence[str] | RunConfig | None = None,
    *,
    objective: Objective = note_nll,
    collate: Collate = split_window,
    build_optimizer: BuildOptimizer | None = None,
    build_renderer: BuildRenderer = build_renderer,
    prepare_model: Callable[[PeftModel], None] | None = None,
) -> None:
    """Run the training script; each keyword argument replaces one part: loss, collator, optimiser, prompt, model.

    `argv`: flags (None: those of the command line), or a parsed configuration. `prepare_model` is called once with the
    PEFT model before the first update. A worked example of each argument is in examples/extend.md. Raises the errors
    of `medsum_core.errors`, which carry the exit codes.
    """
    config = argv if isinstance(argv, RunConfig) else parse_run(sys.argv[1:] if argv is None else list(argv))
    keep_files_private()
    plan = plan_run(config, build_renderer=build_renderer)
    if config.output.dry_run:
        print("\n".join(plan.card_lines()))
        return
    set_arithmetic(plan.device, precision=plan.config.model.precision)
    with plan.lock, plan.trackers, stop_on_signals(echo_seconds=plan.echo_seconds) as stop:
        run, progress = build_run(
            plan,
            objective=objective,
            collate=collate,
            build_optimizer=build_optimizer,
            prepare_model=prepare_model,
        )
        with explain_out_of_memory(partial(memory_remedy, run)):
            progress = train(run, progress, stop=stop, objective=objective, collate=collate)
        write_results(plan, run, progress, stop=stop)


def train(
    run: Run,
    progress: Progress,
    *,
    stop: StopFlag,
    objective: Objective = note_nll,
    collate: Collate = split_window,
) -> Progress:
    """Train to the end of the run and return the final progress. Each turn: evaluate, save, stop if due; update; log.

    Raises StoppedBySignal after a completed and saved window, and DivergedError after MAX_SKIPPED_IN_A_ROW skipped
    ones, or where all of a run were.
    """
    with tqdm(total=run.num_windows, initial=run.windows_done(progress), unit="update", disable=run.log is None) as bar:
        while True:
            done, best = run.is_done(progress) or run.stops_early(progress), False
            if run.evaluates(progress, last=done):
                progress, best = evaluate(run, progress)
                done = done or run.stops_early(progress)
            progress = run.log_rest(progress) if done else progress
            stopping = any_process(stop.requested, run.accelerator)
            if run.saves(progress, last=done, best=best) or stopping or run.saves_by_time(progress):
                save_run(run, progress, final=done or stopping)
            if done:
                return progress
            if stopping:
                raise StoppedBySignal(f"after update {progress.step}; resume with --resume_from_checkpoint auto")

            # ---- one update ------------------------------------------------------------------------------------
            window, rate = run.window(progress), run.learning_rate(progress.step)
            stats = train_step(run, window, learning_rate=rate, objective=objective, collate=collate)
            # ----------------------------------------------------------------------------------------------------
            progress = after_window(progress, windows_per_epoch=run.windows_per_epoch, skipped=stats.skipped)
            progress = run.log_step(progress, stats)
            bar.update()
            bar.set_postfix(loss=f"{stats.loss:.3f}", lr=f"{rate:.1e}", tok_s=f"{stats.num_tokens / stats.seconds:.0f}")
            is_stuck = progress.windows_in_a_row_skipped >= MAX_SKIPPED_IN_A_ROW and not run.searches_loss_scale(stats)
            if is_stuck or (run.is_done(progress) and progress.step == 0):
                raise DivergedError(diverged_message(run, progress, window))


def train_step(
    run: Run,
    window: Sequence[Example],
    *,
    learning_rate: float,
    objective: Objective = note_nll,
    collate: Collate = split_window,
) -> StepStats:
    """One optimiser update from one window, called on every process with the same window.

    A window without targets, or with a non-finite loss or gradient norm, updates nothing (`StepStats.skipped`).
    """
    started = time.perf_counter()
    num_targets = sum(example.num_targets for example in window)
    if num_targets == 0:
        return StepStats.of(window, started, loss=math.nan, grad_norm=math.nan, skipped=True)
    rows = local_rows(window, run.accelerator)
    micro_batches = each_row_once(collate(rows, **run.collate_settings), rows)
    micro_batches = with_equal_counts(micro_batches, run.model, run.accelerator)
    if run.accumulate is None:
        nll = accumulate_gradients(run, micro_batches, num_targets=num_targets, objective=objective)
    else:  # the fast kernels give the same sum
        nll = run.accumulate(
            micro_batches,
            num_targets=num_targets,
            objective=with_options(objective, arithmetic=run.kernels.head),
            reads_targets_only=objective is note_nll,
        )
    sum_gradients(run.tensors, run.accelerator)
    mean_nll = sum_over_processes(nll, run.accelerator) / num_targets
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.tensors, run.config.train.max_grad_norm or math.inf)
    loss, grad_norm = torch.stack([mean_nll, norm]).tolist()  # the first point of a step that waits for the GPU
    skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
    if not skipped:
        set_lr(run.optimizer, learning_rate)
        run.optimizer.step()
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    return StepStats.of(window, started, loss=loss, grad_norm=grad_norm, skipped=skipped)


def accumulate_gradients(
    run: Run, micro_batches: Sequence[MicroBatch], *, num_targets: int, objective: Objective = note_nll
) -> Tensor:
    """Forward and backward pass, one micro-batch after another: adds d(nll / num_targets) to each trainable `.grad`.

    Returns the summed negative log-likelihood of this process's note tokens: nats, () float32. Gradients are fp32.
    """
    head_VH, softcap = head_weight(run.model), head_softcap(run.model)
    # GradScaler initialises lazily; a process without rows must still have a scale to unscale by.
    total_nll = run.scaler.scale(torch.zeros((), device=run.device)) * 0
    with document_attention(run.model, run.attention), no_adapter_casts(run.model):
        for micro_batch in micro_batches:
            batch = micro_batch.to(run.device)
            with autocast(run.model):
                hidden_BTH = hidden_states(run.model, batch)
            nll = with_options(objective, read_M=batch.read_M)(hidden_BTH, batch.targets_BT, head_VH, softcap=softcap)
            run.scaler.scale(nll / num_targets).backward()
            total_nll += nll.detach()
    return total_nll


if __name__ == "__main__":
    raise SystemExit(run_as_script(lambda: main(config), memory_remedy=MEMORY_REMEDY))
