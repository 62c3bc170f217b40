"""Validation: loss a note token, ROUGE of generated notes with `--eval_generate`, and the best result so far.

Letters: B rows, T positions, N targets. The loss is one sum over all targets, divided once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from tqdm import tqdm

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.data.collator import MicroBatch, split_window
from medsum_core.data.masking import Example
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record, records_of_notes
from medsum_core.generation.note_rows import whole_notes
from medsum_core.generation.notes import generate_notes
from medsum_core.kernels import Kernels
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import evaluation_mode, head_softcap, head_weight
from medsum_core.score.rouge import METRICS, score_rows
from medsum_core.training.agreement import gather_json
from medsum_core.training.best import judged_by
from medsum_core.training.distributed import local_rows, print_main
from medsum_core.training.loss import TORCH, note_token_nll
from medsum_core.training.run import Run
from medsum_core.training.sharding import with_equal_counts


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """Mean negative log-likelihood a note token, and that of the stop tokens alone; nats."""

    loss: float
    stop_loss: float
    num_targets: int


def evaluate_loss(
    model: PeftModel,
    examples: Sequence[Example],
    *,
    accelerator: Accelerator,
    kernels: Kernels,
    attention: str,
    batch_size: int,
    pack_tokens: int,
    pad_token_id: int,
) -> EvalResult:
    """The loss over all examples, which are divided over the processes; all get the same result.

    Draws no random numbers and restores every module's training mode, so that training is not affected.
    """
    local = local_rows(examples, accelerator)
    batches = split_window(local, batch_size=batch_size, pack_tokens=pack_tokens, pad_token_id=pad_token_id)
    batches = with_equal_counts(batches, model, accelerator)
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)  # nats, targets; the same of stop tokens
    with evaluation_mode(model), document_attention(model, attention, functions=kernels.attention), torch.no_grad():
        for batch in tqdm(batches, desc="evaluating", leave=False, disable=not accelerator.is_main_process):
            sums += _batch_sums(model, batch.to(accelerator.device), kernels)
    nats, targets, stop_nats, stops = accelerator.reduce(sums, "sum").tolist()
    return EvalResult(loss=nats / targets, stop_loss=stop_nats / stops, num_targets=int(targets))


def evaluate(run: Run, progress: Progress) -> tuple[Progress, bool]:
    """Log `eval_loss` (and, with `--eval_generate N`, ROUGE of N notes); returns the progress and whether it improved.

    The state of training does not change: no weights, random numbers or module modes.
    """
    started = time.perf_counter()
    result = evaluate_loss(
        run.model,
        run.validation,
        accelerator=run.accelerator,
        kernels=run.kernels,
        attention=run.attention,
        **run.collate_settings,
    )
    values = {"eval_loss": result.loss, "eval_stop_loss": result.stop_loss}
    train, data = run.config.train, run.config.data
    if train.eval_generate:
        values |= generation_scores(
            run.model,
            run.renderer,
            records_of_notes(run.validation_records, train.eval_generate, run.renderer.task),
            max_length=data.max_length,
            max_new_tokens=data.max_new_tokens,
            no_repeat_ngram_size=data.no_repeat_ngram_size,
            grounded=data.grounded,
            show_progress=run.accelerator.is_main_process,
            decoder=run.kernels.decoder,
        )
        # Each process generates the notes itself, dequantised or not by its own free memory, so rounding may differ;
        # with different scores the processes could disagree about early stopping.
        values = gather_json(values, run.accelerator)[0]
    run.seconds["evaluation"] += time.perf_counter() - started
    run.write_metrics(progress, values)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    print_main(f"update {progress.step}: {shown}", run.accelerator)
    metric = values[train.metric_for_best_model]
    progress, best = judge(progress, metric, lower_is_better="loss" in train.metric_for_best_model)
    return replace(progress, best_metric_of=judged_by(run.config)), best


def generation_scores(
    model: Any, renderer: PromptRenderer, records: Sequence[Record], **decoding: Any
) -> dict[str, float]:
    """What `--eval_generate` logs: mean ROUGE (0 to 1), mean note length, share of notes that stopped by themselves.

    `decoding` are the keyword arguments of `generate_notes`. The keys start with `eval_`, as in metrics.jsonl.
    """
    notes = generate_notes(model, renderer, records, **{"label": "evaluation notes", **decoding})
    records, whole = whole_notes(records, notes, renderer.task)
    texts = [renderer.task.answer.split(note.note)[1] for note in whole]
    rouge = score_rows([record.note for record in records], texts)
    return {
        **{f"eval_{name}": _mean(getattr(rouge, name)) for name in METRICS},
        "eval_note_tokens": _mean([note.num_tokens for note in notes]),
        "eval_stopped_share": _mean([not note.hit_limit for note in notes]),
    }


def judge(progress: Progress, metric: float, *, lower_is_better: bool) -> tuple[Progress, bool]:
    """Record an evaluation: a new best metric and its step, or one more without a gain. Step 0 is neither."""
    best = progress.best_metric
    better = best is None or (metric < best if lower_is_better else metric > best)
    if better and math.isfinite(metric):
        step = progress.step if progress.step else None
        gain = replace(progress, best_metric=metric, best_step=step, evaluations_without_gain=0)
        return gain, progress.step > 0
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + (progress.step > 0)), False


def _batch_sums(model: PeftModel, batch: MicroBatch, kernels: Kernels) -> torch.Tensor:
    hidden_BTH = kernels.hidden_states(model, batch)
    head: dict[str, Any] = {"softcap": head_softcap(model), "arithmetic": kernels.head or TORCH}
    nll_N = note_token_nll(hidden_BTH, batch.targets_BT, head_weight(model), read_M=batch.read_M, **head)
    is_stop_N = _last_of_document(batch)
    pieces = [nll_N, torch.ones_like(nll_N), torch.where(is_stop_N, nll_N, 0), is_stop_N]
    return torch.stack([piece.double().sum() for piece in pieces])  # stays on the device, so no batch waits for it


def _last_of_document(batch: MicroBatch) -> torch.Tensor:
    """(N,) bool over the targets in order: is it the stop token, the target of a document's last position but one?"""
    read_N = batch.read_M.to(batch.document_starts.dtype)
    ends_N = batch.document_starts[torch.searchsorted(batch.document_starts, read_N, right=True)]
    return read_N == ends_N - 2


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
