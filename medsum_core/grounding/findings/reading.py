"""Findings of a note or a dialogue with what is said of them: present, denied, uncertain, past or stopped, planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.answering import with_answers
from medsum_core.grounding.findings.finding import ACTED, Assertion, Finding, FindingScan, Place
from medsum_core.grounding.findings.kinship import FAMILY, holders, is_family, kin_of, relatives_in
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.matching import Named, find_named
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN, bearers, subject_in_note, subject_in_talk
from medsum_core.grounding.findings.replies import (
    asks_of_family,
    asks_openly,
    asks_tolerance,
    is_question,
    read_reply,
    says_well,
    turns_to_patient,
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

REACTIONS = bag(
    "allergi allergy allergic allergies react reaction intolerant intolerance anaphylaxis anaphylactic nkda nka"
)
TROUBLE = ("problem", "problems", "issue", "issues", "trouble")  # "no problem in [rehab]"
BETWEEN = ("a", "an", "the", "his", "her", ",", "uh", "um")
SETTINGS = ("on", "with", "despite", "after", "using")
BEEN = bag("been be put go went going")  # "never been on [CPAP]"
FEW = 5  # words of a turn without marks
ORGANS = {
    "heart": "heart disease", "lung": "lung disease", "liver": "liver disease", "kidney": "kidney disease",
    "thyroid": "thyroid disease",
}  # fmt: skip
HEADING = 3  # words after a name in a heading: "[NERVOUS] SYSTEM:"
HERITABLE = ("condition", "symptom", "substance")
ELIDED, ELIDED_YOU, ELIDED_TURNS = 7, 4, 4  # words of the question, and turns since the other one
HAVING, MEANT = bag("has had have got gets"), bag("it that them one same those this")
TOPIC_REACH = 25  # words in which "he" may be the relative named last


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
    guests = any(is_family(turn.speaker) for turn in turns or ())
    sentences = [
        sentence._replace(asks=_asks(words, sentence, turns, bounds)) if turns else sentence
        for number, (first, last) in enumerate(bounds)
        for sentence in split_sentences(words, first, last, number)
    ]
    findings: list[Finding] = []
    good: list[tuple[str, int]] = []
    parts: list[Place] = []
    named_kin: list[tuple[int, str]] = []
    topic = named_last = ""
    since = topic_until = 0
    for sentence in sentences:
        kin = relatives_in(words, sentence.first, sentence.last, named_last, spoken=spoken, guests=guests)
        named_kin += kin
        speaker = kin_of(turns[sentence.turn].speaker) if turns else ""
        topic = topic if sentence.turn <= topic_until else ""
        found = find_named(words[sentence.first : sentence.last], lexicon, spoken=spoken)
        named, here = ([_shift(one, sentence.first) for one in ones] for ones in found)
        if spoken and kin:
            named = sorted([*named, *_organs(words, sentence)])
        parts += [Place(part.first, part.last, part.names[-1], sentence.turn) for part in here]
        if not spoken:
            named = [one for one in named if not _is_heading(words, one, lexicon)]
            named = [one for one in named if not _is_release(words, one, named, lexicon)]
        asks = sentence.asks and spoken
        findings += _stated(
            words, sentence, named, kin, lexicon, _Context(topic, named_last, speaker, asks, spoken, guests)
        )
        if spoken and not named and (asks or (kin and _has_it(words, sentence))):
            findings += _elided(words, sentence, kin, findings, asks=asks)
        if spoken:
            good += _good_parts(words, sentence, here)
            closed = asks and not asks_openly(words, sentence)  # no "Which tooth?" "Top left."
            if closed and here and not named and sentence.turn + 1 < len(bounds):
                well = says_well(words, *bounds[sentence.turn + 1])
                good += [(name, sentence.turn + 1) for part in here for name in part.names] if well else []
        if sentence.first - since >= TOPIC_REACH:
            named_last = ""
        if holding := bearers(words, sentence, kin):
            topic = named_last = holding[-1][1]
            since, topic_until = sentence.first, sentence.turn + asks
        elif asks and turns_to_patient(words, sentence):
            topic = ""
    scan = FindingScan(
        words=words, sentences=sentences, turns=bounds, findings=findings, good=good, kin=named_kin, parts=parts
    )
    return replace(scan, findings=with_answers(scan, turns)) if turns else scan


def _asks(words: Sequence[Word], sentence: Sentence, turns: Sequence[Turn], bounds: Sequence[tuple[int, int]]) -> bool:
    """Whether a sentence asks; where there are no marks, a clinician's few words that are answered yes or no do."""
    number = sentence.turn
    if is_question(words, sentence, is_clinician=turns[number].is_clinician):
        return True
    is_short = bounds[number] == (sentence.first, sentence.last) and sentence.last - sentence.first <= FEW
    if not is_short or not turns[number].is_clinician or number + 1 >= len(turns) or turns[number + 1].is_clinician:
        return False
    return read_reply(words, *bounds[number + 1])[0] in ("yes", "no")


class _Context(NamedTuple):
    """What is known before a sentence: the relative of whom it may speak, the one named last, who speaks, of what."""

    topic: str
    named_last: str
    speaker: str
    asks: bool
    spoken: bool
    guests: bool


def _stated(
    words: Sequence[Word],
    sentence: Sentence,
    named: Sequence[Named],
    kin: Sequence[tuple[int, str]],
    lexicon: Lexicon,
    context: _Context,
) -> list[Finding]:
    """The findings that a sentence names, with what it says of them and of whom."""
    if not named:
        return []
    asks = context.asks
    scopes = read_scopes(words, sentence, spoken=context.spoken)
    findings = []
    for found in named:
        if context.spoken:
            subject = subject_in_talk(
                words,
                sentence,
                found.first,
                kin,
                "" if asks else context.topic,
                "" if asks or context.guests else context.named_last,
                context.speaker,
                [place for place in kin if place[0] >= named[-1].last] if found is named[-1] else [],
                is_symptom=lexicon.concepts[found.names[0]].kind == "symptom",
            )
        else:
            subject = subject_in_note(words, sentence, found.first, kin, kin_before=bool(context.named_last))
        if asks and subject == UNKNOWN and asks_of_family(words, sentence):
            subject = FAMILY
        findings.append(_finding(words, sentence, found, scopes, subject, lexicon, asks=asks))
    return findings


def _elided(
    words: Sequence[Word],
    sentence: Sentence,
    kin: Sequence[tuple[int, str]],
    before: Sequence[Finding],
    *,
    asks: bool,
) -> list[Finding]:
    """What was asked for before, where a sentence only names who has it: "And your sisters?", "Dad had it."."""
    last = next((finding for finding in reversed(before) if finding.reply is not None), None)
    place = next((i for i in range(sentence.first, sentence.last) if words[i].text in ("you", "yourself")), None)
    who = (
        (kin[-1][0], kin[-1][1] if asks else holders(kin))
        if kin
        else ((place, PATIENT) if place is not None and last and last.subject == FAMILY else None)
    )
    long = asks and sentence.last - sentence.first > (ELIDED if kin else ELIDED_YOU)
    answers = last is not None and not asks and sentence.turn - last.turn <= 1  # read with the question
    if (
        who is None
        or last is None
        or long
        or answers
        or last.kind not in HERITABLE
        or sentence.turn - last.turn > ELIDED_TURNS
    ):
        return []
    asked = [finding for finding in before if finding.turn == last.turn and finding.reply is not None]
    word = words[who[0]]
    denied = not asks and any(words[i].text in NEGATIONS for i in range(sentence.first, sentence.last))
    return [
        replace(
            finding, start=word.start, end=word.end, first=who[0], last=who[0] + 1,
            assertion="denied" if denied else "present", reply=-1 if asks else None, subject=who[1],
            turn=sentence.turn, phrase=False, elided=True,
        )
        for finding in asked
        if finding.kind in HERITABLE
    ]  # fmt: skip


def _has_it(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a sentence says that somebody has what was asked for: "My half-brother has it."."""
    texts = [words[i].text for i in range(sentence.first, sentence.last)]
    return any(verb in HAVING and {*texts[i + 1 : i + 4]} & MEANT for i, verb in enumerate(texts))


def _is_heading(words: Sequence[Word], found: Named, lexicon: Lexicon) -> bool:
    """Whether a name heads a section of the note, alone or with other words in capitals: "MS: no joint pain"."""
    last = found.last
    while last < min(found.last + HEADING, len(words)) and words[last].capital:
        last += 1
    begins = found.first == 0 or words[found.first - 1].text in (".", "\n")
    begins = begins and lexicon.concepts[found.names[0]].kind == "procedure"  # "Gyn: two pregnancies"
    return last < len(words) and words[last].text == ":" and (words[found.first].capital or begins)


def _is_release(words: Sequence[Word], found: Named, named: Sequence[Named], lexicon: Lexicon) -> bool:
    """Whether "ER" after a drug says how it is released, and is no emergency room: "metformin ER"."""
    if words[found.first].text != "er":
        return False
    return any(one.last == found.first and lexicon.concepts[one.names[0]].kind == "medication" for one in named)


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


def _organs(words: Sequence[Word], sentence: Sentence) -> list[Named]:
    """The diseases that a relative's organ stands for: "Dad died of his [heart]", "Mum's got her [thyroid]"."""
    return [
        Named(i, i + 1, (ORGANS[words[i].stem],), "")
        for i in range(sentence.first + 1, sentence.last)
        if words[i].stem in ORGANS and words[i - 1].text in ("his", "her", "their")
    ]


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
        inverted=asks and kind in ("medication", "allergen") and asks_tolerance(words, sentence),
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
            before = words[found.first - 1].text if found.first > sentence.first else ""
            return "denied" if before in NEGATIONS else "uncertain"  # "no [vision change]"
    if found.first in scopes.unsure:
        return "uncertain"
    if found.first in scopes.past:
        return "past_or_stopped"
    return "planned" if kind in ACTED and found.first in scopes.planned else "present"


def _is_setting(words: Sequence[Word], sentence: Sentence, found: Named, kind: str) -> bool:
    """Whether a denial is of something else: "no snoring on [CPAP]", "negative [EKG]", "not taking [Allegra] daily"."""
    k = found.first - 1
    while k > sentence.first and words[k].text in BETWEEN:
        k -= 1
    near = {words[i].text for i in range(max(sentence.first, found.first - 6), found.first)}
    after = {words[i].text for i in range(found.last, min(found.last + 3, sentence.last))}
    before = words[k - 1].text if k > sentence.first else "no"
    linked = words[k].text in SETTINGS and before not in NEGATIONS | BEEN
    linked = linked or (words[k].text == "in" and before in TROUBLE)
    judged = kind == "procedure" and bool(near & {"negative", "unremarkable"}) and not near & {"denies", "denied"}
    return linked or judged or bool(after & {"daily", "regularly", "consistently"})


def _good_parts(words: Sequence[Word], sentence: Sentence, parts: Sequence[Named]) -> list[tuple[str, int]]:
    """The body parts that a sentence calls fine."""
    return [
        (name, sentence.turn)
        for part in parts
        if judged_good(words, part.last, sentence.last, "symptom")
        for name in part.names
    ]
