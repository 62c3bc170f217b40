"""A dialogue prepared for looking findings up: its findings by concept, its words by turn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, TypeVar, cast

from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.kinship import FAMILY, is_family, kin_of
from medsum_core.grounding.findings.lexicon import Lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.replies import FINE, OPEN, asks_openly, read_reply, says_well, tells
from medsum_core.grounding.findings.scope import Sentence, judged_good, read_scopes
from medsum_core.grounding.findings.stems import FILLERS, PREFIX, stem, texts_of

Made = TypeVar("Made")
Polarity = Literal["yes", "no", "well", "neutral"]  # well: "Sleeping?" "Like a baby."
DENIES = ("no", "well")
MOST = 200  # findings of one name in a dialogue that a note's finding is compared with, the first ones
REACH = 6  # words between words that belong together
HERE = "@"  # in a hint: a word of the finding's body part
LITTLE = FILLERS | {"it", "and"}


@dataclass(frozen=True, eq=False)
class FindingIndex:
    """A dialogue with the findings named in it."""

    turns: Sequence[Turn]
    scan: FindingScan
    lexicon: Lexicon

    @cached_property
    def by_name(self) -> dict[str, list[Finding]]:
        """The findings by each of their names and of the names broader than these."""
        found: dict[str, list[Finding]] = {}
        for finding in self.scan.findings:
            for name in frozenset().union(*(self.lexicon.ancestors[own] for own in finding.names)):
                found.setdefault(name, []).append(finding)
        return found

    def broader(self, names: Iterable[str]) -> frozenset[str]:
        """The names broader than these, but for those of whole kinds."""
        return frozenset().union(*(self.lexicon.ancestors[name] for name in names)) - ROOTS - frozenset(names)

    @cached_property
    def turns_of(self) -> dict[str, set[int]]:
        """The turns in which each stem occurs."""
        found: dict[str, set[int]] = {}
        for number, (first, last) in enumerate(self.scan.turns):
            for word in self.scan.words[first:last]:
                found.setdefault(word.stem, set()).add(number)
        return found

    @cached_property
    def prefixes(self) -> frozenset[str]:
        """The first letters of the words."""
        return frozenset(word[:PREFIX] for word in self.turns_of)

    @cached_property
    def kin(self) -> frozenset[str]:
        """The relatives named or speaking, with those by whom they are named: "my mother's sister" names a mother."""
        speaking = {kin_of(part) for turn in self.turns for part in turn.speaker.replace("_", " ").split()}
        read = dict(self.scan.kin)
        named = {read.get(i) or kin_of(word.text) for i, word in enumerate(self.scan.words)}
        return frozenset(named | speaking) - {"", FAMILY}

    def implied_parts(self, finding: Finding) -> set[str]:
        """The body parts that a finding's names hold."""
        return {part for name in finding.names for part in self.lexicon.parts_in.get(name, ())}

    def kin_around(self, finding: Finding) -> set[str]:
        """The relatives named in a finding's turn and the two after it."""
        first, _ = self.scan.turns[finding.turn]
        _, last = self.scan.turns[min(finding.turn + 2, len(self.scan.turns) - 1)]
        return {name for _, name in self.scan.kin_between(first, last)}

    def is_refused(self, finding: Finding) -> bool:
        """Whether the answer to a finding's question is no: "No other symptoms?" "No."."""
        return finding.reply is not None and read_reply(self.scan.words, *self.scan.turns[finding.reply])[0] == "no"

    def says(self, words: frozenset[str]) -> bool:
        """Whether one of the words is said."""
        return not words.isdisjoint(self.turns_of) or any(stem(word) in self.turns_of for word in words)

    def tells_of(self, words: frozenset[str], finding: Finding) -> bool:
        """Whether one of the words is in a finding's turn or the turn after it, which answers."""
        first, _ = self.scan.turns[finding.turn]
        _, last = self.scan.turns[min(finding.turn + 1, len(self.scan.turns) - 1)]
        return any(self.scan.words[i].text in words for i in range(first, last))

    def named(self, names: Iterable[str]) -> list[Finding]:
        """The findings of these concepts or of narrower ones, in order."""
        wanted = tuple(names)
        return self.once(("named", *wanted), lambda: _in_order(self.by_name.get(name, ()) for name in wanted))

    def exact(self, names: Iterable[str]) -> list[Finding]:
        """The findings that have one of these names, in order."""
        wanted = tuple(sorted(names))
        own = ([one for one in self.by_name.get(name, ()) if name in one.names] for name in wanted)
        return self.once(("exact", *wanted), lambda: _in_order(own))

    def once(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """What `make` returns, made once for each key: a note asks for the same finding again and again."""
        if key not in self._made:
            self._made[key] = make()
        return cast(Made, self._made[key])

    @cached_property
    def _made(self) -> dict[tuple[object, ...], object]:
        return {}

    def in_paraphrase(self, names: Iterable[str], part: str, *, least: int = 1) -> list[tuple[int, Polarity]]:
        """The turns that may speak of a concept in `least` or more other words, and whether they affirm it."""
        wanted = tuple(names)
        return self.once(("in_paraphrase", part, least, *wanted), lambda: self._in_paraphrase(wanted, part, least))

    def _in_paraphrase(self, names: Sequence[str], part: str, least: int) -> list[tuple[int, Polarity]]:
        part_stems = self._part_stems(part)
        found: list[tuple[int, Polarity]] = []
        for name, stems in self.paraphrases(names):
            counts = max(len(stems - LITTLE), 1) >= least and not self._is_claimed(stems, name)
            for number in self._windows(stems) if counts else ():
                here = {number, number + 1}
                if not part_stems or any(self.turns_of.get(word, set()) & here for word in part_stems):
                    found.append((max(number, 0), self._polarity(number, stems)))
        return found

    def paraphrases(self, names: Iterable[str]) -> Iterator[tuple[str, frozenset[str]]]:
        """The words that mention each of these concepts."""
        known = self.lexicon.concepts
        return ((name, stems) for name in names if name in known for stems in known[name].paraphrases)

    def _is_claimed(self, stems: frozenset[str], name: str) -> bool:
        """Whether a condition's one-word paraphrase always stands with words of another: "my [thyroid] is slow"."""
        if len(stems) > 1 or self.lexicon.concepts[name].kind != "condition":
            return False
        (word,) = stems
        left = self.places.get(word, [])
        for longer, other in self.lexicon.longer.get(word, ()) if left else ():
            if not self.lexicon.related(name, other):
                left = [i for i in left if not self._has_near(longer, i)]
        return word in self.places and not left

    def _has_near(self, stems: Iterable[str], i: int) -> bool:
        """Whether each of these words stands near word i."""
        places = (self.places.get(word, ()) for word in stems)
        return all(bisect_left(others, i - REACH) < bisect_right(others, i + REACH) for others in places)

    def places_of(self, names: Iterable[str]) -> list[tuple[int, Sentence]]:
        """Where a sentence has all words of a phrase for one of the concepts: the first of them, and the sentence."""
        found: dict[int, tuple[int, Sentence]] = {}
        for _, stems in self.paraphrases(names):
            shared = set.intersection(*(self.turns_of.get(word, set()) for word in stems))
            for sentence in (s for turn in sorted(shared) for s in self.scan.sentences_of[turn]):
                here = self._places_in(sentence, stems)
                if stems <= {self.scan.words[i].stem for i in here}:
                    found.setdefault(here[0], (here[0], sentence))
        return [found[key] for key in sorted(found)]

    def hints_at(self, names: Iterable[str], part: str, *, affirmed: bool = False) -> bool:
        """Whether the dialogue has, near each other, words that patients use of one of these concepts.

        `part`: a body part that it must name, "" for none. `affirmed`: not in a question alone that is answered "No".
        """
        wanted = tuple(names)
        return self.once(("hints", part, affirmed, *wanted), lambda: self._hints_at(wanted, part, affirmed))

    def _hints_at(self, names: Sequence[str], part: str, affirmed: bool) -> bool:
        known, of_part = self.lexicon.concepts, self.parts_named(part)
        if part and not of_part:
            return False
        own = ((name, stems) for name in names if name in known for stems in known[name].hints)
        hints = [stems for name, stems in own if not self._is_claimed(stems, name)]
        there = [stems - {HERE} | {word} for stems in hints if HERE in stems for word in sorted(of_part)]
        hints = [*there, *(stems for stems in hints if HERE not in stems)]
        return any(self._are_near(stems, affirmed=affirmed) for stems in hints)

    def parts_named(self, part: str) -> set[str]:
        """The stems of a body part's words that occur."""
        return self._part_stems(part) & self.turns_of.keys()

    def has_trouble_with(self, part: str) -> bool:
        """Whether a body part is openly asked about ("How is the knee?"), or something is wrong where it is named."""
        stems = self._part_stems(part)
        turns = {turn for word in stems for turn in self.turns_of.get(word, ())}
        asking = (s for turn in turns for s in self.scan.sentences_of[turn] if s.asks and self._places_in(s, stems))
        if any(OPEN & set(texts_of(self.scan.words, s.first, s.last)) for s in asking):
            return True
        told = (one for one in self.scan.findings if one.kind == "symptom" and one.reply is None)
        return any(one.assertion == "present" and {one.turn, one.turn - 1} & turns for one in told)

    def _places_in(self, sentence: Sentence, stems: Container[str]) -> list[int]:
        return [i for i in range(sentence.first, sentence.last) if self.scan.words[i].stem in stems]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """The words at which each stem occurs."""
        found: dict[str, list[int]] = {}
        for i, word in enumerate(self.scan.words):
            found.setdefault(word.stem, []).append(i)
        return found

    def _are_near(self, stems: Iterable[str], *, affirmed: bool) -> bool:
        places = min((self.places.get(word, []) for word in stems), key=len)
        return any(self._has_near(stems, i) and not (affirmed and self._is_refused_at(i)) for i in places)

    def _is_refused_at(self, i: int) -> bool:
        sentence = self.scan.sentence_at(i)
        return sentence.asks and self.polarity_of(sentence, [i]) == "no"

    def _part_stems(self, part: str) -> set[str]:
        concept = self.lexicon.concepts.get(part)
        return {stem(part), *(word for stems in concept.paraphrases for word in stems)} if concept else set()

    def _windows(self, stems: frozenset[str]) -> list[int]:
        """The turns that together with the one after them have all of these stems."""
        places = [self.turns_of.get(word) for word in stems]
        if not all(places):
            return []
        rarest = min((place for place in places if place), key=len)
        starts = {start for number in rarest for start in (number - 1, number)} if len(stems) > 1 else rarest
        return sorted(
            start for start in starts if all(place and (start in place or start + 1 in place) for place in places)
        )

    def _polarity(self, number: int, stems: frozenset[str]) -> Polarity:
        """Whether the turn, or the answer to it, affirms the words: "no" where each place denies them."""
        stems = stems - LITTLE or stems
        sentences = (s for turn in (number, number + 1) for s in self.scan.sentences_of.get(turn, ()))
        named = ((sentence, self._places_in(sentence, stems)) for sentence in sentences)
        said = {self.polarity_of(sentence, places) for sentence, places in named if places}
        if "yes" in said or "well" in said:
            return "yes" if "yes" in said else "well"
        return "no" if said == {"no"} else "neutral"

    def polarity_of(self, sentence: Sentence, places: Sequence[int]) -> Polarity:
        """Whether a sentence, or the answer to it, affirms its words `places`."""
        words = self.scan.words
        if sentence.asks and sentence.turn + 1 < len(self.scan.turns):
            if asks_openly(words, sentence):
                return "neutral"
            answer = self.scan.turns[sentence.turn + 1]
            if says_well(words, *answer):
                return "well"
            reply = read_reply(words, *answer)[0]
            if reply == "yes" and self._asks_several(sentence):
                return "neutral"
            if reply in ("yes", "no") and words[sentence.last - 1].text in FINE:
                return "well" if reply == "yes" else "yes"  # "Blood pressure okay?"
            denied = read_scopes(words, sentence, spoken=True).denied  # "And no weight loss?"
            told = reply == "other" and tells(words, *answer) and denied.isdisjoint(places)
            return "yes" if told or reply == "yes" else "no" if reply == "no" else "neutral"
        scopes = read_scopes(words, sentence, spoken=True)
        if judged_good(words, places[-1] + 1, sentence.last, "symptom"):
            return "well"
        if all(i in scopes.denied for i in places):
            return "no"
        doubtful = scopes.denied | scopes.neutral | scopes.unsure | scopes.planned
        return "neutral" if doubtful.intersection(places) else "yes"

    def _asks_several(self, sentence: Sentence) -> bool:
        """Whether a question has others after it or offers a choice, so that "yes" is to one of them only."""
        marks = texts_of(self.scan.words, sentence.first, sentence.last).count(",")
        return marks > 1 or any(one.first > sentence.first for one in self.scan.sentences_of[sentence.turn] if one.asks)

    @cached_property
    def has_guests(self) -> bool:
        """Whether a relative speaks, who then may call the patient "my mother"."""
        return any(is_family(turn.speaker) for turn in self.turns)


def _in_order(of_names: Iterable[Sequence[Finding]]) -> list[Finding]:
    """The findings of several names in order, each once; the first `MOST`."""
    found = {(finding.first, finding.last): finding for findings in of_names for finding in findings}
    return [found[key] for key in sorted(found)[:MOST]]


@lru_cache(maxsize=16)  # decoding checks a growing note against one dialogue
def index_findings(dialogue: str, lexicon: Lexicon) -> FindingIndex:
    """Read a dialogue's findings."""
    turns = read_turns(dialogue)
    return FindingIndex(turns, scan_findings(dialogue, turns, lexicon), lexicon)
