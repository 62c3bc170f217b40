"""Fine-tune Gemma on clinical dialogues: this page assembles the parts and holds the loop.

    python train_loop.py --preset demo

A window is the rows of one update: processes x batch x accumulation. Its loss is summed over the notes' tokens and
divided once, by the number of these tokens in the whole window. So how its rows are cut into micro-batches, packed, or
shared out over processes never changes the gradient.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medsum_core.config.run_config import parse_run
from medsum_core.errors import DivergedError, StoppedBySignal, run_as_script
from medsum_core.kernels.cpu.malloc import keep_one_heap

if __name__ == "__main__":
    keep_one_heap()  # before an import starts a thread
    if code := run_as_script(lambda: parse_run(sys.argv[1:])):
        raise SystemExit(code)  # --help and a wrong setting are answered before the slow imports that follow

import torch
from torch import Tensor
from tqdm import tqdm

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.data.collator import MicroBatch, split_window
from medsum_core.data.masking import Example
from medsum_core.device import return_free_memory
from medsum_core.kernels.cpu.lanes import GradientSum, share_out
from medsum_core.kernels.cpu.shared_prefix import split_prefix
from medsum_core.kernels.layers.dropout import draw_seeds, dropout_seed
from medsum_core.model.attention import document_attention
from medsum_core.model.base import head_softcap, head_weight, hidden_states, prefix_states
from medsum_core.training.loss import note_nll
from medsum_core.training.optimizer import set_lr
from medsum_core.training.resume import save
from medsum_core.training.run import Run, after_window
from medsum_core.training.run_evaluation import evaluate
from medsum_core.training.signals import StopFlag, stop_on_signals

MAX_SKIPPED_IN_A_ROW = 3

Objective = Callable[..., Tensor]  # (hidden_BTH, targets_BT, head_VH, softcap=...) -> summed loss, float32
Collate = Callable[..., list[MicroBatch]]  # (examples, batch_size=..., pack_tokens=..., pad_token_id=...)


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One window's figures. `loss` is nats per note token; `skipped` means that nothing was updated."""

    loss: float
    grad_norm: float
    num_targets: int
    num_tokens: int  # prompt and note, without padding, over all processes
    seconds: float
    skipped: bool

    @classmethod
    def of(
        cls, window: Sequence[Example], started: float, *, loss: float, grad_norm: float, skipped: bool
    ) -> StepStats:
        """The figures of a window whose step began at `started`, in seconds of `time.perf_counter`."""
        return cls(
            loss=loss,
            grad_norm=grad_norm,
            num_targets=sum(example.num_targets for example in window),
            num_tokens=sum(example.num_tokens for example in window),
            seconds=time.perf_counter() - started,
            skipped=skipped,
        )


def main(argv: list[str] | None = None, *, objective: Objective = note_nll, collate: Collate = split_window) -> None:
    """The training script, with another loss or collator where one is given.

    Raises the errors of `medsum_core.errors`, which carry the exit codes.
    """
    config = parse_run(sys.argv[1:] if argv is None else argv)
    os.umask(0o077)  # what a run writes stems from patients
    from medsum_core.report.finish import write_results
    from medsum_core.training.setup import build, prepare

    plan = prepare(config)
    if config.output.dry_run:
        print("\n".join(plan.card_lines()))
        return
    with stop_on_signals(echo_seconds=plan.echo_seconds) as stop:
        run, progress = build(plan)
        progress = train(run, progress, stop=stop, objective=objective, collate=collate)
    write_results(plan, run, progress)


def train(
    run: Run,
    progress: Progress,
    *,
    stop: StopFlag,
    objective: Objective = note_nll,
    collate: Collate = split_window,
) -> Progress:
    """Train to the end of the run: evaluate? save? stop? step, log. Returns where it ended.

    Raises StoppedBySignal after a whole, saved window, and DivergedError when windows keep being skipped.
    """
    with tqdm(total=run.num_windows, initial=run.windows_done(progress), unit="update", disable=run.log is None) as bar:
        while True:
            done, best = run.is_done(progress) or run.stops_early(progress), False
            if run.evaluates(progress, last=done):
                progress, best = evaluate(run, progress)
                done = done or run.stops_early(progress)
            stopping = run.agree(stop.requested)
            if run.saves(progress, last=done, best=best) or stopping:
                save(run, progress, final=done or stopping)
            if done:
                return progress
            if stopping:
                raise StoppedBySignal(f"after update {progress.step}; resume with --resume_from_checkpoint auto")

            # ---- one update ------------------------------------------------------------------------------------
            window, rate = run.window(progress), run.learning_rate(progress.step)
            stats = train_step(run, window, learning_rate=rate, objective=objective, collate=collate)
            # ----------------------------------------------------------------------------------------------------
            progress = after_window(progress, windows_per_epoch=run.windows_per_epoch, skipped=stats.skipped)
            progress = run.log_step(progress, stats, rate)
            bar.update()
            bar.set_postfix(loss=f"{stats.loss:.3f}", lr=f"{rate:.1e}", tok_s=f"{stats.num_tokens / stats.seconds:.0f}")
            if progress.windows_in_a_row_skipped >= MAX_SKIPPED_IN_A_ROW:
                raise DivergedError(skipped_message(progress, window))


def train_step(
    run: Run,
    window: Sequence[Example],
    *,
    learning_rate: float,
    objective: Objective = note_nll,
    collate: Collate = split_window,
) -> StepStats:
    """One update from one window, the same on every process. A non-finite or empty window changes nothing."""
    started = time.perf_counter()
    num_targets = sum(example.num_targets for example in window)
    if num_targets == 0:
        return StepStats.of(window, started, loss=math.nan, grad_norm=math.nan, skipped=True)
    micro_batches = collate(run.mine(window), **run.collate_settings)
    nll = sum_micro_batches(run, micro_batches, num_targets=num_targets, objective=objective)
    run.sum_gradients()
    loss = run.total(nll) / num_targets
    run.scaler.unscale_(run.optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(run.tensors, run.config.train.max_grad_norm or math.inf)
    skipped = not (torch.isfinite(loss) and torch.isfinite(grad_norm))
    if not skipped:
        set_lr(run.optimizer, learning_rate)
        run.optimizer.step()
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    return StepStats.of(window, started, loss=loss.item(), grad_norm=grad_norm.item(), skipped=skipped)


def sum_micro_batches(
    run: Run, micro_batches: Sequence[MicroBatch], *, num_targets: int, objective: Objective = note_nll
) -> Tensor:
    """The micro-batches' summed loss, float32; each parameter's `grad` becomes its gradient over `num_targets`.

    Each micro-batch has a seed for its dropout and its place in the sums, whichever lane takes it. What all documents
    begin with is computed once, if the run shares it: the micro-batches give the gradient of its keys and values too.
    """
    run.scaler.scale(torch.zeros((), device=run.device))  # it starts at its first use: on processes without rows too
    beginning, micro_batches = split_prefix(micro_batches) if run.shares_prefix else (None, micro_batches)
    *seeds, prefix_seed = draw_seeds(len(micro_batches) + 1)
    head_VH, softcap = head_weight(run.model), head_softcap(run.model)
    return_free_memory(run.device)
    with document_attention(run.model, run.kernel):
        with dropout_seed(prefix_seed):
            prefix = None if beginning is None else prefix_states(run.model, beginning.to(run.device))
        wanted = [*run.tensors, *(() if prefix is None else prefix.leaves)]

        def add_gradients(places: Sequence[int], total: GradientSum) -> None:
            for place in places:
                batch = micro_batches[place].to(run.device)
                with dropout_seed(seeds[place]):
                    hidden_BTH = hidden_states(run.model, batch, prefix=prefix)
                    nll = objective(hidden_BTH, batch.targets_BT, head_VH, softcap=softcap)
                    loss = run.scaler.scale(nll / num_targets)
                    total.add(nll, torch.autograd.grad(loss, wanted, allow_unused=True))
                del hidden_BTH, nll, loss  # their graph would else live through the next forward pass

        alone, shares = share_out(micro_batches, run.lanes.count, pack_tokens=run.pack_tokens)
        whole, *others = totals = [GradientSum(len(wanted), run.device) for _ in shares]
        add_gradients(alone, whole)
        run.lanes.map(add_gradients, shares, totals)
        for part in others:
            whole.add(part.nll, part.gradients)
        if prefix is not None:
            with dropout_seed(prefix_seed):  # once more, for activations that are computed again
                whole.add(torch.zeros_like(whole.nll), prefix.back(whole.gradients[len(run.tensors) :], run.tensors))
    for parameter, gradient in zip(run.tensors, whole.gradients, strict=False):  # those of the prefix come after
        parameter.grad = gradient
    return whole.nll


def skipped_message(progress: Progress, window: Sequence[Example]) -> str:
    """Why the run stops, with the ids of the last window's rows and no text of theirs."""
    return (
        f"{progress.windows_in_a_row_skipped} windows in a row had no target or a non-finite loss or gradient; nothing "
        f"was updated by them. Rows of the last one: {', '.join(example.id for example in window)}. "
        "Try --precision fp32 or bf16, a lower --learning_rate, or look at the rows: python -m medsum_core.preview"
    )


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
