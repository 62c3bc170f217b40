"""The grounding check: extracts the facts of a note and looks each up in the dialogue.

Facts are numeric (numbers, dates, doses, sides; package `facts`) or clinical findings (package `findings`).

Deterministic, without a model or the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medsum_core.data.records import Record
from medsum_core.grounding.facts.directions import judge_directions, read_note_directions
from medsum_core.grounding.facts.language import is_english
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.mention_index import index_mentions
from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.facts.subject_matching import NoteFacts
from medsum_core.grounding.facts.subjects import note_subject
from medsum_core.grounding.facts.verdicts import Verdict, judge, supported_by_default
from medsum_core.grounding.findings.lexicon import load_lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.verdicts import KIND_OF, judge_findings
from medsum_core.tasks.task import Task

UNSUPPORTED = ("not_found", "contradicted")
NUMERIC_KINDS = (
    "number", "age", "date", "duration", "dose", "measurement", "temperature", "percent", "frequency", "pressure",
    "laterality", "code",
)  # fmt: skip
FINDING_KINDS = ("medication", "allergy", "symptom", "condition", "procedure", "substance", "relative", "subject")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A checkable fact at characters `[start, end)` of a note.

    `kind`: one of NUMERIC_KINDS ("code": L4, G2) or of FINDING_KINDS. `turn`: the turn of the dialogue, from 0, that
    supports it or, for a finding, contradicts it; None if no single turn does. `verdict`: "not_checked" if the note or
    the dialogue is not English.
    """

    start: int
    end: int
    kind: str
    verdict: Verdict
    turn: int | None

    @property
    def is_supported(self) -> bool:
        """Whether the dialogue supports it; False for not_found, contradicted and not_checked."""
        return self.verdict == "supported"

    @property
    def is_unsupported(self) -> bool:
        """Whether it is not_found or contradicted."""
        return self.verdict in UNSUPPORTED


def check_note(note: str, dialogue: str, *, lexicon: str | None = None) -> list[Fact]:
    """The checkable facts of `note` in order, each looked up in `dialogue`. Offsets are into `note` as given.

    "contradicted": the dialogue has another value of the same kind, unit or attribute, or the opposite of a finding;
    "not_found": it mentions neither. `lexicon`: a file with more findings, see `findings.lexicon`. Raises InputError
    for a file that is not a lexicon.
    """
    scan, mentions = read_mentions(note, spoken=False)
    vocabulary = load_lexicon(lexicon)
    note_findings = scan_findings(note, None, vocabulary)
    if not is_english(note) or not is_english(dialogue):
        spans = [(mention.start, mention.end, mention.kind) for mention in mentions]
        spans += [
            (finding.start, finding.end, KIND_OF.get(finding.kind, finding.kind)) for finding in note_findings.findings
        ]
        return [Fact(start=a, end=b, kind=kind, verdict="not_checked", turn=None) for a, b, kind in sorted(spans)]
    facts = _numeric_facts(scan, mentions, dialogue)
    wrong_sides = [(fact.start, fact.end) for fact in facts if fact.kind == "laterality" and fact.is_unsupported]
    for one in judge_findings(note_findings, dialogue, vocabulary):
        if not any(start <= one.start and one.end <= end for start, end in wrong_sides):  # flagged with its side
            facts.append(Fact(start=one.start, end=one.end, kind=one.kind, verdict=one.verdict, turn=one.turn))
    return sorted(facts, key=lambda fact: (fact.start, fact.end))


def _numeric_facts(scan: Scan, mentions: list[Mention], dialogue: str) -> list[Fact]:
    directions = read_note_directions(scan)
    if not mentions and not directions:
        return []
    index = index_mentions(dialogue)
    note_facts = NoteFacts((mention, note_subject(scan, mention)) for mention in mentions)
    facts = []
    for mention in mentions:
        for start, end, verdict, turn in judge(mention, scan, index, note_facts):
            if verdict in UNSUPPORTED and supported_by_default(mention, index):
                verdict, turn = "supported", 0
            facts.append(Fact(start=start, end=end, kind=mention.kind, verdict=verdict, turn=turn))
    for direction, support in judge_directions(directions, index.directions):
        verdict, turn = ("contradicted", None) if support is None else ("supported", index.turn(support.start))
        facts.append(Fact(start=direction.start, end=direction.end, kind="laterality", verdict=verdict, turn=turn))
    return facts


def check_record(note: str, record: Record, task: Task) -> list[Fact]:
    """`check_note` against the part of the record that its task names as `facts_from`; no facts if it names none."""
    return [] if task.facts_from is None else check_note(note, record.parts[task.facts_from])


def count_unsupported(facts: Iterable[Fact]) -> int:
    """The number of facts that are not_found or contradicted."""
    return sum(fact.is_unsupported for fact in facts)


def count_checked(facts: Iterable[Fact]) -> int:
    """The number of facts that were looked up: all but not_checked ones."""
    return sum(fact.verdict != "not_checked" for fact in facts)


def unsupported_spans(note: str, dialogue: str) -> list[tuple[int, int]]:
    """Characters `[start, end)` of the facts of `note` that `dialogue` does not support, in order, not overlapping."""
    return merge_unsupported(check_note(note, dialogue))


def merge_unsupported(facts: Iterable[Fact]) -> list[tuple[int, int]]:
    """Characters `[start, end)` of the unsupported facts of a note; overlapping facts are merged."""
    spans: list[tuple[int, int]] = []
    for fact in facts:
        if not fact.is_unsupported:
            continue
        if spans and fact.start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], fact.end))
        else:
            spans.append((fact.start, fact.end))
    return spans
