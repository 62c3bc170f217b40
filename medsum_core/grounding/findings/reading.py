"""Findings of a note or a dialogue with what is said of them: present, denied, uncertain, past or stopped, planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.matching import Named, find_named, named_parts
from medsum_core.grounding.findings.relatives import kin_of, relatives_in, subject_in_note, subject_in_talk
from medsum_core.grounding.findings.replies import (
    asks_if_still,
    asks_openly,
    asks_tolerance,
    is_full_question,
    is_question,
    offers,
    opens_with_no,
    presupposes,
    read_reply,
)
from medsum_core.grounding.findings.scope import (
    NEGATIONS,
    Scopes,
    Sentence,
    besides,
    judged_good,
    read_scopes,
    split_sentences,
)
from medsum_core.grounding.findings.stems import Word, words_of

Assertion = Literal["present", "denied", "uncertain", "past_or_stopped", "planned", "asked"]
ACTED = ("medication", "procedure")  # only these are planned
REACTIONS = bag(
    "allergi allergy allergic allergies react reaction intolerant intolerance anaphylaxis anaphylactic nkda nka"
)
SETTINGS = ("on", "with", "despite", "after", "using")
TOPIC_REACH = 25  # words in which "he" may be the relative named last
REFUSED = ("symptom", "condition", "substance")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding at characters `[start, end)`, words `[first, last)`; `names`: the concepts that its words can mean.

    `part`: the body part, "" if none. `assertion`: "asked" for a question whose answer says neither yes nor no.
    `subject`: "patient", a relative, "family", or "" where the text does not tell. `turn`: from 0; `reply`: the turn
    that answers the question, None for statements.
    """

    start: int
    end: int
    first: int
    last: int
    kind: str
    names: tuple[str, ...]
    part: str
    assertion: Assertion
    subject: str
    turn: int
    reply: int | None = None
    allergy: bool = False
    phrase: bool = True  # as the lexicon has it, not a quality with its body part
    tolerated: bool | None = None  # the answer to "Can you take it?"
    inverted: bool = False  # "Can you take aspirin?": yes means no allergy


@dataclass(frozen=True, kw_only=True)
class FindingScan:
    """A text read for findings: its words, sentences and turns (as words `[first, last)`), findings and good parts.

    `good`: body parts that are said to be fine, with their turn: "my neck is fine".
    """

    words: Sequence[Word]
    sentences: Sequence[Sentence]
    turns: Sequence[tuple[int, int]]
    findings: Sequence[Finding]
    good: Sequence[tuple[str, int]]


def read_findings(text: str, turns: Sequence[Turn] | None = None, *, lexicon: str | None = None) -> list[Finding]:
    """The findings that a note states or, with its `turns`, those that a dialogue does: answers, not open questions.

    Offsets are into `text` as given. `lexicon`: a file of the user's, see `lexicon.load_lexicon`.
    """
    scan = scan_findings(text, turns, load_lexicon(lexicon))
    return [finding for finding in scan.findings if finding.assertion != "asked"]


def scan_findings(text: str, turns: Sequence[Turn] | None, lexicon: Lexicon) -> FindingScan:
    """Read a note, or a dialogue where `turns` are given."""
    words, bounds = _words_of_turns(text, turns)
    spoken = turns is not None
    sentences = [
        sentence
        for number, (first, last) in enumerate(bounds)
        for sentence in split_sentences(words, first, last, number)
    ]
    findings: list[Finding] = []
    good: list[tuple[str, int]] = []
    topic, named_last = "", 0
    for sentence in sentences:
        kin = relatives_in(words, sentence.first, sentence.last)
        speaker = kin_of(turns[sentence.turn].speaker) if turns else ""
        named = [
            _shift(found, sentence.first)
            for found in find_named(words[sentence.first : sentence.last], lexicon, spoken=spoken)
        ]
        if not spoken:
            named = [found for found in named if not _is_heading(words, found)]
        scopes = read_scopes(words, sentence, spoken=spoken) if named else None
        asks = bool(turns) and is_question(words, sentence, is_clinician=turns[sentence.turn].is_clinician)  # type: ignore[index]
        for found in named:
            trailing = [k for k in kin if k[0] >= named[-1].last] if found is named[-1] else []
            subject = (
                subject_in_talk(
                    words,
                    sentence,
                    found.first,
                    kin,
                    "" if asks else topic,
                    speaker,
                    trailing,
                    is_symptom=lexicon.concepts[found.names[0]].kind == "symptom",
                )
                if spoken
                else subject_in_note(words, sentence, found.first, kin, kin_before=bool(topic))
            )
            assert scopes is not None
            findings.append(_finding(words, sentence, found, scopes, subject, lexicon, asks=asks))
        if spoken:
            good += _good_parts(words, sentence, lexicon)
        named_last = sentence.first if kin else named_last
        topic = kin[-1][1] if kin else (topic if sentence.first - named_last < TOPIC_REACH else "")
    scan = FindingScan(words=words, sentences=sentences, turns=bounds, findings=findings, good=good)
    return replace(scan, findings=_answered(scan, turns)) if turns else scan


def _is_heading(words: Sequence[Word], found: Named) -> bool:
    """Whether a name in capitals heads a section of the note: "MS: no joint pain"."""
    return found.last < len(words) and words[found.last].text == ":" and words[found.first].capital


def _words_of_turns(text: str, turns: Sequence[Turn] | None) -> tuple[list[Word], list[tuple[int, int]]]:
    if turns is None:
        words = words_of(text)
        return words, [(0, len(words))]
    words, bounds = [], []
    for turn in turns:
        first = len(words)
        words += words_of(turn.text, turn.text_start)
        bounds.append((first, len(words)))
    return words, bounds


def _shift(named: Named, offset: int) -> Named:
    return named._replace(first=named.first + offset, last=named.last + offset)


def _finding(
    words: Sequence[Word],
    sentence: Sentence,
    found: Named,
    scopes: Scopes,
    subject: str,
    lexicon: Lexicon,
    *,
    asks: bool,
) -> Finding:
    kind = lexicon.concepts[found.names[0]].kind
    assertion = _assertion(words, sentence, found, scopes, kind)
    stems = {word.stem for word in words[sentence.first : sentence.last]}
    return Finding(
        start=words[found.first].start,
        end=words[found.last - 1].end,
        first=found.first,
        last=found.last,
        kind=kind,
        names=found.names,
        part=found.part,
        assertion=assertion,
        subject=subject,
        turn=sentence.turn,
        reply=-1 if asks else None,
        allergy=bool(stems & REACTIONS),
        phrase=found.phrase,
        inverted=asks and asks_tolerance(words, sentence),
    )


def _assertion(words: Sequence[Word], sentence: Sentence, found: Named, scopes: Scopes, kind: str) -> Assertion:
    if found.denying:
        return "denied"
    if besides(words, sentence, found.first):
        return "present"
    span = range(found.first, found.last)
    own = found.phrase and any(words[i].text in NEGATIONS for i in span)  # "no appetite" names what it denies
    if not own:
        if kind in ACTED and _is_setting(words, sentence, found, kind):
            span = range(0)
        if any(i in scopes.denied for i in span) or judged_good(words, found.last, sentence.last, kind):
            return "denied"
        if any(i in scopes.neutral for i in span):
            return "uncertain"
    if found.first in scopes.unsure:
        return "uncertain"
    if found.first in scopes.past:
        return "past_or_stopped"
    return "planned" if kind in ACTED and found.first in scopes.planned else "present"


def _is_setting(words: Sequence[Word], sentence: Sentence, found: Named, kind: str) -> bool:
    """Whether a denial is of something else: "no snoring on [CPAP]", "negative [EKG]", "not taking [Allegra] daily"."""
    k = found.first - 1
    while k > sentence.first and words[k].text in ("a", "an", "the", "his", "her"):
        k -= 1
    near = {words[i].text for i in range(max(sentence.first, found.first - 6), found.first)}
    after = {words[i].text for i in range(found.last, min(found.last + 3, sentence.last))}
    linked = k > sentence.first and words[k].text in SETTINGS and words[k - 1].text not in NEGATIONS
    judged = kind == "procedure" and bool(near & {"negative", "unremarkable"}) and not near & {"denies", "denied"}
    return linked or judged or bool(after & {"daily", "regularly", "consistently"})


def _good_parts(words: Sequence[Word], sentence: Sentence, lexicon: Lexicon) -> list[tuple[str, int]]:
    """The body parts that a sentence calls fine."""
    inside = words[sentence.first : sentence.last]
    if not any(word.text in ("fine", "normal", "okay", "ok", "good", "clear", "spared", "great") for word in inside):
        return []
    return [
        (part.names[0], sentence.turn)
        for part in named_parts(inside, lexicon)
        if judged_good(words, part.last + sentence.first, sentence.last, "symptom")
    ]


def _answered(scan: FindingScan, turns: Sequence[Turn]) -> list[Finding]:
    """The findings, those of questions with the assertion that the answer gives them."""
    by_turn: dict[int, list[Finding]] = {}
    for finding in scan.findings:
        by_turn.setdefault(finding.turn, []).append(finding)
    sentences: dict[int, list[Sentence]] = {}
    for sentence in scan.sentences:
        sentences.setdefault(sentence.turn, []).append(sentence)
    found = []
    for finding in scan.findings:
        if finding.reply is None:
            found.append(_refused(scan, turns, finding, sentences))
            continue
        found.append(_with_reply(scan, turns, finding, sentences, by_turn))
    return found


def _refused(
    scan: FindingScan, turns: Sequence[Turn], finding: Finding, sentences: dict[int, list[Sentence]]
) -> Finding:
    """A finding that a clinician's last sentence states and the patient's "No" denies: "That, or headaches." "No."."""
    last = sentences[finding.turn][-1]
    number = finding.turn + 1
    asked = any(sentence.asks for sentence in sentences[finding.turn])
    stated = turns[finding.turn].is_clinician and not asked and finding.first >= last.first and finding.kind in REFUSED
    if not stated or finding.assertion == "denied" or number >= len(scan.turns) or turns[number].is_clinician:
        return finding
    refused = read_reply(scan.words, *scan.turns[number])[0] == "no" and opens_with_no(scan.words, *scan.turns[number])
    return replace(finding, assertion="denied", reply=number) if refused else finding


def _with_reply(
    scan: FindingScan,
    turns: Sequence[Turn],
    finding: Finding,
    sentences: dict[int, list[Sentence]],
    by_turn: dict[int, list[Finding]],
) -> Finding:
    here = next(s for s in sentences[finding.turn] if s.first <= finding.first < s.last)
    later = [s for s in sentences[finding.turn] if s.first > here.first]
    if any(is_full_question(scan.words, s) for s in later):
        return replace(finding, assertion="asked", reply=None)
    number = finding.turn
    if later and not turns[number].speaker and not later[0].asks:
        first, last, reply = later[0].first, scan.turns[number][1], number
    elif number + 1 < len(scan.turns) and all(s.asks or s.last - s.first <= 6 for s in later):
        (first, last), reply = scan.turns[number + 1], number + 1
    else:
        return replace(finding, assertion="asked", reply=None)
    answer, agrees = read_reply(scan.words, first, last)
    own = [
        other
        for other in by_turn.get(reply, ())
        if other.reply is None and other.first >= first and set(other.names) & set(finding.names)
    ]
    kin = relatives_in(scan.words, first, min(last, first + 12))
    if besides(scan.words, here, finding.first):
        return replace(finding, assertion="present", reply=reply)
    if own and answer in ("other", "unknown"):
        same = own[0]
        return replace(finding, assertion=same.assertion, subject=same.subject, reply=reply)
    if answer == "yes" and _names_another(scan, finding, here, by_turn.get(reply, ()), first):
        answer = "other"
    if answer == "no" and asks_if_still(scan.words, here):
        return replace(finding, assertion="past_or_stopped", reply=reply)
    if finding.inverted:
        return replace(finding, assertion="asked", reply=reply, tolerated={"yes": True, "no": False}.get(answer))
    assertion = _from_reply(scan, finding, here, answer, agrees=agrees)
    subject = kin[0][1] if kin and assertion in ("present", "asked") and answer == "other" else finding.subject
    if kin and answer == "other" and assertion == "asked":
        assertion = "present"
    return replace(finding, assertion=assertion, subject=subject, reply=reply)


def _names_another(
    scan: FindingScan, finding: Finding, question: Sentence, replies: Sequence[Finding], first: int
) -> bool:
    """Whether the answer repeats another finding of the question: "Any fever or chills?" "Yes, chills."."""
    asked = [other for other in scan.findings if question.first <= other.first < question.last and other is not finding]
    said = {name for other in replies if other.first >= first for name in other.names}
    return any(said & set(other.names) for other in asked)


def _from_reply(scan: FindingScan, finding: Finding, question: Sentence, answer: str, *, agrees: bool) -> Assertion:
    negated = finding.assertion == "denied"
    if answer == "no":
        words = scan.words
        granted = (
            presupposes(words, question, finding.first, phrase=finding.phrase, acted=finding.kind in ACTED)
            or offers(words, question)
            or asks_openly(words, question)
        )
        return "asked" if granted and not negated else "denied"
    if answer == "yes" and not asks_openly(scan.words, question):
        return "denied" if negated and agrees else "present"
    return "asked"
