"""What the report and the model card share: tables of base against tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medsum_core.grounding.kinds import CHECKED_KINDS, UNCHECKED
from medsum_core.report.comparison import Comparison, Side
from medsum_core.report.markdown import NOT_MEASURED, estimate, figure, table
from medsum_core.report.run_summary import RunSummary
from medsum_core.score.bootstrap import mean_difference, mean_estimate, rate_difference, rate_estimate

ROUGE_TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
PROTOCOL = (
    "ROUGE in the official MEDIQA setting: rouge-score without stemmer, F-measure from 0 to 1, mean over rows. In "
    "brackets: 95 % percentile-bootstrap intervals, 10,000 resamples of rows, seed 0; differences are paired (each "
    "resample takes the same rows of both sides). An interval of a difference that holds 0 shows no difference. "
    "Intervals of few rows are too narrow; that of a single row says nothing."
)
COLUMNS = ("", "base", "tuned", "tuned − base")

OMISSION_NOTE = (
    "A fact that the source text states several times counts once; questions count with their yes or no. A note of one "
    "section rightly leaves out what belongs to others: of such notes the omission rate only compares systems."
)

Row = tuple[str, str, str, str]
Counts = tuple[tuple[int, ...], tuple[int, ...]]  # by row: facts that count against a side, of how many


def loss_table(summary: RunSummary) -> str:
    """Validation loss and the stop token's loss, before the first update (the base) and of the saved adapter."""
    rows = [_loss_row("validation loss (nats per note token)", summary.eval_loss_before, summary.eval_loss_after)]
    if summary.stop_loss_before is not None or summary.stop_loss_after is not None:
        title = "loss of the stop token after the reference note (nats)"
        rows.append(_loss_row(title, summary.stop_loss_before, summary.stop_loss_after))
    return table(COLUMNS, rows)


def score_table(comparison: Comparison) -> str:
    """ROUGE, also of the copied source text; note length; share of notes that ended with a stop token."""
    base, tuned = comparison.base, comparison.tuned
    rows = []
    for name, title in ROUGE_TITLES.items() if base.rouge else ():
        if comparison.copied_dialogue:
            title += f" (copied source text: {figure(mean_estimate(comparison.copied_dialogue[name]).value)})"
        rows.append(_mean_row(title, base.rouge[name], tuned.rouge[name]))
    reference_length = estimate(mean_estimate(comparison.references.num_tokens), digits=1)
    length_title = f"note length, mean tokens (references: {reference_length})"
    rows.append(_mean_row(length_title, base.num_tokens, tuned.num_tokens, digits=1))
    stop_title = f"notes that stopped by themselves ({comparison.max_new_tokens} new tokens allowed)"
    rows.append(_mean_row(stop_title, _stopped(base), _stopped(tuned), digits=1, percent=True))
    return table(COLUMNS, rows)


def others_table(comparison: Comparison) -> str:
    """ROUGE of notes that neither model wrote, and what the tuned model's have more; "" where there are none."""
    others = {"copied source text": comparison.copied_dialogue, "another system's file": comparison.baseline}
    measured = {name: rouge for name, rouge in others.items() if rouge}
    if not measured or not comparison.tuned.rouge:
        return ""
    rows = []
    for name, title in ROUGE_TITLES.items():
        row = [title]
        for rouge in measured.values():
            difference = mean_difference(comparison.tuned.rouge[name], rouge[name])
            row += [estimate(mean_estimate(rouge[name])), estimate(difference, signed=True)]
        rows.append(row)
    header = [cell for name in measured for cell in (name, f"tuned − {name}")]
    return table(("", *header), rows)


def division_table(comparison: Comparison) -> str:
    """ROUGE of each division of a visit's note, over the rows whose reference has it."""
    rows: list[tuple[str, ...]] = []
    for name, sides in comparison.divisions.items():
        plain = {side: scores.get("plain") for side, scores in sides.items()}
        base, tuned = plain["base"], plain["tuned"]
        if base is None or tuned is None:
            continue
        cells = [figure(scores[metric]) for metric in ("rouge1", "rougeLsum") for scores in (base, tuned)]
        rows.append((name.replace("_", " "), str(base["count"]), *cells))
    titles = [f"{title}, {side}" for title in ("ROUGE-1", "ROUGE-Lsum") for side in ("base", "tuned")]
    return table(("division", "rows", *titles), rows)


def fact_table(comparison: Comparison) -> str:
    """Facts of the notes that the source text does not state, and the reverse: references, base and tuned."""
    sides = (comparison.references, comparison.base, comparison.tuned)
    rates = [rate_estimate(side.num_unsupported, side.num_facts) for side in sides]
    rows: list[Sequence[str]] = [
        ("facts checked", *(str(sum(side.num_facts)) for side in sides)),
        ("not in the source text, or against it", *(str(sum(side.num_unsupported)) for side in sides)),
        ("notes with at least one such fact", *(_flagged(side) for side in sides)),
        ("unsupported rate", *(estimate(rate, digits=1, percent=True) for rate in rates)),
    ]
    if comparison.counts_omissions:
        left_out = [rate_estimate(side.num_omitted, side.num_stated) for side in sides]
        rows += [
            ("facts that the source texts state", *(str(sum(side.num_stated)) for side in sides)),
            ("not in the note", *(str(sum(side.num_omitted)) for side in sides)),
            ("omission rate", *(estimate(rate, digits=1, percent=True) for rate in left_out)),
        ]
    return table(("", "references", "base", "tuned"), rows)


def fact_differences(comparison: Comparison) -> str:
    """The unsupported rates against each other and the omission rates, paired, a sentence each."""
    texts = [_differences("unsupported rate", comparison, _unsupported)]
    texts += [_differences("omission rate", comparison, _omitted)] if comparison.counts_omissions else []
    return " ".join(texts)


def fact_kinds(comparison: Comparison) -> str:
    """Which kinds of facts the rates are of, what they can't see, and what an omission rate is of."""
    text = f"Looked up in the whole source text: {CHECKED_KINDS}. Not checked: {UNCHECKED}."
    return f"{text} {OMISSION_NOTE}" if comparison.counts_omissions else text


def _differences(name: str, comparison: Comparison, counts: Callable[[Side], Counts]) -> str:
    parts = []
    for title, other in (("tuned − base", comparison.base), ("tuned − references", comparison.references)):
        difference = rate_difference(*counts(comparison.tuned), *counts(other)).scaled(100)
        parts.append(f"{title} {estimate(difference, digits=1, signed=True)}")
    return f"Differences of the {name}, in percentage points, paired: {'; '.join(parts)}."


def _unsupported(side: Side) -> Counts:
    return side.num_unsupported, side.num_facts


def _omitted(side: Side) -> Counts:
    return side.num_omitted, side.num_stated


def _loss_row(title: str, before: float | None, after: float | None) -> Row:
    if before is None or after is None:
        return title, figure(before), figure(after), NOT_MEASURED
    share = f" ({figure(100 * (after - before) / before, digits=1, signed=True)} %)" if before > 0 else ""
    return title, figure(before), figure(after), figure(after - before, signed=True) + share


def _mean_row(
    title: str, base: Sequence[float], tuned: Sequence[float], *, digits: int = 3, percent: bool = False
) -> Row:
    scale = 100 if percent else 1
    difference = mean_difference(tuned, base).scaled(scale)
    return (
        title,
        estimate(mean_estimate(base), digits=digits, percent=percent),
        estimate(mean_estimate(tuned), digits=digits, percent=percent),
        estimate(difference, digits=digits, signed=True) + (" points" if percent and base else ""),
    )


def _stopped(side: Side) -> list[float]:
    return [0.0 if hit_limit else 1.0 for hit_limit in side.hit_limit]


def _flagged(side: Side) -> str:
    return f"{sum(count > 0 for count in side.num_unsupported)} of {len(side.num_unsupported)}"
