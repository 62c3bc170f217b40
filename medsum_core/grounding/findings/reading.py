"""Findings of a note or a dialogue with what is said of them: present, denied, uncertain, past or stopped, planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings import replies
from medsum_core.grounding.findings.answering import with_answers
from medsum_core.grounding.findings.finding import ACTIONABLE, Assertion, Finding, FindingScan, Place
from medsum_core.grounding.findings.kinship import FAMILY, holders, is_family, kin_of, relatives_in
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.matching import Named, find_named
from medsum_core.grounding.findings.relatives import (
    PATIENT,
    UNKNOWN,
    Persons,
    bearers,
    subject_in_note,
    subject_in_talk,
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
from medsum_core.grounding.findings.stems import Word, texts_of, words_of

REACTIONS = bag(
    "allergi allergy allergic allergies react reaction intolerant intolerance anaphylaxis anaphylactic nkda nka"
)
TROUBLE = bag("problem problems issue issues trouble")  # "no problem in [rehab]"
BETWEEN = ("a", "an", "the", "his", "her", ",", "uh", "um")
SETTINGS = ("on", "with", "despite", "after", "using")
BEEN = bag("been be put go went going")  # "never been on [CPAP]"
ROUTINE = bag("daily regularly consistently")
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

Kin = Sequence[tuple[int, str]]


def read_findings(text: str, turns: Sequence[Turn] | None = None, *, lexicon: str | None = None) -> list[Finding]:
    """The findings that a note states or, with its `turns`, those that a dialogue does: answers, not open questions.

    Offsets are into `text` as given. `lexicon`: a file of the user's, see `lexicon.load_lexicon`.
    """
    scan = scan_findings(text, turns, load_lexicon(lexicon))
    return [finding for finding in scan.findings if finding.assertion != "asked"]


def scan_findings(text: str, turns: Sequence[Turn] | None, lexicon: Lexicon) -> FindingScan:
    """Read a note, or a dialogue where `turns` are given."""
    words, bounds = _words_of_turns(text, turns)
    reader = _Reader(words, bounds, turns or (), lexicon)
    sentences = [
        sentence._replace(asks=reader.asks(sentence)) if turns else sentence
        for number, (first, last) in enumerate(bounds)
        for sentence in split_sentences(words, first, last, number)
    ]
    for sentence in sentences:
        if turns is None:
            reader.read_note(sentence)
        else:
            reader.read_talk(sentence)
    scan = FindingScan(
        words=words, sentences=sentences, turns=bounds, findings=reader.findings,
        normal_parts=reader.good, kin=reader.kin, parts=reader.parts,
    )  # fmt: skip
    return replace(scan, findings=with_answers(scan, turns)) if turns else scan


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


@dataclass
class _Reader:
    """Reads one sentence after the other and keeps of whom they speak.

    `topic`: the relative whom the question or the turn is about, until the turn `until`; `named_last`: whom "he" may
    mean, named at word `since`.
    """

    words: Sequence[Word]
    bounds: Sequence[tuple[int, int]]
    turns: Sequence[Turn]
    lexicon: Lexicon
    findings: list[Finding] = field(default_factory=list)
    good: list[tuple[str, int]] = field(default_factory=list)
    parts: list[Place] = field(default_factory=list)
    kin: list[tuple[int, str]] = field(default_factory=list)
    topic: str = ""
    until: int = 0
    named_last: str = ""
    since: int = 0

    def __post_init__(self) -> None:
        self.guests = any(is_family(turn.speaker) for turn in self.turns)

    def read_note(self, sentence: Sentence) -> None:
        """Add what a sentence of a note states."""
        words, kin = self.words, self._relatives(sentence, spoken=False)
        named = [one for one in self._named(sentence, spoken=False)[0] if not self._is_heading(one)]
        drugs = {one.last for one in named if self.lexicon.concepts[one.names[0]].kind == "medication"}
        named = [one for one in named if words[one.first].text != "er" or one.first not in drugs]  # "metformin ER"
        scopes = read_scopes(words, sentence, spoken=False)
        for one in named:
            subject = subject_in_note(words, sentence, one.first, kin, kin_before=bool(self.named_last))
            self.findings.append(self._finding(sentence, one, scopes, subject))
        self._keep_persons(sentence, kin)

    def read_talk(self, sentence: Sentence) -> None:
        """Add what a sentence of a dialogue states or asks for."""
        words, kin = self.words, self._relatives(sentence, spoken=True)
        self.topic = self.topic if sentence.turn <= self.until else ""
        named, here = self._named(sentence, spoken=True)
        if kin:
            named = sorted([*named, *self._organs(sentence)])
        if named:
            self._state(sentence, named, kin)
        elif sentence.asks or (kin and self._has_it(sentence)):
            self.findings += self._elided(sentence, kin)
        good = [part for part in here if judged_good(words, part.last, sentence.last, "symptom")]
        self.good += [(name, sentence.turn) for part in good for name in part.names]
        answer = sentence.turn + 1
        closed = sentence.asks and not replies.asks_openly(words, sentence)  # no "Which tooth?" "Top left."
        if (
            closed
            and here
            and not named
            and answer < len(self.bounds)
            and replies.says_well(words, *self.bounds[answer])
        ):
            self.good += [(name, answer) for part in here for name in part.names]
        self._keep_persons(sentence, kin)

    def asks(self, sentence: Sentence) -> bool:
        """Whether a sentence asks; where there are no marks, a clinician's few words that are answered yes or no do."""
        number, turns = sentence.turn, self.turns
        if replies.is_question(self.words, sentence, is_clinician=turns[number].is_clinician):
            return True
        is_short = self.bounds[number] == (sentence.first, sentence.last) and sentence.last - sentence.first <= FEW
        if not is_short or not turns[number].is_clinician or number + 1 >= len(turns) or turns[number + 1].is_clinician:
            return False
        return replies.read_reply(self.words, *self.bounds[number + 1])[0] in ("yes", "no")

    def _relatives(self, sentence: Sentence, *, spoken: bool) -> list[tuple[int, str]]:
        kin = relatives_in(
            self.words, sentence.first, sentence.last, self.named_last, spoken=spoken, guests=self.guests
        )
        self.kin += kin
        return kin

    def _named(self, sentence: Sentence, *, spoken: bool) -> tuple[list[Named], list[Named]]:
        """The findings and the body parts that a sentence names."""
        found = find_named(self.words[sentence.first : sentence.last], self.lexicon, spoken=spoken)
        named, here = (
            [one._replace(first=one.first + sentence.first, last=one.last + sentence.first) for one in ones]
            for ones in found
        )
        self.parts += [Place(part.first, part.last, part.names[-1], sentence.turn) for part in here]
        return named, here

    def _keep_persons(self, sentence: Sentence, kin: Kin) -> None:
        if sentence.first - self.since >= TOPIC_REACH:
            self.named_last = ""
        if holding := bearers(self.words, sentence, kin):
            self.topic = self.named_last = holding[-1][1]
            self.since, self.until = sentence.first, sentence.turn + (sentence.asks and bool(self.turns))
        elif sentence.asks and replies.turns_to_patient(self.words, sentence):
            self.topic = ""

    def _state(self, sentence: Sentence, named: Sequence[Named], kin: Kin) -> None:
        """Add the findings that a sentence of a dialogue names, with what it says of them and of whom."""
        words, asks = self.words, sentence.asks
        scopes = read_scopes(words, sentence, spoken=True)
        speaker = kin_of(self.turns[sentence.turn].speaker)
        topic, last = ("", "") if asks else (self.topic, "" if self.guests else self.named_last)
        for one in named:
            trailing = [place for place in kin if place[0] >= one.last] if one is named[-1] else []
            is_symptom = self.lexicon.concepts[one.names[0]].kind == "symptom"
            persons = Persons(kin, "" if is_symptom else topic, last, speaker, trailing)
            subject = subject_in_talk(words, sentence, one.first, persons)
            if asks and subject == UNKNOWN and replies.asks_of_family(words, sentence):
                subject = FAMILY
            self.findings.append(self._finding(sentence, one, scopes, subject))

    def _elided(self, sentence: Sentence, kin: Kin) -> list[Finding]:
        """What was asked for before, where a sentence only names who has it: "And your sisters?", "Dad had it."."""
        words, asks, turn = self.words, sentence.asks, sentence.turn
        texts = texts_of(words, sentence.first, sentence.last)
        last = next((finding for finding in reversed(self.findings) if finding.reply is not None), None)
        if last is None or turn - last.turn > ELIDED_TURNS or (asks and len(texts) > (ELIDED if kin else ELIDED_YOU)):
            return []
        if not asks and turn - last.turn <= 1:
            return []  # read with the question
        you = next((sentence.first + k for k, text in enumerate(texts) if text in ("you", "yourself")), None)
        if kin:
            i, subject = kin[-1][0], kin[-1][1] if asks else holders(kin)
        elif you is not None and last.subject == FAMILY:
            i, subject = you, PATIENT
        else:
            return []
        denied = not NEGATIONS.isdisjoint(texts) and not asks
        asked = [one for one in self.findings if one.turn == last.turn and one.reply is not None]
        return [
            replace(
                finding, start=words[i].start, end=words[i].end, first=i, last=i + 1, subject=subject, turn=turn,
                assertion="denied" if denied else "present", reply=-1 if asks else None, phrase=False, elided=True,
            )
            for finding in asked
            if finding.kind in HERITABLE
        ]  # fmt: skip

    def _has_it(self, sentence: Sentence) -> bool:
        """Whether a sentence says that somebody has what was asked for: "My half-brother has it."."""
        texts = texts_of(self.words, sentence.first, sentence.last)
        return any(verb in HAVING and {*texts[i + 1 : i + 4]} & MEANT for i, verb in enumerate(texts))

    def _is_heading(self, one: Named) -> bool:
        """Whether a name heads a section of a note, alone or with other words in capitals: "MS: no joint pain"."""
        words, last = self.words, one.last
        while last < min(one.last + HEADING, len(words)) and words[last].capital:
            last += 1
        begins = one.first == 0 or words[one.first - 1].text in (".", "\n")
        begins = begins and self.lexicon.concepts[one.names[0]].kind == "procedure"  # "Gyn: two pregnancies"
        return last < len(words) and words[last].text == ":" and (words[one.first].capital or begins)

    def _organs(self, sentence: Sentence) -> list[Named]:
        """The diseases that a relative's organ stands for: "Dad died of his [heart]", "Mum's got her [thyroid]"."""
        return [
            Named(i, i + 1, (ORGANS[self.words[i].stem],), "")
            for i in range(sentence.first + 1, sentence.last)
            if self.words[i].stem in ORGANS and self.words[i - 1].text in ("his", "her", "their")
        ]

    def _finding(self, sentence: Sentence, named: Named, scopes: Scopes, subject: str) -> Finding:
        words, kind = self.words, self.lexicon.concepts[named.names[0]].kind
        return Finding(
            start=words[named.first].start,
            end=words[named.last - 1].end,
            first=named.first,
            last=named.last,
            kind=kind,
            names=named.names,
            part=named.part,
            assertion=_assertion(words, sentence, named, scopes, kind),
            subject=subject,
            turn=sentence.turn,
            reply=-1 if sentence.asks and self.turns else None,
            allergy=any(word.stem in REACTIONS for word in words[sentence.first : sentence.last]),
            phrase=named.phrase,
        )


def _assertion(words: Sequence[Word], sentence: Sentence, found: Named, scopes: Scopes, kind: str) -> Assertion:
    if found.denying:
        return "denied"
    if besides(words, sentence, found.first):
        return "present"
    span = range(found.first, found.last)
    own = found.phrase and not NEGATIONS.isdisjoint(texts_of(words, found.first, found.last))
    if not own:  # "no appetite" names what it denies
        elsewhere = kind in ACTIONABLE and _is_setting(words, sentence, found, kind)
        if (not elsewhere and scopes.denied.intersection(span)) or judged_good(words, found.last, sentence.last, kind):
            return "denied"
        if not elsewhere and scopes.neutral.intersection(span):
            before = words[found.first - 1].text if found.first > sentence.first else ""
            return "denied" if before in NEGATIONS else "uncertain"  # "no [vision change]"
    if found.first in scopes.unsure:
        return "uncertain"
    if found.first in scopes.past:
        return "past_or_stopped"
    return "planned" if kind in ACTIONABLE and found.first in scopes.planned else "present"


def _is_setting(words: Sequence[Word], sentence: Sentence, found: Named, kind: str) -> bool:
    """Whether a denial is of something else: "no snoring on [CPAP]", "negative [EKG]", "not taking [Allegra] daily"."""
    k = found.first - 1
    while k > sentence.first and words[k].text in BETWEEN:
        k -= 1
    before = words[k - 1].text if k > sentence.first else "no"
    if (words[k].text in SETTINGS and before not in NEGATIONS | BEEN) or (words[k].text == "in" and before in TROUBLE):
        return True
    near = set(texts_of(words, max(sentence.first, found.first - 6), found.first))
    judged = kind == "procedure" and near & {"negative", "unremarkable"}
    return bool(judged) or not ROUTINE.isdisjoint(texts_of(words, found.last, min(found.last + 3, sentence.last)))
