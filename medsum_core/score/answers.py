"""Answers that are a choice, scored as PubMedQA's official `evaluation.py` does; the texts behind them by ROUGE.

References are the official JSON or any table with the task's columns (`final_decision`, `long_answer`); predictions
are a table of `id, answer`, optionally with `generated_answer` (the answer that the model wrote, where `answer` is the
option of highest probability) and the task's column of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsum_core.data.columns import Columns, find_first
from medsum_core.data.records import normalise_text, number_doubled
from medsum_core.data.rows import Table, not_text_problem, raise_problems, repeated_id_problems
from medsum_core.data.tables import load_table
from medsum_core.score.bootstrap import RESAMPLES, SEED
from medsum_core.score.choices import choice_scores, commonest_choice
from medsum_core.score.files import BY_ORDER, ID_COLUMNS, match_rows, one_column
from medsum_core.score.rouge import score_rows, summarise
from medsum_core.tasks.task import Choice, Task

PREDICTED, GENERATED, TEXT = "answer", "generated_answer", "long_answer"  # columns that infer.py writes


@dataclass(frozen=True, kw_only=True)
class AnswerRows:
    """The answers of one file, in its order: an option each, "" for anything else; None: the file has no such column.

    `ids`: None where it has no ids. `texts`: as written. `notices`: how it was read, no text.
    """

    name: str
    ids: list[str] | None
    answers: list[str]
    generated: list[str] | None
    texts: list[str] | None
    notices: tuple[str, ...]


def read_decisions(path: Path, *, columns: Columns) -> AnswerRows:
    """Reference answers. Raises InputError as `load_table`, and for absent columns, repeated ids, other answers."""
    choice = _choice(columns.task)
    names = (*choice.columns, PREDICTED)
    rows = _read(load_table(path), columns=columns, answer_columns=names)
    problems = [
        f"row {number}: the answer is none of {', '.join(choice.options)}"
        for number, answer in enumerate(rows.answers, start=1)
        if not answer
    ]
    raise_problems(rows.name, problems)
    return rows


def read_answers(path: Path, *, columns: Columns) -> AnswerRows:
    """A system's answers, in the usual columns, as `columns` names those of the references; an answer may be none of
    the options. Raises InputError as `load_table`, and for absent columns and repeated ids."""
    usual = Columns(task=columns.task, number_rows=columns.number_rows)
    return _read(load_table(path), columns=usual, answer_columns=(PREDICTED, *_choice(columns.task).columns))


def evaluate_answers(
    references: AnswerRows, predictions: AnswerRows, *, task: Task
) -> tuple[dict[str, Any], list[str]]:
    """All scores, ready for JSON: ids and numbers, no text; and notices. Raises InputError when rows do not match.

    `accuracy, macro_f1`, their intervals, `count` and `invalid`; the same under `generated` where answers were
    generated; ROUGE of the texts under the name of their column where both files have them; and a floor.
    """
    options = _choice(task).options
    order = match_rows(_side(references), _side(predictions), names=(references.name, predictions.name))
    notices = [] if references.ids else [f"{predictions.name}: {BY_ORDER} {references.name}"]
    truth = references.answers
    given = [predictions.answers[index] for index in order]
    result = {"protocol": _protocol(options), **choice_scores(truth, given, options=options).summary()}
    if predictions.generated is not None:
        written = [predictions.generated[index] for index in order]
        result["generated"] = choice_scores(truth, written, options=options).summary()
    if references.texts is not None and predictions.texts is not None:
        texts = [predictions.texts[index] for index in order]
        result[(*task.answer.columns, TEXT)[0]] = summarise(score_rows(references.texts, texts))
    commonest = [commonest_choice(truth)] * len(truth)
    result["floors"] = {"commonest_reference_answer": choice_scores(truth, commonest, options=options).summary()}
    names = references.ids or [str(number) for number in range(1, len(truth) + 1)]
    result["rows"] = [
        {"id": name, "correct": answer == right} for name, answer, right in zip(names, given, truth, strict=True)
    ]
    return result, notices


def _protocol(options: Sequence[str]) -> str:
    return (
        f"accuracy and macro F1 over {', '.join(options)}, as PubMedQA's evaluation.py; "
        f"95 % percentile bootstrap over rows, {RESAMPLES:,} resamples, seed {SEED}"
    )


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
            lines.append(f"{scores['invalid']} {name} are none of the options, and count as wrong.")
    for name, scores in result.items():
        if isinstance(scores, dict) and "rouge1" in scores:
            lines.append(f"{name}: ROUGE-1 {100 * scores['rouge1']:.2f}, ROUGE-L {100 * scores['rougeL']:.2f}")
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
    if task.answer.choice is None:
        raise ValueError(f"the answers of the task {task.name} are no choice")
    return task.answer.choice


def _read(table: Table, *, columns: Columns, answer_columns: Sequence[str]) -> AnswerRows:
    task = columns.task
    id_names = (columns.id,) if columns.id else tuple(dict.fromkeys((*ID_COLUMNS, *task.id_columns)))
    id_column = one_column(table, id_names, required=columns.id is not None)
    answer = find_first(table, answer_columns) or one_column(table, answer_columns, required=True)
    text = find_first(table, (columns.note,) if columns.note else (*task.answer.columns, TEXT))
    generated = table.find_column(GENERATED)
    problems: list[str] = []
    ids = [normalise_text(row.cells[id_column]) for row in table.rows] if id_column else None
    ids = number_doubled(ids) if ids is not None and columns.number_rows else ids
    for row in table.rows:
        for column in (answer, generated, text):
            if column and (wrong := not_text_problem(row, column, null_is_empty=True)):
                problems.append(wrong)
    if ids is not None:
        empty = [row for row, id in zip(table.rows, ids, strict=True) if not id]
        problems += [f"{row.place}, column {id_column!r}: empty" for row in empty]
        problems += repeated_id_problems(table.rows, ids, id_column)
    raise_problems(table.source, problems)

    def cells(column: str | None, read: Callable[[str], str]) -> list[str] | None:
        return [read(row.cells[column]) for row in table.rows] if column else None

    choice = _choice(task)
    return AnswerRows(
        name=table.source,
        ids=ids,
        answers=cells(answer, lambda text: choice.option(text.strip().removesuffix(".")) or "") or [],
        generated=cells(generated, lambda text: task.answer.split(text)[0]),
        texts=cells(text, str),
        notices=tuple(f"{table.source}: {line}" for line in table.notices),
    )
