"""What the dialogue states and the note does not hold: numbers, dates, doses and sides, findings with their assertion.

Deterministic, without a model or the network. Which of them a note should hold is not known here: of one section's note
the rate only tells systems apart that write the same sections; of whole notes it can be compared with zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from medsum_core.data.records import Record
from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.facts.language import is_english
from medsum_core.grounding.facts.matching import near_part, supports
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.roles import Claims
from medsum_core.grounding.facts.talk import Talk, read_talk
from medsum_core.grounding.facts.verdicts import judge
from medsum_core.grounding.findings.finding_index import FindingIndex, index_findings
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.verdicts import judge_finding
from medsum_core.grounding.statements import Statements, read_statements
from medsum_core.grounding.telling import note_words
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Omission:
    """A fact that turn `turn` (from 0) of the dialogue states first, at characters `[start, end)` of the dialogue as
    given, and the note does not hold; `kind`: as `check.Fact` has it, or "statement" for a sentence."""

    turn: int
    start: int
    end: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Omissions:
    """What a note leaves out, in the order of the dialogue; `stated`: how many facts it could have left out."""

    stated: int
    omitted: tuple[Omission, ...]


NONE_STATED = Omissions(stated=0, omitted=())


def check_omissions(note: str, dialogue: str, *, lexicon: str | None = None) -> Omissions:
    """The facts that `dialogue` states and `note` does not hold; one that is said several times counts once.

    A fact counts as held wherever the note has its value, or its finding with the same assertion of the same person, in
    whatever words. A dialogue with few facts also states its other sentences, and a note holds one of which it has a
    content word. Nothing is stated where note or dialogue are not English. `lexicon`: a file with more findings, see
    `findings.lexicon`. Raises InputError for a file that is none.
    """
    if not is_english(note) or not is_english(dialogue):
        return NONE_STATED
    known = load_lexicon(lexicon)
    return omitted_from(note, read_statements(dialogue, known), known)


def omitted_from(note: str, statements: Statements, lexicon: Lexicon) -> Omissions:
    """`check_omissions` for a dialogue that was read before."""
    talk, heard = read_talk(note), _read_note(note, lexicon)
    words = note_words(heard.scan)
    omitted = []
    for one in statements.found:
        if one.told is not None:
            held = words.holds(one.told.stems, denied=one.told.denied)
        elif one.finding is None:
            held = any(_holds_value(talk, reading, statements.talk) for reading in one.readings)
        else:
            judged = judge_finding(one.finding, statements.scan, heard)
            held = judged.verdict == "supported" or words.denies_all(one.finding)
        if not held:
            omitted.append(Omission(turn=one.turn, start=one.start, end=one.end, kind=one.kind))
    return Omissions(stated=len(statements.found), omitted=tuple(omitted))


def _holds_value(note: Talk, mention: Mention, dialogue: Talk) -> bool:
    """Whether the note has the value: a side of the same body part, another value of whatever it is given to.

    What it is given to, a drug or a symptom, is a finding and is looked up as one.
    """
    if mention.dim == "side" and mention.values != ("both",):
        same = (said for said in note.near(mention) if supports(mention, said))
        return any(near_part(mention.noun, said.noun) for said in same)
    judged = judge(mention, dialogue.scan, note, Claims([(mention, "")]))
    return all(verdict == "supported" for _, _, verdict, _ in judged)


def _read_note(note: str, lexicon: Lexicon) -> FindingIndex:
    """A note as a dialogue of one sentence a turn, so that words count as one finding only where they are together.

    A copied dialogue is read as one: its questions have answers.
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
    """Whether omissions are looked for in the notes of a task: where facts come from a dialogue, whose turns state."""
    truncate = task.truncate
    return truncate is not None and truncate.unit == "turns" and truncate.part == task.facts_from


def omissions_of_record(note: str, record: Record, task: Task) -> Omissions:
    """`check_omissions` against the dialogue of a record; nothing is stated where its task has none."""
    return check_omissions(note, record.source_text) if has_statements(task) else NONE_STATED
