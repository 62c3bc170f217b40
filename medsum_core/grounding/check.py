"""Does a note say only what its dialogue says? Numbers, dates, doses, frequencies and sides are looked up.

`python -m medsum_core.grounding --input_file notes.csv --note_column NAME [--dialogues F.csv] [--json OUT]`

Deterministic, without a model or the network. Reports hold ids, offsets and counts, never text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medsum_core.data.records import Record
from medsum_core.errors import InputError, run_as_script
from medsum_core.grounding.evidence import Support, evidence
from medsum_core.grounding.facts.check import Fact, check_note

__all__ = [
    "AuditReport",
    "Fact",
    "Support",
    "audit_records",
    "check_note",
    "evidence",
    "unsupported_spans",
]


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What share of the facts in rows' notes their dialogues do not say. Ids and counts, no text."""

    rows: int
    facts: int
    not_found: int
    contradicted: int
    unsupported_ids: tuple[str, ...]

    @property
    def unsupported(self) -> int:
        """Facts that are not found or contradicted."""
        return self.not_found + self.contradicted

    @property
    def unsupported_rate(self) -> float:
        """Their share of all facts; 0 where there is no fact."""
        return self.unsupported / self.facts if self.facts else 0.0


def unsupported_spans(note: str, dialogue: str) -> list[tuple[int, int]]:
    """Characters `[start, end)` of the facts of `note` that `dialogue` does not support, in order, not overlapping."""
    spans: list[tuple[int, int]] = []
    for fact in check_note(note, dialogue):
        if fact.verdict == "supported":
            continue
        if spans and fact.start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], fact.end))
        else:
            spans.append((fact.start, fact.end))
    return spans


def audit_records(records: Iterable[Record]) -> AuditReport:
    """Check the notes of `records` against their dialogues, for the audit of training targets."""
    verdicts: dict[str, int] = {"supported": 0, "not_found": 0, "contradicted": 0}
    ids = []
    rows = 0
    for record in records:
        rows += 1
        facts = check_note(record.note, record.dialogue)
        for fact in facts:
            verdicts[fact.verdict] += 1
        if any(fact.verdict != "supported" for fact in facts):
            ids.append(record.id)
    return AuditReport(
        rows=rows,
        facts=sum(verdicts.values()),
        not_found=verdicts["not_found"],
        contradicted=verdicts["contradicted"],
        unsupported_ids=tuple(ids),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises InputError for bad files or columns; nothing is written then."""
    from medsum_core.files import write_text_atomic
    from medsum_core.grounding.report import check_file, table_lines, to_json

    parser = argparse.ArgumentParser(prog="python -m medsum_core.grounding", description=__doc__, allow_abbrev=False)
    parser.add_argument("--input_file", required=True, help="CSV, JSONL or JSON with id, note and (mostly) dialogue")
    parser.add_argument("--note_column", required=True, help="the column that holds the notes")
    parser.add_argument("--dialogues", help="a file with id and dialogue, joined by id where the notes' file has none")
    parser.add_argument("--json", help="write the result there: rates, and every row's facts as offsets")
    options = parser.parse_args(arguments)
    notes = check_file(options.input_file, note_column=options.note_column, dialogues=options.dialogues)
    result = to_json(notes)
    if options.json:
        try:
            write_text_atomic(options.json, json.dumps(result, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
    print("\n".join(table_lines(notes, result)))


if __name__ == "__main__":
    sys.exit(run_as_script(main))
