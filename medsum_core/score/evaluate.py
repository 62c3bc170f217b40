"""Score notes against references in the official MEDIQA setting: `python -m medsum_core.score --help`.

Rows are matched by id. Reads MTS-Dialog columns (ID, section_text), the columns that infer.py writes (id, note) and the
MEDIQA submission format (TestID, SystemOutput2). Besides the score: what short references, single sections and rows
that training has seen do to it, and two floors that any model should clear.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medsum_core.data.records import Record, find_shared, read_records, section_name
from medsum_core.errors import InputError, run_as_script
from medsum_core.files import write_text_atomic
from medsum_core.score.bootstrap import RESAMPLES, SEED, mean_difference
from medsum_core.score.files import align, read_notes
from medsum_core.score.rouge import METRICS, RougeRows, average_runs, score_rows, summarise
from medsum_core.score.table import format_scores

SHORT_WORDS = 3
SPEAKER_TAG = re.compile(r"^[A-Za-z]\w*(?: \d+)? ?:\s*", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """The command line, parsed."""

    references: Path
    predictions: tuple[Path, ...]
    compare: Path | None
    train_file: Path | None
    json: Path | None


def floors(records: Sequence[Record], *, training: Sequence[Record] | None = None) -> dict[str, RougeRows]:
    """What needs no model: `copied_dialogue` (speaker tags stripped) and `commonest_training_text` (of the header).

    The first is left out where a record has no dialogue, the second without `training` or where a record has no header.
    A header that training lacks gets the commonest text of all; of equally common texts the earlier one is taken.
    """
    references = [record.note for record in records]
    found: dict[str, RougeRows] = {}
    if all(record.dialogue for record in records):
        found["copied_dialogue"] = score_rows(references, [strip_tags(record.dialogue) for record in records])
    if training and all(record.section_header for record in records):
        overall = Counter(record.note for record in training)
        by_section: dict[str, Counter[str]] = {}
        for record in training:
            by_section.setdefault(section_name(record.section_header), Counter())[record.note] += 1
        counts = [by_section.get(section_name(record.section_header), overall) for record in records]
        texts = [count.most_common(1)[0][0] for count in counts]
        found["commonest_training_text"] = score_rows(references, texts)
    return found


def strip_tags(dialogue: str) -> str:
    """The dialogue as running text: the speaker's tag at the start of each line removed, lines joined by a space."""
    return SPEAKER_TAG.sub("", dialogue).replace("\n", " ")


def evaluate(
    references: Sequence[Record],
    runs: Sequence[Sequence[str]],
    *,
    compare: Sequence[str] | None = None,
    training: Sequence[Record] | None = None,
) -> dict[str, Any]:
    """Everything that is known about notes against their references, ready for JSON; ids and numbers, no text.

    `runs` holds one list of notes for each seed, in the order of the references: scores are means over seeds with their
    standard deviation as `rouge1_spread` (n - 1; only for two runs or more). Differences are `runs` minus `compare`.
    """
    texts = [reference.note for reference in references]
    by_run = [score_rows(texts, run) for run in runs]
    rows = average_runs(by_run)
    result = summarise(rows)
    if len(by_run) > 1:
        means_RM = np.array([list(run.means().values()) for run in by_run])
        spreads = means_RM.std(axis=0, ddof=1).tolist()
        result.update({f"{metric}_spread": spread for metric, spread in zip(METRICS, spreads, strict=True)})
        result["runs"] = [run.means() for run in by_run]
    result["strata"] = _strata(references, rows)
    result["sections"] = _sections(references, rows)
    result["floors"] = {name: summarise(floor) for name, floor in floors(references, training=training).items()}
    if training and all(reference.dialogue for reference in references):
        result["without_shared_dialogues"] = _without_shared(references, rows, training)
    if compare is not None:
        result["compare"] = _compare(rows, score_rows(texts, compare))
    names = [reference.id for reference in references]
    result["rows"] = [
        {"id": name, **dict(zip(METRICS, scores, strict=True))}
        for name, scores in zip(names, rows.matrix().tolist(), strict=True)
    ]
    return {"protocol": _protocol(), **result}


def main(argv: Sequence[str] | None = None) -> None:
    """Read, score, print a table, write the JSON. Raises InputError for bad input, before anything is written."""
    arguments = _parse(argv)
    references = read_notes(arguments.references, allow_empty=False)
    read = {path: read_notes(path, allow_empty=True) for path in (*arguments.predictions, arguments.compare) if path}
    aligned = {path: align(references, notes, source=str(path)) for path, notes in read.items()}
    training = read_records(arguments.train_file) if arguments.train_file else None
    result = evaluate(
        references,
        [aligned[path] for path in arguments.predictions],
        compare=aligned[arguments.compare] if arguments.compare else None,
        training=training,
    )
    for path, run in zip(arguments.predictions, result.get("runs", []), strict=False):
        run["predictions"] = str(path)
    print(format_scores(result))
    if arguments.json:
        write_text_atomic(arguments.json, json.dumps(result, indent=2, allow_nan=False) + "\n")


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
    values = parser.parse_args(argv)
    arguments = ScoreArguments(**{**vars(values), "predictions": tuple(values.predictions)})
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


def _strata(references: Sequence[Record], rows: RougeRows) -> dict[str, Any]:
    lengths = [len(reference.note.split()) for reference in references]
    split = {
        "short_references": [index for index, length in enumerate(lengths) if length <= SHORT_WORDS],
        "longer_references": [index for index, length in enumerate(lengths) if length > SHORT_WORDS],
    }
    return {name: summarise(rows.select(indices)) for name, indices in split.items() if indices}


def _sections(references: Sequence[Record], rows: RougeRows) -> dict[str, Any]:
    indices: dict[str, list[int]] = {}
    for index, reference in enumerate(references):
        indices.setdefault(reference.section_header, []).append(index)
    indices.pop("", None)
    selected = {header: rows.select(indices[header]) for header in sorted(indices)}
    return {header: {**chosen.means(), "count": chosen.count} for header, chosen in selected.items()}


def _without_shared(references: Sequence[Record], rows: RougeRows, training: Sequence[Record]) -> dict[str, Any]:
    shared = set(find_shared(training, references))
    kept = [index for index, reference in enumerate(references) if reference.id not in shared]
    removed = [reference.id for reference in references if reference.id in shared]
    return {**(summarise(rows.select(kept)) if kept else {"count": 0}), "removed_ids": removed}


def _compare(rows: RougeRows, other: RougeRows) -> dict[str, Any]:
    result: dict[str, Any] = {"other": other.means()}
    for metric in METRICS:
        paired = mean_difference(getattr(rows, metric), getattr(other, metric))
        result[metric] = paired.value
        result[f"{metric}_interval"] = [paired.low, paired.high]
    return {**result, "count": rows.count}


def _protocol() -> str:
    return (
        f"rouge-score {version('rouge-score')}, use_stemmer=False, F-measure, mean over rows, rougeLsum split by lines;"
        f" 95 % percentile bootstrap over rows, {RESAMPLES:,} resamples, seed {SEED}"
    )


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
