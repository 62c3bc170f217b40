"""What the answer to a question says of the findings in it: of whom, present or denied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.corrections import REACH, is_correction
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import ACTED, Assertion, Finding, FindingScan
from medsum_core.grounding.findings.kinship import holders
from medsum_core.grounding.findings.relatives import bearers
from medsum_core.grounding.findings.replies import (
    BARE,
    FINE,
    NO,
    asks_if_still,
    asks_of_family,
    asks_openly,
    is_full_question,
    offers,
    opens_with_no,
    presupposes,
    read_each,
    read_reply,
    says_well,
    tells,
    turns_to_patient,
)
from medsum_core.grounding.findings.scope import Sentence, besides
from medsum_core.grounding.findings.stems import Word

ANSWER_REACH = 20  # words of an answer in which relatives have what was asked for
FINE_REACH = 3  # words at the end of a sentence
REFUSED_REACH = 8  # words from the end of a turn, which may have no full stops
REFUSED = ("symptom", "condition", "substance", "allergen")
SAME, SAME_REACH = bag("has did too also"), 8  # "And her brother?" "He has it."
HAVE_IT = bag("does do did has")
SHORT = 4  # words
TOLD = ("symptom",)  # a question after these is answered by telling of them


def with_answers(scan: FindingScan, turns: Sequence[Turn]) -> list[Finding]:
    """The findings, those of questions with the assertion that the answer gives them."""
    by_turn: dict[int, list[Finding]] = {}
    for finding in scan.findings:
        by_turn.setdefault(finding.turn, []).append(finding)
    sentences: dict[int, list[Sentence]] = {}
    for sentence in scan.sentences:
        sentences.setdefault(sentence.turn, []).append(sentence)
    found = []
    for finding, further in zip_longest(scan.findings, scan.findings[1:]):
        if further is not None and _is_taken_back(scan, finding, further):
            found.append(replace(finding, assertion="denied", reply=None))
            continue
        if finding.reply is None:
            found.append(_refused(scan, turns, finding, sentences))
            continue
        found.append(_with_reply(scan, turns, finding, sentences, by_turn))
    return found


def _is_taken_back(scan: FindingScan, finding: Finding, further: Finding) -> bool:
    """Whether the next finding corrects this one: "Crestor, no, sorry, Lipitor"."""
    near = finding.kind == further.kind and finding.turn == further.turn and further.first - finding.last <= REACH
    return near and is_correction(scan.words[i].text for i in range(finding.last, further.first))


def _refused(
    scan: FindingScan, turns: Sequence[Turn], finding: Finding, sentences: dict[int, list[Sentence]]
) -> Finding:
    """A finding that a clinician's last sentence states and the patient's "No" denies: "That, or headaches." "No."."""
    last = sentences[finding.turn][-1]
    number = finding.turn + 1
    ends = finding.first >= max(last.first, last.last - REFUSED_REACH)
    stated = turns[finding.turn].is_clinician and ends and finding.kind in REFUSED
    stated = stated and not any(sentence.asks for sentence in sentences[finding.turn])
    if not stated or finding.assertion == "denied" or number >= len(scan.turns) or turns[number].is_clinician:
        return finding
    first, end = scan.turns[number]
    refused = read_reply(scan.words, first, end)[0] == "no" and opens_with_no(scan.words, first, end)
    refused = refused and not (scan.words[first].text == "so" and end > first + 2)  # "So no bread."
    return replace(finding, assertion="denied", reply=number) if refused else finding


def _with_reply(
    scan: FindingScan,
    turns: Sequence[Turn],
    finding: Finding,
    sentences: dict[int, list[Sentence]],
    by_turn: dict[int, list[Finding]],
) -> Finding:
    here = scan.sentence_of(finding)
    later = [s for s in sentences[finding.turn] if s.first > here.first]
    if any(is_full_question(scan.words, s) for s in later):
        return replace(finding, assertion="asked", reply=None)
    if (place := _answer_to(finding, later, scan, turns, sentences)) is None:
        return replace(finding, assertion="asked", reply=None)
    first, last, reply = place
    answer, agrees = read_reply(scan.words, first, last)
    own = [
        other
        for other in by_turn.get(reply, ())
        if other.reply is None and other.first >= first
        if set(other.names) & set(finding.names) or _denies_head(scan, finding, here, other)
    ]
    kin = _answering_kin(scan, sentences.get(reply, ()), first)
    if besides(scan.words, here, finding.first):
        return replace(finding, assertion="present", reply=reply)
    if own and (answer in ("other", "unknown") or (answer == "yes" and own[0].assertion == "denied")):
        same = own[0]
        return replace(finding, assertion=same.assertion, subject=same.subject, reply=reply)
    each = read_each(scan.words, first, last)
    if len(each) > 1 and len(each) == len(asked := _asked_with(finding, by_turn[finding.turn])):
        answer = each[asked.index(finding)]
    elif answer == "no" and _denies_another(scan, finding, here, by_turn.get(reply, ()), first):
        answer = "other"
    elif answer in ("yes", "other") and _names_another(scan, finding, here, by_turn.get(reply, ()), first):
        if offers(scan.words, here) and not own:
            return replace(finding, assertion="denied", reply=reply)
        answer = "other"
    if answer == "no" and asks_if_still(scan.words, here):
        return replace(finding, assertion="past_or_stopped", reply=reply)
    if answer == "other" and finding.elided and tells(scan.words, first, last):
        answer = "yes" if SAME & {word.text for word in scan.words[first : first + SAME_REACH]} else answer
    told_of = finding.kind in TOLD and not finding.elided and finding.assertion != "denied" and not kin
    if answer == "other" and told_of and not _is_of_another(finding, by_turn.get(reply, ()), first):
        closed = not asks_openly(scan.words, here)
        answer = "yes" if closed and tells(scan.words, first, last) else answer
    if finding.inverted:
        opening = {word.text for word in scan.words[first : min(first + SHORT, last)]}
        tolerated = True if opening & FINE and not opening & NO else {"yes": True, "no": False}.get(answer)
        return replace(finding, assertion="asked", reply=reply, tolerated=tolerated)
    assertion = _from_reply(scan, finding, here, answer, agrees=agrees)
    of_family = asks_of_family(scan.words, here)
    begins = bool(kin) and kin[0][0] <= first + 3 and _is_of_kin(scan.words, here, kin[0][0])
    told = answer in ("yes", "other") and (of_family or (answer == "other" and begins))
    subject = holders(kin) if kin and assertion in ("present", "asked") and told else finding.subject
    if kin and told and assertion == "asked":
        assertion = "present"
    return replace(finding, assertion=assertion, subject=subject, reply=reply)


def _answer_to(
    finding: Finding,
    later: Sequence[Sentence],
    scan: FindingScan,
    turns: Sequence[Turn],
    sentences: dict[int, list[Sentence]],
) -> tuple[int, int, int] | None:
    """The words of the answer to a question that has `later` sentences after it in its turn, and the answer's turn."""
    number = finding.turn
    if later and not turns[number].speaker and not later[0].asks:
        return later[0].first, scan.turns[number][1], number
    if number + 1 >= len(scan.turns) or not all(s.asks or s.last - s.first <= 6 for s in later):
        return None
    if later or not _asks_back(turns, sentences, number + 1):
        return *scan.turns[number + 1], number + 1
    first, last = scan.turns[number + 3]  # "Oh, I get you. No, never."
    return next((s.first for s in sentences[number + 3] if scan.words[s.first].text in BARE), first), last, number + 3


def _asks_back(turns: Sequence[Turn], sentences: dict[int, list[Sentence]], number: int) -> bool:
    """Whether a turn asks what the question means, which the next explains: "What type of reaction?"."""
    explained = number + 2 < len(turns) and not any(s.asks for s in sentences.get(number + 1, ()))
    asks = bool(sentences.get(number)) and sentences[number][0].asks
    return asks and explained and not turns[number].is_clinician and turns[number + 1].is_clinician


def _is_of_kin(words: Sequence[Word], question: Sentence, i: int) -> bool:
    """Whether an answer that begins with the relative at word i is of him: "Do your parents have it?" "Mom does."."""
    after = words[i + 1].text if i + 1 < len(words) else ""
    return not asks_openly(words, question) and (after in HAVE_IT or not turns_to_patient(words, question))


def _answering_kin(scan: FindingScan, sentences: Sequence[Sentence], first: int) -> list[tuple[int, str]]:
    """The relatives at the beginning of an answer who may have what was asked for."""
    near = scan.kin_between(first, first + ANSWER_REACH)
    inside = [
        (s, [place for place in near if s.first <= place[0] < s.last])
        for s in sentences
        if not says_well(scan.words, s.last - FINE_REACH, s.last)
    ]
    return [place for sentence, kin in inside if kin for place in bearers(scan.words, sentence, kin)]


def _is_of_another(finding: Finding, replies: Sequence[Finding], first: int) -> bool:
    """Whether an answer names something of the same kind instead: "Any chest pain?" "Just heartburn."."""
    return any(other.kind == finding.kind for other in replies if other.first >= first)


def _names_another(
    scan: FindingScan, finding: Finding, question: Sentence, replies: Sequence[Finding], first: int
) -> bool:
    """Whether the answer repeats another finding of the question: "Any fever or chills?" "Yes, chills."."""
    asked = [other for other in scan.between(question.first, question.last) if other is not finding]
    said = {name for other in replies if other.first >= first for name in other.names}
    return any(said & set(other.names) for other in asked)


def _denies_another(
    scan: FindingScan, finding: Finding, question: Sentence, replies: Sequence[Finding], first: int
) -> bool:
    """Whether the answer's first words deny another finding of the question: "Sweats, fevers?" "Fevers no."."""
    opening = [other for other in replies if other.first <= first + 1]
    return _names_another(scan, finding, question, opening, first)


def _denies_head(scan: FindingScan, finding: Finding, question: Sentence, other: Finding) -> bool:
    """Whether an answer denies one of several by its first word: "Discharge or [pain] with sex?" "No pain."."""
    several = any(scan.words[i].text in (",", "or") for i in range(question.first, question.last))
    opens = scan.words[finding.first].stem == scan.words[other.first].stem and other.last == other.first + 1
    return several and opens and other.assertion == "denied"


def _asked_with(finding: Finding, of_turn: Sequence[Finding]) -> list[Finding]:
    """The findings that the turn of a finding asks for, this one among them."""
    return [other for other in of_turn if other.reply is not None or other is finding]


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
