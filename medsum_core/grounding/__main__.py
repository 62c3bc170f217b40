"""Checks whether a dialogue supports the facts of its note: numbers, dates, doses, sides and clinical findings.

`python -m medsum_core.grounding --input_file notes.csv --note_column NAME [--dialogues F.csv]
[--omissions] [--lexicon FILE] [--json OUT]`

Deterministic, without a model or the network. Reports hold ids, offsets and counts, never text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from medsum_core.process import run_as_script, start_script

if __name__ == "__main__":
    start_script()  # before the other imports

from medsum_core.config.column_flags import add_column_flags, column_settings
from medsum_core.config.home_folder import PathParser
from medsum_core.config.locks import check_output
from medsum_core.data.columns import columns_of
from medsum_core.errors import InputError
from medsum_core.files import write_text_atomic
from medsum_core.grounding.report import check_file, table_lines, to_json


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises InputError for bad files or columns, before anything is written."""
    parser = PathParser(prog="python -m medsum_core.grounding", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--input_file",
        required=True,
        metavar="FILE",
        help="the notes: CSV, TSV, JSONL or JSON with id, note and, without --dialogues, dialogue",
    )
    parser.add_argument("--run", metavar="DIR", help="a run folder: its columns, unless others are given")
    add_column_flags(parser, leave_out=("section", "section_column"))
    parser.add_argument(
        "--dialogues", metavar="FILE", help="id and dialogue, joined by id; used if the notes' file has no dialogues"
    )
    parser.add_argument(
        "--omissions", action="store_true", help="also count facts that the source text states and the note omits"
    )
    parser.add_argument(
        "--json", metavar="OUT", help="also write the rates, and the facts of every row as offsets, here"
    )
    parser.add_argument(
        "--lexicon", metavar="FILE", help="more findings: a table of kind, name, synonyms, broader names"
    )
    options = parser.parse_args(arguments)
    if options.run is None and options.note_column is None:
        raise InputError("--note_column: say which column holds the notes")
    if options.json:
        inputs = [Path(name) for name in (options.input_file, options.dialogues, options.lexicon) if name]
        check_output(Path(options.json), inputs=inputs, flag="--json")
    columns = columns_of(column_settings(options, run=options.run))
    checked = check_file(
        options.input_file,
        columns=columns,
        dialogues=options.dialogues,
        lexicon=options.lexicon,
        with_omissions=options.omissions,
    )
    for notice in checked.notices:
        print(notice, file=sys.stderr)
    notes = checked.notes
    result = to_json(notes)
    if options.json:
        try:
            write_text_atomic(options.json, json.dumps(result, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
    print("\n".join(table_lines(notes, result)))


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
