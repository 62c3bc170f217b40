"""Statements: sentences of a dialogue, and questions answered with yes or no, compared with a note by content words.

The lexicon can't name everything that a note contains ("I live with a roommate"). For a dialogue with few facts that it
names, the omission rate would rest on one or two facts, or be 0 even for a note on another topic; so its statements
count as facts. In a dialogue with several facts they do not count: a sentence is small talk, or belongs to another
section, more often than a fact does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.anatomy import STOPWORDS
from medsum_core.grounding.facts.cardinals import DIGITS, SCALES, TEENS, TENS
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import PERIODS
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.kinship import FAMILY
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.replies import asks_openly, is_question, read_reply
from medsum_core.grounding.findings.scope import GOOD, NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word, stem

MIN_LETTERS = 3  # letters that a content word has at least
MIN_WORDS = 2  # content words that a statement has at least; a question with its answer needs only one
PREFIX = 5  # letters that related words share: "retired", "retirement"
DENYING = word_set("no not never none nothing don't didn't doesn't haven't hasn't isn't wasn't denies without nope")
ALL_NORMAL = word_set(  # words of a note that deny whatever was asked: "Noncontributory."
    "negative none noncontributory contributory unremarkable normal unchanged healthy otherwise"
)
UNKNOWN_WORDS = word_set("unknown unobtainable unavailable")  # added to SUMMARY_WORDS: "Family history unknown."
SUMMARY_WORDS = word_set(  # a summary sentence has only these and denies everything: "No significant medical history."
    "no not none negative noncontributory contributory unremarkable significant pertinent relevant known other past "
    "history histories family familial medical surgical problem problems is are of the reported all . , :"
)
SHORT_NOTE = 2  # sentences; in a longer note "None." answers the line before it, not the whole visit
CONVERSATION_WORDS = (
    (STOPWORDS - {"family"}) | DIGITS.keys() | TEENS.keys() | TENS.keys() | SCALES.keys() | PERIODS.keys()
)
CONVERSATION_WORDS |= word_set(  # small talk, and words that alone state nothing about a patient
    "without mine myself yourself someone somebody something anyone anybody anything everyone everybody everything "
    "nobody nothing thing stuff doing get going come coming let make making made take taking put i'd i'll you've "
    "you'll you'd we've we'll they've can't couldn't won't wouldn't aren't weren't haven't hasn't hadn't shouldn't "
    "gonna wanna gotta kinda whom whose why how how're whatever whenever however though although whether yep yup yea "
    "nope nah never none neither nor alright right correct sure fine good great nice wow wonderful perfect awesome "
    "excellent exactly absolutely definitely certainly indeed hmm hello hey bye goodbye doc sir ma'am maam miss "
    "mister mrs nurse please thank welcome sorry apologize excuse congratulations congrats lady gentleman guy man "
    "buddy know think guess believe suppose mean say said tell told ask hear heard see look sound talk speak remember "
    "recall forget forgot understand wonder hope want need try keep bet honest honestly actually basically probably "
    "maybe perhaps possibly even much many lot little bit kind sort pretty quite either else same such less least few "
    "several enough almost nearly again yet already ever always usually often sometimes today soon way thus question "
    "answer reason idea problem issue happen matter worry care glad happy bad long far away back first new part place "
    "whole real true wrong hard easy able best better worse start begin began anymore anyway course especially mostly "
    "certain different main concern couple read check bring brought call give show turn help find found note discuss "
    "mention information record chart name people person life feel notice seem experience lately use used"
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement at words `[first, last)` of turn `turn`.

    `stems`: of its content words; `denied`: whether it, or the answer to it, has a negation.
    """

    turn: int
    first: int
    last: int
    stems: frozenset[str]
    denied: bool


@dataclass(frozen=True)
class NoteWords:
    """The words of a note, prepared for looking statements up in them."""

    stems: frozenset[str]
    prefixes: frozenset[str]
    denies: bool
    all_normal: bool
    not_known: bool
    denied_in_sum: frozenset[str]  # PATIENT, FAMILY: whose findings a summary sentence denies all

    def contains(self, stems: frozenset[str], *, denied: bool) -> bool:
        """Whether the note has one of the content words or a related one; for a denied statement also a negation."""
        if self.not_known or (denied and self.all_normal):
            return True
        return (self.denies or not denied) and (
            not self.stems.isdisjoint(stems) or not self.prefixes.isdisjoint(_prefixes(stems))
        )

    def denies_all(self, finding: Finding) -> bool:
        """Whether a summary sentence denies a denied finding: "No significant family history."."""
        of = {PATIENT, FAMILY} if finding.subject == UNKNOWN else {PATIENT if finding.subject == PATIENT else FAMILY}
        return finding.assertion == "denied" and not self.denied_in_sum.isdisjoint(of)


def note_words(scan: FindingScan) -> NoteWords:
    """The `NoteWords` of a note that was read for findings."""
    stems, texts = frozenset(word.stem for word in scan.words), {word.text for word in scan.words}
    denies = not texts.isdisjoint(NEGATIONS | GOOD)
    summaries, is_short = _summaries(scan), len(scan.sentences) <= SHORT_NOTE
    not_known = [not words.isdisjoint(UNKNOWN_WORDS) for words in summaries]
    denied_in_sum: set[str] = set()
    for words, is_unknown in zip(summaries, not_known, strict=True):
        of_family = not words.isdisjoint(("family", "familial"))
        if not is_unknown:
            denied_in_sum.update((FAMILY,) if of_family else (PATIENT, FAMILY) if is_short else ())
    all_normal = not texts.isdisjoint(ALL_NORMAL)
    return NoteWords(stems, _prefixes(stems), denies, all_normal, is_short and any(not_known), frozenset(denied_in_sum))


def _summaries(scan: FindingScan) -> list[frozenset[str]]:
    """The words of each summary sentence, with those of a heading above it: "Family history", "Unknown"."""
    found, heading = [], frozenset[str]()
    for sentence in scan.sentences:
        texts = frozenset(word.text for word in scan.words[sentence.first : sentence.last])
        is_summary = texts <= SUMMARY_WORDS | UNKNOWN_WORDS
        is_heading = is_summary and texts.isdisjoint(ALL_NORMAL | NEGATIONS | UNKNOWN_WORDS)
        if is_summary and not is_heading:
            found.append(texts | heading)
        heading = texts if is_heading else frozenset()
    return found


def read_statements(turns: Sequence[Turn], scan: FindingScan) -> Iterator[Statement]:
    """The statements of a dialogue in order; a question is one only if the next turn answers yes or no."""
    for sentence in scan.sentences:
        words = scan.words[sentence.first : sentence.last]
        stems = _content(words)
        if is_question(scan.words, sentence, is_clinician=turns[sentence.turn].is_clinician):
            reply, least = reply_to(scan, sentence), 1
            counts, denied = reply in ("yes", "no"), reply == "no"
        else:
            counts, least, denied = True, MIN_WORDS, any(word.text in DENYING for word in words)
        if counts and len(stems) >= least:
            yield Statement(turn=sentence.turn, first=sentence.first, last=sentence.last, stems=stems, denied=denied)


def reply_to(scan: FindingScan, question: Sentence) -> str:
    """The reply of the next turn to a question, as `findings.replies.read_reply`; "other" for an open question."""
    if question.turn + 1 >= len(scan.turns) or asks_openly(scan.words, question):
        return "other"
    return read_reply(scan.words, *scan.turns[question.turn + 1])[0]


def _content(words: Sequence[Word]) -> frozenset[str]:
    return frozenset(
        word.stem
        for word in words
        if len(word.stem) >= MIN_LETTERS and word.stem not in _conversation_stems() and not word.text[0].isdigit()
    )


@lru_cache(maxsize=1)
def _conversation_stems() -> frozenset[str]:
    return frozenset(map(stem, CONVERSATION_WORDS))


def _prefixes(stems: frozenset[str]) -> frozenset[str]:
    return frozenset(word[:PREFIX] for word in stems if len(word) >= PREFIX)
