"""Score notes against references in the official MEDIQA setting: `python -m medsum_core.score --help`.

Rows are matched by id. Reads MTS-Dialog columns (ID, section_text), the columns that infer.py writes (id, note) and the
MEDIQA submission format (TestID, SystemOutput2); flags name other columns of the references. Besides the score: what
short references, single sections and rows that training has seen do to it, and two floors that any model should clear.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsum_core.process import run_as_script, start_script

if __name__ == "__main__":
    start_script()  # before the other imports

from medsum_core.config.column_flags import add_column_flags, column_settings
from medsum_core.config.locks import locked_file
from medsum_core.data.columns import Columns, columns_of
from medsum_core.data.records import read_records
from medsum_core.errors import InputError
from medsum_core.files import write_text_atomic
from medsum_core.score.evaluate import evaluate
from medsum_core.score.files import align, read_predictions, read_references
from medsum_core.score.letters import OFFICIAL, UNICODE, check_letters
from medsum_core.score.table import format_scores


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """The command line, parsed."""

    references: Path
    predictions: tuple[Path, ...]
    compare: Path | None
    train_file: Path | None
    json: Path | None
    columns: Columns  # of the references and the training rows
    tokenizer: str


def main(argv: Sequence[str] | None = None) -> None:
    """Read, score, write the JSON, print a table. Raises InputError for bad input, before anything is written."""
    arguments = _parse(argv)
    columns = arguments.columns
    source = read_references(arguments.references, columns=columns)
    systems = (*arguments.predictions, arguments.compare)
    read = {path: read_predictions(path, columns=columns) for path in systems if path}
    for notice in [line for one in (source, *read.values()) for line in one.notices]:
        print(notice, file=sys.stderr)
    references = source.records
    aligned = {path: align(references, notes.records, source=notes.name) for path, notes in read.items()}
    if arguments.tokenizer == OFFICIAL:
        for path, texts in {arguments.references: [record.note for record in references], **aligned}.items():
            if said := check_letters(texts, source=str(path)):
                print(said, file=sys.stderr)
    training = read_records(arguments.train_file, columns=columns) if arguments.train_file else None
    result = evaluate(
        references,
        [aligned[path] for path in arguments.predictions],
        compare=aligned[arguments.compare] if arguments.compare else None,
        training=training,
        with_unicode=arguments.tokenizer == UNICODE,
    )
    for path, run in zip(arguments.predictions, result.get("runs", []), strict=False):
        run["predictions"] = str(path)
    if arguments.json:  # before anything is printed, for a reader such as `head` may end this process then
        _write(arguments.json, json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(format_scores(result))


def _write(path: Path, text: str) -> None:
    with locked_file(path, flag="--json"):
        try:
            write_text_atomic(path, text)
        except OSError as error:
            raise InputError(f"--json {path}: cannot be written ({error.strerror})") from None


def _parse(argv: Sequence[str] | None) -> ScoreArguments:
    parser = argparse.ArgumentParser(
        prog="python -m medsum_core.score", description=(__doc__ or "").split("\n\n")[1], allow_abbrev=False
    )
    parser.add_argument(
        "--references", type=Path, required=True, metavar="R", help="the reference notes (CSV, JSONL, JSON)"
    )
    parser.add_argument(
        "--predictions", type=Path, required=True, nargs="+", metavar="P", help="a system's notes; several: seeds"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="P2", help="another system's notes: the paired difference to it"
    )
    parser.add_argument(
        "--train_file", type=Path, metavar="T", help="training rows: a floor, and the score without leaked rows"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything here, row scores too (no text)")
    parser.add_argument(
        "--tokenizer",
        choices=[OFFICIAL, UNICODE],
        default=OFFICIAL,
        help="unicode: besides the official scores, which keep a to z, those with letters of any script",
    )
    parser.add_argument("--run", metavar="DIR", help="a run folder: its columns and section, unless others are given")
    add_column_flags(parser)
    values = parser.parse_args(argv)
    arguments = ScoreArguments(
        references=values.references,
        predictions=tuple(values.predictions),
        compare=values.compare,
        train_file=values.train_file,
        json=values.json,
        columns=columns_of(column_settings(values, run=values.run)),
        tokenizer=values.tokenizer,
    )
    doubled = len({path.resolve() for path in arguments.predictions}) < len(arguments.predictions)
    if doubled:
        raise InputError("--predictions names a file twice; each file stands for one seed")
    if arguments.json:
        _check_output(arguments.json, arguments)
    return arguments


def _check_output(path: Path, arguments: ScoreArguments) -> None:
    inputs = (arguments.references, *arguments.predictions, arguments.compare, arguments.train_file)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--json {path}: not a file in a folder that exists")
    if any(other and other.resolve() == path.resolve() for other in inputs):
        raise InputError(f"--json {path}: this is one of the input files")


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
