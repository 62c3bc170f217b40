"""What a dialogue with few known facts tells: its sentences, and questions with yes or no, by their content words.

The lexicon can't name everything that a note holds ("I live with a roommate"). Where a dialogue has hardly anything
that it names, these sentences are what a note can leave out too: else its rate would be that of a fact or two, or 0,
even for a note of something else. Beside several facts they do not count: a sentence is small talk, or belongs to
another section, more often than a fact is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.kinship import FAMILY
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.replies import asks_openly, is_question, read_reply
from medsum_core.grounding.findings.scope import GOOD, NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word, stem

SHORTEST = 3  # letters of a content word
LEAST = 2  # content words that a sentence needs to say something; a question with its answer needs one
PREFIX = 5  # letters that related words share: "retired", "retirement"
DENYING = bag("no not never none nothing don't didn't doesn't haven't hasn't isn't wasn't denies without nope")
ALL_WELL = bag(  # a note's words that deny whatever was asked: "Noncontributory."
    "negative none noncontributory contributory unremarkable normal unchanged healthy otherwise"
)
NOT_KNOWN = bag("unknown unobtainable unavailable")  # of these with SUMMING a sentence says that nobody could tell
SUMMING = bag(  # of these alone a sentence denies all there could be: "No significant past medical history."
    "no not none negative noncontributory contributory unremarkable significant pertinent relevant known other past "
    "history histories family familial medical surgical problem problems is are of the reported all . , :"
)
SHORT_NOTE = 2  # sentences; in a longer note "None." answers the line before it, not the whole visit
TALK = bag(  # words of any conversation, which by themselves tell nothing of a patient
    "a an the and or but if so because as of to in on at by for from with without about into over under up down out "
    "off then than that this these those there here i me my mine myself we us our you your yours yourself he him his "
    "she her hers it its they them their someone somebody something anyone anybody anything everyone everybody "
    "everything nobody nothing one ones thing things stuff am is are was were be been being do does did done doing "
    "have has had having can could may might must shall should will would get gets got getting go goes going gone "
    "went come comes coming came let lets make makes making made take taken took taking put i'm i've i'd i'll you're "
    "you've you'll you'd he's she's it's that's there's we're we've we'll they're they've don't doesn't didn't can't "
    "couldn't won't wouldn't isn't aren't wasn't weren't haven't hasn't hadn't shouldn't gonna wanna gotta kinda what "
    "what's which who whom whose when where where's why how how's how're whatever whenever however while until since "
    "though although whether yes yeah yep yup yea no nope nah not never none neither nor okay ok alright right correct "
    "sure fine good great well nice wow wonderful perfect awesome excellent exactly absolutely definitely certainly "
    "indeed oh um uh hm hmm ah mm hi hello hey bye goodbye morning afternoon evening doctor doc dr sir ma'am maam miss "
    "mister mr mrs ms nurse please thank thanks welcome sorry apologize excuse congratulations congrats lady gentleman "
    "guy guys man buddy know think guess believe suppose mean say says said tell told ask asked hear heard see look "
    "looks looking sound sounds talk talking speak remember recall forget forgot understand wonder wondering hope like "
    "want wanted need try trying keep kept let's bet honest honestly actually really basically probably maybe perhaps "
    "possibly just only even also too very much many lot lots little bit kind sort pretty quite some any all every "
    "each both either other others another else same such most more less least few several enough almost nearly again "
    "still yet already ever always usually often sometimes now today day days time times soon later ago before after "
    "around way ways thus question questions answer reason idea problem problems issue issues happen happened "
    "happening matter worry worried care glad happy bad long far away back first last next new part place whole real "
    "true wrong hard easy able best better worse start started begin began anymore anyway course especially mostly "
    "certain different main concern concerns couple read check bring brought call called give given show shows turn "
    "help find found note notes discuss mention information record records chart name people person life feel feeling "
    "felt notice noticed seem seems experience experienced currently recently lately use used two three four five six "
    "seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty "
    "forty fifty sixty seventy eighty ninety hundred thousand year years month months week weeks hour hours minute "
    "minutes old age"
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What words `[first, last)` of turn `turn` tell: stems of their content words; whether they or the answer deny."""

    turn: int
    first: int
    last: int
    stems: frozenset[str]
    denied: bool


@dataclass(frozen=True)
class NoteWords:
    """The words of a note, to look what was told up in them."""

    stems: frozenset[str]
    prefixes: frozenset[str]
    denies: bool
    all_well: bool
    not_known: bool
    summed_up: frozenset[str]  # of whom a sentence denies all there could be: PATIENT, FAMILY

    def holds(self, stems: frozenset[str], *, denied: bool) -> bool:
        """Whether one of the content words stands here, inflected or related; of a denial, in a note that denies."""
        if self.not_known or (denied and self.all_well):
            return True
        return (self.denies or not denied) and (
            not self.stems.isdisjoint(stems) or not self.prefixes.isdisjoint(_prefixes(stems))
        )

    def denies_all(self, finding: Finding) -> bool:
        """Whether the note denies in sum what a dialogue denies: "No significant family history."."""
        of = {PATIENT, FAMILY} if finding.subject == UNKNOWN else {PATIENT if finding.subject == PATIENT else FAMILY}
        return finding.assertion == "denied" and not self.summed_up.isdisjoint(of)


def note_words(scan: FindingScan) -> NoteWords:
    """A note's words as `NoteWords`."""
    stems, texts = frozenset(word.stem for word in scan.words), {word.text for word in scan.words}
    denies = not texts.isdisjoint(NEGATIONS | GOOD)
    summaries, is_short = _summaries(scan), len(scan.sentences) <= SHORT_NOTE
    summed_up = frozenset(subject for one in summaries for subject in _summed_up(one, is_short=is_short))
    not_known = is_short and any(not one.isdisjoint(NOT_KNOWN) for one in summaries)
    return NoteWords(stems, _prefixes(stems), denies, not texts.isdisjoint(ALL_WELL), not_known, summed_up)


def _summaries(scan: FindingScan) -> list[frozenset[str]]:
    """The words of each sentence that sums up, with those of a heading above it: "Family history", "Unknown"."""
    found, heading = [], frozenset[str]()
    for sentence in scan.sentences:
        texts = frozenset(word.text for word in scan.words[sentence.first : sentence.last])
        if not texts <= SUMMING | NOT_KNOWN:
            heading = frozenset()
        elif texts.isdisjoint(ALL_WELL | NEGATIONS | NOT_KNOWN):
            heading = texts
        else:
            found.append(texts | heading)
            heading = frozenset()
    return found


def _summed_up(texts: frozenset[str], *, is_short: bool) -> tuple[str, ...]:
    if not texts.isdisjoint(NOT_KNOWN):
        return ()
    if not texts.isdisjoint(("family", "familial")):
        return (FAMILY,)
    return (PATIENT, FAMILY) if is_short else ()


def read_told(turns: Sequence[Turn], scan: FindingScan) -> Iterator[Told]:
    """What the sentences of a dialogue tell, in order; a question only where the next turn says yes or no."""
    for sentence in scan.sentences:
        words = scan.words[sentence.first : sentence.last]
        stems = _content(words)
        if is_question(scan.words, sentence, is_clinician=turns[sentence.turn].is_clinician):
            reply, least = _reply(scan, sentence), 1
            counts, denied = reply in ("yes", "no"), reply == "no"
        else:
            counts, least, denied = True, LEAST, any(word.text in DENYING for word in words)
        if counts and len(stems) >= least:
            yield Told(turn=sentence.turn, first=sentence.first, last=sentence.last, stems=stems, denied=denied)


def _reply(scan: FindingScan, sentence: Sentence) -> str:
    if sentence.turn + 1 >= len(scan.turns) or asks_openly(scan.words, sentence):
        return "other"
    return read_reply(scan.words, *scan.turns[sentence.turn + 1])[0]


def _content(words: Sequence[Word]) -> frozenset[str]:
    return frozenset(
        word.stem
        for word in words
        if len(word.stem) >= SHORTEST and word.stem not in _talk_stems() and not word.text[0].isdigit()
    )


@lru_cache(maxsize=1)
def _talk_stems() -> frozenset[str]:
    return frozenset(map(stem, TALK))


def _prefixes(stems: frozenset[str]) -> frozenset[str]:
    return frozenset(word[:PREFIX] for word in stems if len(word) >= PREFIX)
