"""Answers that begin with a choice, such as yes, no or maybe, scored as PubMedQA's official `evaluation.py` does.

References are PubMedQA's official JSON or any table with the task's column of choices (`final_decision`); predictions
are a table of `id, answer`, beside
which may stand `generated_answer` (the answer that the model wrote, where `answer` is the likeliest one) and
`long_answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsum_core.data.columns import find_first
from medsum_core.data.records import normalise_text
from medsum_core.data.rows import Table, not_text_problem, raise_problems
from medsum_core.data.tables import load_table
from medsum_core.score.bootstrap import RESAMPLES, SEED
from medsum_core.score.choices import choice_scores, commonest_choice, normalise_choice
from medsum_core.score.files import BY_ORDER, ID_COLUMNS, match_rows, one_column
from medsum_core.score.rouge import score_rows, summarise
from medsum_core.tasks.task import Choice, Task

PROTOCOL = (
    "accuracy and macro F1 over the options, as PubMedQA's evaluation.py; "
    f"95 % percentile bootstrap over rows, {RESAMPLES:,} resamples, seed {SEED}"
)


@dataclass(frozen=True, kw_only=True)
class AnswerRows:
    """The answers of one file, in its order, normalised by `normalise_choice`; None: the file has no such column.

    `ids`: None where it has no ids. `notices`: how it was read, no text.
    """

    name: str
    options: tuple[str, ...]
    ids: list[str] | None
    answers: list[str]
    generated: list[str] | None
    long_answers: list[str] | None
    notices: tuple[str, ...]


def read_decisions(path: Path, task: Task, *, id_column: str | None = None) -> AnswerRows:
    """Reference answers, `id_column`: none of the usual ones. Raises InputError as `load_table`, and for absent
    columns, repeated ids, other answers."""
    ids = (id_column,) if id_column else None
    rows = _read(load_table(path), task, answer_columns=(*_choice(task).columns, "answer"), id_columns=ids)
    problems = [
        f"row {number}: the answer is none of {', '.join(rows.options)}"
        for number, answer in enumerate(rows.answers, start=1)
        if answer not in rows.options
    ]
    raise_problems(rows.name, problems)
    return rows


def read_answers(path: Path, task: Task) -> AnswerRows:
    """A system's answers, of which any may be wrong or empty. Raises InputError as `load_table`, and for absent columns
    and repeated ids."""
    return _read(load_table(path), task, answer_columns=("answer", *_choice(task).columns), id_columns=None)


def evaluate_answers(references: AnswerRows, predictions: AnswerRows) -> tuple[dict[str, Any], list[str]]:
    """All scores, ready for JSON: ids and numbers, no text; and notices. Raises InputError when rows do not match.

    `accuracy, macro_f1`, their intervals, `count` and `invalid`; the same under `generated` where answers were
    generated; ROUGE of long answers under `long_answer` where both files have them; and a floor.
    """
    order = match_rows(_side(references), _side(predictions), names=(references.name, predictions.name))
    notices = [] if references.ids else [f"{predictions.name}: {BY_ORDER} {references.name}"]
    truth, options = references.answers, references.options
    given = [predictions.answers[index] for index in order]
    result: dict[str, Any] = {"protocol": PROTOCOL, **choice_scores(truth, given, options=options).summary()}
    if predictions.generated is not None:
        written = [predictions.generated[index] for index in order]
        result["generated"] = choice_scores(truth, written, options=options).summary()
    if references.long_answers is not None and predictions.long_answers is not None:
        longs = [predictions.long_answers[index] for index in order]
        result["long_answer"] = summarise(score_rows(references.long_answers, longs))
    commonest = [commonest_choice(truth)] * len(truth)
    result["floors"] = {"commonest_reference_answer": choice_scores(truth, commonest, options=options).summary()}
    names = references.ids or [str(number) for number in range(1, len(truth) + 1)]
    result["options"] = list(options)
    result["rows"] = [
        {"id": name, "correct": answer == right} for name, answer, right in zip(names, given, truth, strict=True)
    ]
    return result, notices


def format_answers(result: dict[str, Any]) -> str:
    """The table of one result of `evaluate_answers`: numbers, no text."""
    lines = [result["protocol"], "Points from 0 to 100; [95 % interval].", ""]
    lines.append(f"{'':46}{'rows':>5}{'accuracy':>23}{'macro F1':>23}{'invalid':>9}")
    lines.append(_line("answers", result))
    if "generated" in result:
        lines.append(_line("generated answers", result["generated"]))
    floor = result["floors"]["commonest_reference_answer"]
    lines.append(_line("floor: the references' commonest answer", floor))
    for name, scores in (("answers", result), ("generated answers", result.get("generated"))):
        if scores and scores["invalid"]:
            lines.append(f"{scores['invalid']} {name} are none of {', '.join(result['options'])}, and count as wrong.")
    if "long_answer" in result:
        scores = result["long_answer"]
        lines.append(f"long answers: ROUGE-1 {100 * scores['rouge1']:.2f}, ROUGE-L {100 * scores['rougeL']:.2f}")
    return "\n".join(lines)


def _line(name: str, scores: dict[str, Any]) -> str:
    cells = []
    for metric in ("accuracy", "macro_f1"):
        low, high = scores[f"{metric}_interval"]
        cells.append(f"{100 * scores[metric]:.2f} [{100 * low:.1f}, {100 * high:.1f}]")
    return f"{name:46}{scores['count']:>5}{cells[0]:>23}{cells[1]:>23}{scores['invalid']:>9}"


def _side(rows: AnswerRows) -> Sequence[str] | int:
    return len(rows.answers) if rows.ids is None else rows.ids


def _choice(task: Task) -> Choice:
    assert task.answer.choice is not None
    return task.answer.choice


def _read(table: Table, task: Task, *, answer_columns: Sequence[str], id_columns: Sequence[str] | None) -> AnswerRows:
    id_column = one_column(table, id_columns or ID_COLUMNS, required=id_columns is not None)
    found = [column for column in map(table.find_column, answer_columns) if column]
    answer = found[0] if found else one_column(table, answer_columns, required=True)
    generated = table.find_column("generated_answer")
    long_answer = find_first(table, ("long_answer", *task.answer.columns))
    problems: list[str] = []
    seen: dict[str, int] = {}
    for row in table.rows:
        for column in (answer, generated, long_answer):
            if column and (wrong := not_text_problem(row, column, null_is_empty=True)):
                problems.append(wrong)
        name = normalise_text(row.cells[id_column]) if id_column else str(row.number)
        if not name:
            problems.append(f"{row.place}, column {id_column!r}: empty")
        elif (first := seen.setdefault(name, row.number)) != row.number:
            problems.append(f"{row.place}, column {id_column!r}: the same id as row {first}")
    raise_problems(table.source, problems)

    def cells(column: str) -> list[str]:
        return [row.cells[column] for row in table.rows]

    return AnswerRows(
        name=table.source,
        options=tuple(normalise_choice(option) for option in _choice(task).options),
        ids=list(seen) if id_column else None,
        answers=[normalise_choice(text) for text in cells(str(answer))],
        generated=[normalise_choice(text) for text in cells(generated)] if generated else None,
        long_answers=cells(long_answer) if long_answer else None,
        notices=tuple(f"{table.source}: {line}" for line in table.notices),
    )
