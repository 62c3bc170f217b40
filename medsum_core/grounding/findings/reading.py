"""Reads the findings of a note or a dialogue, each with its assertion status and its subject (whose finding it is)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings import replies
from medsum_core.grounding.findings.answering import with_answers
from medsum_core.grounding.findings.finding import ACTIONABLE, Assertion, Finding, FindingScan, Place
from medsum_core.grounding.findings.kinship import FAMILY, is_family, join_relatives, kin_of, relatives_in
from medsum_core.grounding.findings.lexicon import Lexicon, load_lexicon
from medsum_core.grounding.findings.matching import Named, find_named
from medsum_core.grounding.findings.relatives import (
    PATIENT,
    PATIENT_OR_UNKNOWN,
    UNKNOWN,
    Persons,
    possible_subjects,
    subject_in_dialogue,
    subject_in_note,
)
from medsum_core.grounding.findings.scope import (
    NEGATIONS,
    Scopes,
    Sentence,
    is_denied_or_normal,
    is_set_aside,
    read_scopes,
    split_sentences,
)
from medsum_core.grounding.findings.stems import Word, texts_of, words_of

REACTIONS = word_set(
    "allergi allergy allergic allergies react reaction intolerant intolerance anaphylaxis anaphylactic nkda nka"
)
PROBLEM_WORDS = word_set("problem problems issue issues trouble")  # "no problem in [rehab]"
ARTICLES_AND_FILLERS = ("a", "an", "the", "his", "her", ",", "uh", "um")  # skipped before a finding
SETTING_PREPOSITIONS = ("on", "with", "despite", "after", "using")
USE_VERBS = word_set("been be put go went going")  # "never been on [CPAP]"
FREQUENCY_ADVERBS = word_set("daily regularly consistently")
SHORT_QUESTION = 5  # most words of a question that has no question mark
ORGANS = {
    "heart": "heart disease", "lung": "lung disease", "liver": "liver disease", "kidney": "kidney disease",
    "thyroid": "thyroid disease",
}  # fmt: skip
HEADING_WORDS = 3  # most words of a heading from a finding on: "[NERVOUS] SYSTEM:"
FAMILY_HISTORY_KINDS = ("condition", "symptom", "substance")
# Most words of an elliptic question ("And your sisters?", "And you?") and most turns since the question it completes.
ELLIPTIC_WORDS, ELLIPTIC_WORDS_YOU, ELLIPTIC_TURNS = 7, 4, 4
PREDICATE_VERBS = word_set("is was has had isn't wasn't doesn't never takes died lives got")
HAVE_VERBS, ANAPHORA = word_set("has had have got gets"), word_set("it that them one same those this")
PRONOUN_REACH = 25  # most words between a relative and a sentence whose "he" may mean him

Kin = Sequence[tuple[int, str]]


def read_findings(text: str, turns: Sequence[Turn] | None = None, *, lexicon: str | None = None) -> list[Finding]:
    """The findings of a note or, with its `turns`, of a dialogue; without those of questions that got no clear answer.

    Offsets are into `text` as given. `lexicon`: a file with further concepts, see `lexicon.load_lexicon`.
    """
    scan = scan_findings(text, turns, load_lexicon(lexicon))
    return [finding for finding in scan.findings if finding.assertion != "asked"]


def scan_findings(text: str, turns: Sequence[Turn] | None, lexicon: Lexicon) -> FindingScan:
    """Read a note or, if `turns` are given, a dialogue; each finding of a question gets its answer's assertion."""
    words, bounds = _words_and_turns(text, turns)
    reader = _Reader(words, bounds, turns or (), lexicon)
    sentences = [
        sentence._replace(asks=reader.asks(sentence)) if turns else sentence
        for number, (first, last) in enumerate(bounds)
        for sentence in split_sentences(words, first, last, number)
    ]
    for sentence in sentences:
        if turns is None:
            reader.read_note_sentence(sentence)
        else:
            reader.read_dialogue_sentence(sentence)
    scan = FindingScan(
        words=words, sentences=sentences, turns=bounds, findings=reader.findings,
        normal_parts=reader.normal_parts, kin=reader.kin, parts=reader.parts,
    )  # fmt: skip
    return replace(scan, findings=with_answers(scan, turns)) if turns else scan


def _words_and_turns(text: str, turns: Sequence[Turn] | None) -> tuple[list[Word], list[tuple[int, int]]]:
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
    """Reads sentences in order and tracks which relative they are about.

    `topic`: the relative whom a question or turn is about, valid up to turn `topic_until`. `last_relative`: the one
    that "he" or "she" may refer to, last mentioned in the sentence that begins at word `last_relative_at`.
    """

    words: Sequence[Word]
    bounds: Sequence[tuple[int, int]]
    turns: Sequence[Turn]
    lexicon: Lexicon
    findings: list[Finding] = field(default_factory=list)
    normal_parts: list[tuple[str, int]] = field(default_factory=list)
    parts: list[Place] = field(default_factory=list)
    kin: list[tuple[int, str]] = field(default_factory=list)
    topic: str = ""
    topic_until: int = 0
    last_relative: str = ""
    last_relative_at: int = 0

    def __post_init__(self) -> None:
        self.has_family_speaker = any(is_family(turn.speaker) for turn in self.turns)

    def read_note_sentence(self, sentence: Sentence) -> None:
        """Add the findings of a sentence of a note."""
        words, kin = self.words, self._relatives(sentence, spoken=False)
        named = [name for name in self._find_names(sentence, spoken=False)[0] if not self._is_heading(name)]
        drugs = {name.last for name in named if self.lexicon.concepts[name.names[0]].kind == "medication"}
        named = [name for name in named if words[name.first].text != "er" or name.first not in drugs]  # "metformin ER"
        scopes = read_scopes(words, sentence, spoken=False)
        for name in named:
            subject = subject_in_note(words, sentence, name.first, kin, kin_before=bool(self.last_relative))
            self.findings.append(self._finding(sentence, name, scopes, subject))
        self._update_relatives(sentence, kin)

    def read_dialogue_sentence(self, sentence: Sentence) -> None:
        """Add the findings that a sentence of a dialogue states or asks for, and the body parts it calls normal."""
        words, kin = self.words, self._relatives(sentence, spoken=True)
        self.topic = self.topic if sentence.turn <= self.topic_until else ""
        named, body_parts = self._find_names(sentence, spoken=True)
        if kin:
            named = sorted([*named, *self._organ_diseases(sentence)])
        if named:
            self._add_findings(sentence, named, kin)
        elif sentence.asks or (kin and self._says_who_has_it(sentence)):
            self.findings += self._elliptic_findings(sentence, kin)
        good = [part for part in body_parts if is_denied_or_normal(words, part.last, sentence.last, "symptom")]
        good = [part for part in good if "of" not in texts_of(words, max(part.first - 2, sentence.first), part.first)]
        self.normal_parts += [(name, sentence.turn) for part in good for name in part.names]
        answer = sentence.turn + 1
        closed = sentence.asks and not replies.asks_openly(words, sentence)  # not "Which tooth?" "Top left."
        asks_of_parts = closed and body_parts and not named and answer < len(self.bounds)
        if asks_of_parts and replies.says_all_is_well(words, *self.bounds[answer]):
            self.normal_parts += [(name, answer) for part in body_parts for name in part.names]
        self._update_relatives(sentence, kin)

    def asks(self, sentence: Sentence) -> bool:
        """Whether a sentence is a question, by its form or as a clinician's short turn answered by yes or no."""
        number, turns = sentence.turn, self.turns
        if replies.is_question(self.words, sentence, is_clinician=turns[number].is_clinician):
            return True
        is_whole_turn = self.bounds[number] == (sentence.first, sentence.last)
        is_short = is_whole_turn and sentence.last - sentence.first <= SHORT_QUESTION
        if not is_short or not turns[number].is_clinician or number + 1 >= len(turns) or turns[number + 1].is_clinician:
            return False
        return replies.read_reply(self.words, *self.bounds[number + 1])[0] in ("yes", "no")

    def _relatives(self, sentence: Sentence, *, spoken: bool) -> list[tuple[int, str]]:
        kin = relatives_in(
            self.words,
            sentence.first,
            sentence.last,
            self.last_relative,
            spoken=spoken,
            has_family_speaker=self.has_family_speaker and self.turns[sentence.turn].speaker.lower() != PATIENT,
        )
        self.kin += kin
        return kin

    def _find_names(self, sentence: Sentence, *, spoken: bool) -> tuple[list[Named], list[Named]]:
        """The names of findings and of body parts in a sentence, with places in the whole text."""
        found = find_named(self.words[sentence.first : sentence.last], self.lexicon, spoken=spoken)
        named, body_parts = (
            [name._replace(first=name.first + sentence.first, last=name.last + sentence.first) for name in ones]
            for ones in found
        )
        self.parts += [Place(part.first, part.last, part.names[-1], sentence.turn) for part in body_parts]
        return named, body_parts

    def _update_relatives(self, sentence: Sentence, kin: Kin) -> None:
        if sentence.first - self.last_relative_at >= PRONOUN_REACH:
            self.last_relative = ""
        if subjects := possible_subjects(self.words, sentence, kin):
            self.topic = self.last_relative = subjects[-1][1]
            self.last_relative_at = sentence.first
            self.topic_until = sentence.turn + (sentence.asks and bool(self.turns))  # of a question: the answer too
        elif sentence.asks and replies.asks_of_patient(self.words, sentence):
            self.topic = ""

    def _add_findings(self, sentence: Sentence, named: Sequence[Named], kin: Kin) -> None:
        """Add the findings that a sentence of a dialogue names, with their assertion and subject."""
        words, asks = self.words, sentence.asks
        scopes = read_scopes(words, sentence, spoken=True)
        speaker = kin_of(self.turns[sentence.turn].speaker)
        topic, last = ("", "") if asks else (self.topic, "" if self.has_family_speaker else self.last_relative)
        for name in named:
            trailing = self._without_predicate(sentence, kin, name.last) if name is named[-1] else []
            is_symptom = self.lexicon.concepts[name.names[0]].kind == "symptom"
            persons = Persons(kin, "" if is_symptom else topic, last, speaker, trailing)
            subject = subject_in_dialogue(words, sentence, name.first, persons)
            if asks and subject == UNKNOWN and replies.asks_of_family(words, sentence):
                subject = FAMILY
            self.findings.append(self._finding(sentence, name, scopes, subject))

    def _without_predicate(self, sentence: Sentence, kin: Kin, first: int) -> Kin:
        """The relatives from word `first` on without a verb of their own: "[my dad] at eighty", not "Dad's fine"."""
        later = [place for place in kin if place[0] >= first]
        own = texts_of(self.words, later[-1][0], min(later[-1][0] + 2, sentence.last)) if later else []
        return [] if any(text in PREDICATE_VERBS or text.endswith("'s") for text in own) else later

    def _elliptic_findings(self, sentence: Sentence, kin: Kin) -> list[Finding]:
        """The findings of an earlier question that an ellipsis refers to: "And your sisters?", "Dad had it."."""
        words, asks, turn = self.words, sentence.asks, sentence.turn
        texts = texts_of(words, sentence.first, sentence.last)
        near = takewhile(lambda one: turn - one.turn <= ELLIPTIC_TURNS, reversed(self.findings))
        open_to_others = [one for one in near if _may_be_asked_of_others(one, asks=asks)][::-1]
        last = open_to_others[-1] if open_to_others else None
        most = ELLIPTIC_WORDS if kin else ELLIPTIC_WORDS_YOU
        if last is None or (asks and len(texts) > most):
            return []
        if not asks and turn - last.turn <= 1:
            return []  # it answers the question itself: see `answering`
        you = next((sentence.first + k for k, text in enumerate(texts) if text in ("you", "yourself")), None)
        if kin:
            i, subject = kin[-1][0], kin[-1][1] if asks else join_relatives(kin)
        elif you is not None and last.subject == FAMILY:
            i, subject = you, PATIENT
        else:
            return []
        denied = not NEGATIONS.isdisjoint(texts) and not asks
        asked = [other for other in open_to_others if other.turn == last.turn]
        return [
            replace(
                finding, start=words[i].start, end=words[i].end, first=i, last=i + 1, subject=subject, turn=turn,
                assertion="denied" if denied else "present", reply=-1 if asks else None, phrase=False, elided=True,
            )
            for finding in asked
            if finding.kind in FAMILY_HISTORY_KINDS
        ]  # fmt: skip

    def _says_who_has_it(self, sentence: Sentence) -> bool:
        """Whether a sentence says that somebody has the finding asked about: "My half-brother has it."."""
        texts = texts_of(self.words, sentence.first, sentence.last)
        return any(verb in HAVE_VERBS and {*texts[i + 1 : i + 4]} & ANAPHORA for i, verb in enumerate(texts))

    def _is_heading(self, name: Named) -> bool:
        """Whether a name is a section heading of a note, or its first word: "MS: no joint pain"."""
        words, last = self.words, name.last
        while last < min(name.last + HEADING_WORDS, len(words)) and words[last].capital:
            last += 1
        begins = name.first == 0 or words[name.first - 1].text in (".", "\n")
        begins = begins and self.lexicon.concepts[name.names[0]].kind == "procedure"  # "Gyn: two pregnancies"
        return last < len(words) and words[last].text == ":" and (words[name.first].capital or begins)

    def _organ_diseases(self, sentence: Sentence) -> list[Named]:
        """Diseases of relatives named by the organ only: "Dad died of his [heart]", "Mum's got her [thyroid]"."""
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


def _may_be_asked_of_others(finding: Finding, *, asks: bool) -> bool:
    """Whether "And your father?" or "He has it." may be about a finding: of a question, or stated of a relative."""
    return finding.reply is not None or (
        asks and finding.kind == "condition" and finding.subject not in PATIENT_OR_UNKNOWN
    )


def _assertion(words: Sequence[Word], sentence: Sentence, found: Named, scopes: Scopes, kind: str) -> Assertion:
    if found.denying or (found.first > sentence.first and words[found.first - 1].text == "non"):
        return "denied"
    if is_set_aside(words, sentence, found.first):
        return "present"
    span = range(found.first, found.last)
    is_negative_name = found.phrase and not NEGATIONS.isdisjoint(texts_of(words, found.first, found.last))
    if not is_negative_name:  # the name "no appetite" is itself the finding
        denies_other = kind in ACTIONABLE and _denies_something_else(words, sentence, found, kind)
        if not denies_other and scopes.denied.intersection(span):
            return "denied"
        if is_denied_or_normal(words, found.last, sentence.last, kind):
            return "denied"
        if not denies_other and scopes.neutral.intersection(span):
            before = words[found.first - 1].text if found.first > sentence.first else ""
            return "denied" if before in NEGATIONS else "uncertain"  # "no [vision change]"
    if found.first in scopes.unsure:
        return "uncertain"
    if found.first in scopes.past:
        return "past_or_stopped"
    return "planned" if kind in ACTIONABLE and found.first in scopes.planned else "present"


def _denies_something_else(words: Sequence[Word], sentence: Sentence, found: Named, kind: str) -> bool:
    """Whether a negation that covers a drug or test denies something else: "no snoring on [CPAP]", "negative [EKG]"."""
    k = found.first - 1
    while k > sentence.first and words[k].text in ARTICLES_AND_FILLERS:
        k -= 1
    before = words[k - 1].text if k > sentence.first else "no"
    if words[k].text in SETTING_PREPOSITIONS and before not in NEGATIONS | USE_VERBS:
        return True
    if words[k].text == "in" and before in PROBLEM_WORDS:
        return True
    near = set(texts_of(words, max(sentence.first, found.first - 6), found.first))
    has_result = kind == "procedure" and near & {"negative", "unremarkable"}
    return bool(has_result) or not FREQUENCY_ADVERBS.isdisjoint(
        texts_of(words, found.last, min(found.last + 3, sentence.last))
    )
