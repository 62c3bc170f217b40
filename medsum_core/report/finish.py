"""The results of a finished run: adapter, curve, base-against-tuned report, model card. Text only on request."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.config.run_folder import (
    ADAPTER_FOLDER,
    AUDIT_NAME,
    CURVE_NAME,
    METRICS_NAME,
    REPORT_NAME,
)
from medsum_core.data.records import records_of_notes
from medsum_core.errors import FinalSaveError, InputError, explain_out_of_memory
from medsum_core.files import PRIVATE_MODE, write_text_atomic
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter_tensors, save_adapter
from medsum_core.model.recorded_files import record_adapter
from medsum_core.report.blind import blind_verdict
from medsum_core.report.blind_sheet import write_blind_sheet
from medsum_core.report.comparison import Comparison, compare_base_and_tuned
from medsum_core.report.decoding import prepare_decoding
from medsum_core.report.interrupted import remove_parts, report_notes, stopping_between_tokens
from medsum_core.report.loss_curve import draw_loss_curve
from medsum_core.report.model_card import write_model_card
from medsum_core.report.report import write_report
from medsum_core.report.run_summary import RunSummary
from medsum_core.training.best import best_checkpoint
from medsum_core.training.distributed import print_main
from medsum_core.training.metrics import read_metrics
from medsum_core.training.plan import Plan
from medsum_core.training.run import Run
from medsum_core.training.signals import StopFlag

MEMORY_REMEDY = (
    "in the report; the adapter is saved. --resume_from_checkpoint auto goes on with the report where more memory is "
    "free, and with --report_rows 0 ends the run without its notes"
)


def write_results(plan: Plan, run: Run, progress: Progress, *, stop: StopFlag) -> None:
    """Write the adapter (the best one with `--load_best_model_at_end`), then the curve, the report and the card.

    Raises FinalSaveError when one of them can't be written, and StoppedBySignal when `stop` is requested while notes
    are being written; the checkpoints are unaffected. A resumed run continues with the notes of an interrupted report.
    """
    # The rest takes the first process minutes: the others must not wait in a collective, which would time out.
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    if run.log is None:
        return
    _keep_best(plan, run, progress)
    try:
        hashes = save_adapter(run.folder / ADAPTER_FOLDER, adapter_tensors(run.model), adapter_config(run.model))
        record_adapter(run.folder, hashes)
        with explain_out_of_memory(MEMORY_REMEDY):
            _describe(plan, run, progress, adapter=hashes, stop=stop)
        remove_parts(run.folder)
    except (OSError, InputError) as error:  # by now it is no input that is bad: metrics that can't be read back
        raise FinalSaveError(
            f"not everything could be written to {run.folder}: {error}; once that is mended, --resume_from_checkpoint "
            "auto goes on from the last checkpoint"
        ) from error


def _describe(plan: Plan, run: Run, progress: Progress, *, adapter: Mapping[str, str], stop: StopFlag) -> None:
    draw_loss_curve(run.folder / METRICS_NAME, run.folder / CURVE_NAME)
    audit_lines = "".join(json.dumps(row) + "\n" for row in plan.dataset.audit_rows)
    write_text_atomic(run.folder / AUDIT_NAME, audit_lines, mode=PRIVATE_MODE)
    comparison = _compare(plan, run, adapter=adapter, stop=stop)
    summary = _run_summary(plan, run, progress)
    about: dict[str, Any] = {"summary": summary, "data": plan.dataset.facts, "audit": plan.dataset.audit}
    write_report(run.folder / REPORT_NAME, comparison=comparison, **about)
    write_model_card(run.folder / ADAPTER_FOLDER, comparison=comparison, **about)
    print_main(_closing_lines(run, summary, comparison), run.accelerator)


def _keep_best(plan: Plan, run: Run, progress: Progress) -> None:
    best_step = progress.best_step
    if not run.config.train.load_best_model_at_end or best_step == progress.step:
        return
    if best_step is None:
        text = "warning: no evaluation was better than the untrained base's: the last adapter is kept"
        print_main(text, run.accelerator)
        return
    try:
        best = best_checkpoint(run, best_step, resumed_from=plan.checkpoint)
    except InputError as error:
        remedy = "--resume_from_checkpoint auto with --load_best_model_at_end false writes the results of the last one"
        raise FinalSaveError(f"{error}; {remedy}") from error
    load_adapter_tensors(run.model, best.adapter_tensors)


def _compare(plan: Plan, run: Run, *, adapter: Mapping[str, str], stop: StopFlag) -> Comparison | None:
    output, data = run.config.output, run.config.data
    records = plan.dataset.validation_records
    if output.report_rows >= 0:
        records = list(records_of_notes(records, output.report_rows, run.renderer.task))
    if not records:
        return None
    started = time.perf_counter()
    choice, decoder = prepare_decoding(plan, run)
    compared = compare_base_and_tuned(
        run.model,
        run.renderer,
        records,
        shared_ids=plan.dataset.facts.shared_ids,
        baseline=plan.baseline,
        max_length=data.max_length,
        max_new_tokens=data.max_new_tokens,
        no_repeat_ngram_size=data.no_repeat_ngram_size,
        grounded=data.grounded,
        batch_size=choice.batch_size,
        decoder=stopping_between_tokens(decoder, stop),
        open_part=report_notes(run, records, adapter=adapter, choice=choice).open_part,
    )
    run.seconds["report"] = time.perf_counter() - started
    if output.examples_file:
        write_blind_sheet(
            output.examples_file,
            records=compared.records,
            base_notes=compared.base_notes,
            tuned_notes=compared.tuned_notes,
            seed=run.config.train.seed,
        )
    return compared.comparison


def _run_summary(plan: Plan, run: Run, progress: Progress) -> RunSummary:
    model, variables = run.config.model, run.config.data.chat_template_kwargs
    evaluations = [line for line in read_metrics(run.folder / METRICS_NAME) if line.get("eval_loss") is not None]
    saved_step = progress.step  # of the adapter in the run folder
    if run.config.train.load_best_model_at_end and progress.best_step is not None:
        saved_step = progress.best_step
    before = evaluations[0] if evaluations and evaluations[0]["step"] == 0 else {}
    after: dict[str, Any] = next((line for line in reversed(evaluations) if line["step"] == saved_step), {})
    return RunSummary(
        base_name=model.model_name_or_path,
        base_type=plan.base_type,
        base_revision=plan.base_revision,
        precision=model.precision,
        load_in_4bit=model.load_in_4bit,
        task=run.renderer.task,
        prompt_style=f"{run.renderer.style} with {variables}" if variables else run.renderer.style,
        num_updates=progress.step,
        num_skipped_windows=progress.windows_skipped,
        stopped_early=run.stops_early(progress) and not run.is_done(progress),
        eval_loss_before=before.get("eval_loss"),
        eval_loss_after=after.get("eval_loss"),
        stop_loss_before=before.get("eval_stop_loss"),
        stop_loss_after=after.get("eval_stop_loss"),
        seconds=run.seconds,
        versions=plan.versions,
        settings=run.config.to_json(),
    )


def _closing_lines(run: Run, summary: RunSummary, comparison: Comparison | None) -> str:
    early = f" of {run.num_windows}, stopped early" if summary.stopped_early else ""
    lines = [f"done: {summary.num_updates} updates{early}; adapter, curve and report in {run.folder}"]
    if summary.eval_loss_before and summary.eval_loss_after is not None:  # no share of a loss of 0
        change = 100 * (summary.eval_loss_after / summary.eval_loss_before - 1)
        lines.append(
            f"validation loss {summary.eval_loss_before:.4f} -> {summary.eval_loss_after:.4f} ({change:+.1f} %), "
            "nats per note token"
        )
    if comparison is not None:
        lines += _closing_scores(comparison)
    return "\n".join([*lines, *(f"not saved: {failure}" for failure in run.save_failures)])


def _closing_scores(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.base.rouge:
        base, tuned = (_mean(side.rouge["rouge1"]) for side in (comparison.base, comparison.tuned))
        lines.append(f"ROUGE-1 on {len(comparison.ids)} validation notes: base {base:.4f}, tuned {tuned:.4f}")
    if comparison.blind is not None:
        lines.append(blind_verdict(comparison.blind).replace("**", ""))
    if (choices := comparison.choices) is not None:
        shares = {
            name: _mean([given == right for given, right in zip(answers, choices.references, strict=True)])
            for name, answers in choices.given.items()
        }
        lines.append("accuracy: " + "; ".join(f"{name} {share:.4f}" for name, share in shares.items()))
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
