"""Facts of the dialogue that the note omits: numbers, dates, doses and sides, findings with their assertion.

Deterministic, without a model or the network. Which facts a note should contain is unknown here. For notes of one
section the rate can only compare systems that write the same sections; for notes of whole visits zero is the aim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from medsum_core.data.records import Record
from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.dialogue_facts import DialogueFacts, read_dialogue_facts
from medsum_core.grounding.facts.language import is_english
from medsum_core.grounding.facts.matching import near_part, supports
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.mention_index import MentionIndex, index_mentions
from medsum_core.grounding.facts.subject_matching import NoteFacts
from medsum_core.grounding.facts.verdicts import judge
from medsum_core.grounding.findings.finding_index import FindingIndex, index_findings
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.verdicts import judge_finding
from medsum_core.grounding.statements import note_words
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Omission:
    """A fact that the dialogue states and the note omits.

    `turn`: the first turn, from 0, that states it, at characters `[start, end)` of the dialogue as given. `kind`: as in
    `check.Fact`, or "statement" for a sentence.
    """

    turn: int
    start: int
    end: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Omissions:
    """What a note omits, in the order of the dialogue; `stated`: how many facts the dialogue states."""

    stated: int
    omitted: tuple[Omission, ...]


NONE_STATED = Omissions(stated=0, omitted=())


def check_omissions(note: str, dialogue: str, *, lexicon: str | None = None) -> Omissions:
    """The facts that `dialogue` states and `note` omits; a fact that is stated several times counts once.

    The note contains a fact if it has its value, or its finding with the same assertion for the same person, in any
    words. In a dialogue with few facts its other sentences count too; the note contains a sentence if it has one of its
    content words. If the note or the dialogue is not English, nothing is stated. `lexicon`: a file with more findings,
    see `findings.lexicon`. Raises InputError for a file that is not a lexicon.
    """
    if not is_english(note) or not is_english(dialogue):
        return NONE_STATED
    known = load_lexicon(lexicon)
    return omitted_from(note, read_dialogue_facts(dialogue, known), known)


def omitted_from(note: str, facts: DialogueFacts, lexicon: Lexicon) -> Omissions:
    """`check_omissions` for a dialogue whose facts were read before."""
    note_mentions, note_findings = index_mentions(note), _index_note_findings(note, lexicon)
    words = note_words(note_findings.scan)
    omitted = []
    for one in facts.found:
        if one.statement is not None:
            contained = words.contains(one.statement.stems, denied=one.statement.denied)
        elif one.finding is None:
            contained = any(_contains_value(note_mentions, reading, facts.index) for reading in one.readings)
        else:
            judged = judge_finding(one.finding, facts.scan, note_findings)
            contained = judged.verdict == "supported" or words.denies_all(one.finding)
        if not contained:
            omitted.append(Omission(turn=one.turn, start=one.start, end=one.end, kind=one.kind))
    return Omissions(stated=len(facts.found), omitted=tuple(omitted))


def _contains_value(note: MentionIndex, mention: Mention, dialogue: MentionIndex) -> bool:
    """Whether the note has the value: for a side also the same body part, for other values whatever their subject.

    The subject, a drug or a symptom, is a finding and is looked up as one.
    """
    if mention.dim == "side" and mention.values != ("both",):
        same = (other for other in note.candidates(mention) if supports(mention, other))
        return any(near_part(mention.noun, other.noun) for other in same)
    judged = judge(mention, dialogue.scan, note, NoteFacts([(mention, "")]))
    return all(verdict == "supported" for _, _, verdict, _ in judged)


def _index_note_findings(note: str, lexicon: Lexicon) -> FindingIndex:
    """A note as a dialogue with one sentence per turn, so that a paraphrase counts only within a sentence.

    A note that is itself a dialogue is read as a dialogue, as its questions have answers.
    """
    if any(turn.is_clinician for turn in read_turns(note)):
        return index_findings(note, lexicon)
    scan = scan_findings(note, None, lexicon)
    sentences = [sentence._replace(turn=number) for number, sentence in enumerate(scan.sentences)]
    bounds = [(sentence.first, sentence.last) for sentence in sentences]
    turn_of = {word: sentence.turn for sentence in sentences for word in range(sentence.first, sentence.last)}
    findings = [replace(finding, turn=turn_of[finding.first]) for finding in scan.findings]
    spans = [(scan.words[first].start, scan.words[last - 1].end) for first, last in bounds]
    turns = [Turn("", note[start:end], start, end, start) for start, end in spans]
    return FindingIndex(turns, replace(scan, sentences=sentences, turns=bounds, findings=findings), lexicon)


def has_statements(task: Task) -> bool:
    """Whether omissions are counted for the notes of a task: only if their source is a dialogue with turns."""
    truncate = task.truncate
    return truncate is not None and truncate.unit == "turns" and truncate.part == task.facts_from


def omissions_of_record(note: str, record: Record, task: Task) -> Omissions:
    """`check_omissions` against the dialogue of a record; nothing is stated if its task has no dialogue."""
    return check_omissions(note, record.source_text) if has_statements(task) else NONE_STATED
