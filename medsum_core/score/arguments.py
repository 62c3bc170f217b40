"""The command line of `python -m medsum_core.score`, and which of its flags belong to which task."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsum_core.config.column_flags import add_column_flags, column_settings
from medsum_core.config.home_folder import PathParser
from medsum_core.config.locks import check_output
from medsum_core.data.columns import Columns, columns_of
from medsum_core.errors import InputError
from medsum_core.score.letters import OFFICIAL, UNICODE
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """The command line, parsed."""

    references: Path
    predictions: tuple[Path, ...]
    compare: Path | None
    train_file: Path | None
    json: Path | None
    columns: Columns  # of the references and the training rows; they know the task
    tokenizer: str


def parse_arguments(argv: Sequence[str] | None, *, description: str) -> ScoreArguments:
    """The flags, checked against each other. Raises InputError for those that exclude each other or the task."""
    parser = PathParser(prog="python -m medsum_core.score", description=description, allow_abbrev=False)
    parser.add_argument(
        "--references", type=Path, required=True, metavar="R", help="the references: CSV, TSV, JSONL or JSON"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        nargs="+",
        metavar="P",
        help="a system's notes; several files: its seeds",
    )
    parser.add_argument(
        "--compare", type=Path, metavar="P2", help="another system's notes: adds the paired difference to it"
    )
    parser.add_argument(
        "--train_file", type=Path, metavar="T", help="training rows: adds a floor, and the score without leaked rows"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write all scores, by row too, here (no text)")
    parser.add_argument(
        "--tokenizer",
        choices=[OFFICIAL, UNICODE],
        default=OFFICIAL,
        help="unicode: adds scores with letters of any script; official (default): a to z only",
    )
    parser.add_argument(
        "--run", metavar="DIR", help="a run folder: its task, columns and section, unless others are given"
    )
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
    if scores_choices(arguments.columns.task):
        _check_choices(values, arguments)
    elif arguments.train_file and arguments.columns.task.images_part is not None:
        raise InputError("--train_file: of rows with images it can't be told which training has; leave it out")
    doubled = len({path.resolve() for path in arguments.predictions}) < len(arguments.predictions)
    if doubled:
        raise InputError("--predictions names a file twice; each file stands for one seed")
    if arguments.json:
        inputs = (arguments.references, *arguments.predictions, arguments.compare, arguments.train_file)
        check_output(arguments.json, inputs=inputs, flag="--json")
    return arguments


def scores_choices(task: Task) -> bool:
    """Whether a task is scored by the choice of its answers, such as yes or no, and not by its notes."""
    return task.answer.choice is not None and not task.answer.choice.is_section


def _check_choices(values: argparse.Namespace, arguments: ScoreArguments) -> None:
    given = [name for name in ("compare", "train_file", "dialogue_column") if getattr(values, name) is not None]
    given += ["tokenizer"] if values.tokenizer != OFFICIAL else []
    task = arguments.columns.task.name
    if given:
        raise InputError(f"{', '.join(f'--{name}' for name in given)}: not with --task {task}; leave it out")
    if len(arguments.predictions) > 1:
        raise InputError(f"--predictions: --task {task} scores one file at a time")
