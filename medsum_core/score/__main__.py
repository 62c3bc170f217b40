"""Score notes and answers against references, in the official setting of a task: `python -m medsum_core.score --help`.

Rows are matched by id, or by order where neither file has ids. Reads MTS-Dialog columns (ID, section_text), the columns
that infer.py writes (id, note), ACI-Bench's (encounter_id, note) and the MEDIQA submission formats (TestID,
SystemOutput or SystemOutput1 and 2); flags name other columns of the references. It also reports the effect of short
references, single sections and rows seen in training on the score, and floors that any model should exceed.
--task visit adds scores by division, section-with-header the accuracy of the headers; pubmedqa has accuracy and
macro F1 of the answers (id, answer; references: final_decision).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsum_core.process import run_as_script, start_script

if __name__ == "__main__":
    start_script()  # before the other imports

from medsum_core.config.locks import locked_file
from medsum_core.data.columns import Columns
from medsum_core.data.records import Record, read_records, whole_records
from medsum_core.errors import InputError
from medsum_core.files import write_text_atomic
from medsum_core.score.answers import evaluate_answers, format_answers, read_answers, read_decisions
from medsum_core.score.arguments import ScoreArguments, parse_arguments, scores_choices
from medsum_core.score.choices import header_scores
from medsum_core.score.evaluate import evaluate
from medsum_core.score.files import align, check_headers, read_predictions, read_references
from medsum_core.score.letters import OFFICIAL, UNICODE, check_letters
from medsum_core.score.short_answers import short_answer_summary
from medsum_core.score.table import format_scores
from medsum_core.score.visits import division_scores
from medsum_core.tasks.task import SECTION, SHORT_ANSWER


def main(argv: Sequence[str] | None = None) -> None:
    """Read, score, write the JSON, print a table. Raises InputError for bad input, before anything is written."""
    arguments = parse_arguments(argv, description=(__doc__ or "").split("\n\n")[1])
    choices = scores_choices(arguments.columns.task)
    result = _score_answers(arguments) if choices else _score_notes(arguments)
    if arguments.json:  # before anything is printed, for a reader such as `head` may end this process then
        _write(arguments.json, json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(format_answers(result) if choices else format_scores(result))


def _score_notes(arguments: ScoreArguments) -> dict[str, Any]:
    columns, task = arguments.columns, arguments.columns.task
    source = read_references(arguments.references, columns=columns)
    systems = (*arguments.predictions, arguments.compare)
    read = {path: read_predictions(path, columns=columns) for path in systems if path}
    if task.answer.choice is not None:
        check_headers(source, *read.values())
    _say([line for rows in (source, *read.values()) for line in rows.notices])
    references = source.records
    aligned = {}
    for path, notes in read.items():
        aligned[path], matched = align(source, notes)
        _say(matched)
    texts = {path: [record.note for record in records] for path, records in aligned.items()}
    _check_letters(arguments, {arguments.references: [record.note for record in references], **texts})
    training = _read_training(arguments.train_file, columns) if arguments.train_file else None
    runs = [texts[path] for path in arguments.predictions]
    result = evaluate(
        references,
        runs,
        compare=texts[arguments.compare] if arguments.compare else None,
        training=training,
        with_unicode=arguments.tokenizer == UNICODE,
    )
    for path, run in zip(arguments.predictions, result.get("runs", []), strict=False):
        run["predictions"] = str(path)
    if SHORT_ANSWER in task.metrics:
        result |= short_answer_summary([record.note for record in references], runs)
    if task.divide:
        result["divisions"] = division_scores([record.note for record in references], runs)
    if task.answer.choice is not None:
        headers = [[record.section_header for record in aligned[path]] for path in arguments.predictions]
        result |= header_scores([record.section_header for record in references], headers)
    return result


def _read_training(path: Path, columns: Columns) -> list[Record]:
    """Training rows in the form of references: visits are whole, and a header that is learnt names the section."""
    records = whole_records(read_records(path, columns=columns), columns.task)
    if not columns.task.names_section:
        return records
    return [replace(record, parts={**record.parts, SECTION: record.choice}) for record in records]


def _score_answers(arguments: ScoreArguments) -> dict[str, Any]:
    references = read_decisions(arguments.references, columns=arguments.columns)
    predictions = read_answers(arguments.predictions[0], columns=arguments.columns)
    result, matched = evaluate_answers(references, predictions, task=arguments.columns.task)
    _say([*references.notices, *predictions.notices, *matched])
    return result


def _check_letters(arguments: ScoreArguments, texts: Mapping[Path, Sequence[str]]) -> None:
    if arguments.tokenizer == OFFICIAL:
        _say([said for path, notes in texts.items() if (said := check_letters(notes, source=str(path)))])


def _say(notices: Sequence[str]) -> None:
    for notice in notices:
        print(notice, file=sys.stderr)


def _write(path: Path, text: str) -> None:
    with locked_file(path, flag="--json"):
        try:
            write_text_atomic(path, text)
        except OSError as error:
            raise InputError(f"--json {path}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
