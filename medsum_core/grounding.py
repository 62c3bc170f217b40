"""Does a note say only what its dialogue says? Numbers, dates, doses, frequencies and sides are looked up.

`python -m medsum_core.grounding --input_file notes.csv --note_column NAME [--dialogues F.csv] [--json OUT]`

Deterministic, without a model or the network. Reports hold ids, offsets and counts, never text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medsum_core.facts.attributes import attribute
from medsum_core.facts.reading import read_mentions
from medsum_core.facts.verdicts import Verdict, judge, read_talk
from medsum_core.records import Record


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A checkable fact of a note at its characters `[start, end)`.

    `kind`: number, age, date, duration, dose, measurement, temperature, percent, frequency, pressure, laterality or
    code (L4, G2). `turn`: the turn of the dialogue that says it, from 0; None unless supported.
    """

    start: int
    end: int
    kind: str
    verdict: Verdict
    turn: int | None


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


def check_note(note: str, dialogue: str) -> list[Fact]:
    """The checkable facts of `note` in order, each looked up in `dialogue`. Offsets are into `note` as given.

    "contradicted": the dialogue gives the same kind, unit or attribute another value; "not_found": it gives none.
    """
    scan, stated = read_mentions(note, spoken=False)
    if not stated:
        return []
    talk = read_talk(dialogue)
    known = {attribute(scan, mention) for mention in stated}
    facts = []
    for mention in stated:
        for start, end, verdict, turn in judge(mention, scan, talk, known):
            facts.append(Fact(start=start, end=end, kind=mention.kind, verdict=verdict, turn=turn))
    return facts


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
