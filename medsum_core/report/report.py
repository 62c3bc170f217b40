"""`report.md`: base against tuned with intervals, and what happened to every row. Ids and counts, no text."""

from __future__ import annotations

from pathlib import Path

from medsum_core.config.run_folder import CURVE_NAME
from medsum_core.data.build_report import BuildReport
from medsum_core.data.disclosure import show_id
from medsum_core.files import write_bytes_atomic
from medsum_core.report.blind import blind_table, blind_verdict
from medsum_core.report.choices import choice_differences, choice_table
from medsum_core.report.comparison import Comparison
from medsum_core.report.markdown import code, duration, flatten, id_list, table
from medsum_core.report.run_summary import RunSummary
from medsum_core.report.tables import (
    PROTOCOL,
    division_table,
    fact_differences,
    fact_kinds,
    fact_table,
    loss_table,
    others_table,
    score_table,
)
from medsum_core.training.audit import TargetAudit
from medsum_core.training.dataset import DataFacts


def write_report(
    path: str | Path,
    *,
    summary: RunSummary,
    data: DataFacts,
    comparison: Comparison | None,
    audit: TargetAudit | None = None,
) -> None:
    """Write the run's report in Markdown, atomically.

    `comparison` is None where there are no validation rows, or no notes were asked for: the report then says which.
    """
    sections = [
        _head(summary),
        _scores(summary, data, comparison),
        *([_grounding(comparison), _unshared(comparison)] if comparison else []),
        _data(data),
        _audit(audit),
        _run(summary),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    write_bytes_atomic(path, text.encode(errors="backslashreplace"))  # names of files may be no UTF-8


def _head(summary: RunSummary) -> str:
    revision = f" at {code(summary.base_revision)}" if summary.base_revision else ""
    lines = ["# Run report", f"Base: {code(summary.base_name)}{revision}, {summary.precision_text}."]
    if summary.embedded:
        lines.append(f"**{summary.embedded.label}**")
    skipped = f"{summary.num_skipped_windows} windows skipped" if summary.num_skipped_windows else "no window skipped"
    early = ", stopped early by `--early_stopping_patience`" if summary.stopped_early else ""
    lines.append(f"{summary.num_updates} updates, {skipped}{early}.")
    return "\n\n".join([*lines, f"![training and validation loss by update]({CURVE_NAME})"])


def _scores(summary: RunSummary, data: DataFacts, comparison: Comparison | None) -> str:
    parts = ["## Base against tuned", loss_table(summary)]
    if comparison is None:
        reason = "Notes were not asked for (`--report_rows 0`)" if data.validation else "There are no validation rows"
        return "\n\n".join([*parts, f"{reason}: no notes, no ROUGE."])
    same = (
        f"Both sides wrote the notes of the same {len(comparison.ids)} validation rows: same weights and precision, "
        f"same prompt ({summary.prompt_style}), {comparison.decoding}; for the base the adapter was off. {PROTOCOL}"
    )
    parts += [score_table(comparison), same]
    if others := others_table(comparison):
        parts += ["### Beside notes that neither of the two wrote", others]
    if comparison.choices is not None:
        parts += ["### Choices", choice_table(comparison.choices), choice_differences(comparison.choices)]
    if comparison.blind is not None:
        verdict, figures = blind_verdict(comparison.blind), blind_table(comparison.blind)
        parts += ["### Does it look at the images?", verdict, figures]
    if comparison.divisions:
        parts += ["### By division, over the visits whose reference has it", division_table(comparison)]
    return "\n\n".join(parts)


def _grounding(comparison: Comparison) -> str:
    if not comparison.checks_facts:
        return "## Facts\n\nNot checked: the task gives the model no text to take its facts from."
    explanation = (
        f"{fact_kinds(comparison)} ROUGE is blind to all that: a note can gain ROUGE by inventing as its references do."
    )
    parts = [
        "## Facts that the source text does not say, or the note leaves out",
        fact_table(comparison),
        fact_differences(comparison),
        explanation,
    ]
    return "\n\n".join(parts)


def _unshared(comparison: Comparison) -> str:
    shared = sorted(comparison.shared_ids)
    title = "## Without rows shared with training"
    if not shared:
        return f"{title}\n\nNo row of the comparison has a source text that the training data also holds."
    rest = comparison.without_shared()
    left_out = (
        f"Left out, because the training data holds the same source text: {id_list(shared)}. "
        f"Rows left: {len(rest.ids)}."
    )
    if not rest.ids:
        return f"{title}\n\n{left_out}"
    return "\n\n".join([title, left_out, score_table(rest), fact_table(rest), fact_differences(rest)])


def _data(data: DataFacts) -> str:
    parts = ["## Rows", _build_lines("Training", data.train)]
    if data.validation is not None:
        parts.append(_build_lines("Validation", data.validation))
    repeated, shared, dropped = data.repeated_ids, data.shared_ids, data.ungrounded_dropped_ids
    lines = [
        f"- Training rows whose source text an earlier row has ({len(repeated)}, kept): {id_list(repeated)}",
        f"- Validation rows whose source text the training data has ({len(shared)}, kept): {id_list(shared)}",
    ]
    if dropped:
        lines.append(f"- Training rows left out by `--ungrounded drop` ({len(dropped)}): {id_list(dropped)}")
    lines += [f"- {line}" for line in data.notes]
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _build_lines(name: str, build: BuildReport) -> str:
    truncated = list(build.num_turns_dropped)
    set_aside = [
        f"{code(show_id(row.id))} (note of {row.num_note_tokens} tokens; "
        f"fits whole into `--max_length {row.num_tokens_needed}`)"
        for row in build.set_aside
    ]
    lines = [
        f"{name}: {build.num_used} of {build.num_rows} rows used.",
        "",
        f"- Source text truncated ({len(truncated)} rows, by {sum(build.num_turns_dropped.values())} whole turns or "
        f"paragraphs): {id_list(truncated)}",
        f"- of these, truncated further than in decoding for a long note ({len(build.beyond_reserve)}): "
        f"{id_list(build.beyond_reserve)}",
        f"- Notes with characters that the vocabulary lacks, learnt without them ({len(build.inexact)}): "
        f"{id_list(build.inexact)}",
        f"- Set aside, as prompt and note do not fit ({len(set_aside)}): {', '.join(set_aside) or 'none'}",
    ]
    return "\n".join(lines)


def _audit(audit: TargetAudit | None) -> str:
    if audit is None:
        return ""
    sentence = audit.sentence or "The training notes hold no fact to check"
    return f"## Audit of the training notes\n\n{sentence} (`--ungrounded {audit.choice}`)."


def _run(summary: RunSummary) -> str:
    parts = ["## Run"]
    if summary.seconds:
        phases = [(name, duration(value)) for name, value in summary.seconds.items()]
        parts.append(table(("phase, since the run's last start", "time"), phases))
    if summary.versions:
        parts.append(table(("package", "version"), list(summary.versions.items())))
    if summary.settings:
        rows = [(code(name), code(value)) for name, value in flatten(summary.settings).items()]
        parts.append(table(("setting", "value"), rows))
    return "\n\n".join(parts) if len(parts) > 1 else ""
