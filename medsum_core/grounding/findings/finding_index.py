"""The index of a dialogue's findings by concept and of its words by stem, for names, paraphrases and hints."""

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
from medsum_core.grounding.findings.replies import (
    FINE,
    QUESTION_WORDS,
    asks_openly,
    is_plain_statement,
    read_reply,
    says_all_is_well,
)
from medsum_core.grounding.findings.scope import Sentence, is_denied_or_normal, read_scopes
from medsum_core.grounding.findings.stems import FILLERS, PREFIX, stem, texts_of

T = TypeVar("T")
Polarity = Literal["affirmed", "denied", "normal", "unclear"]  # normal: "Sleeping?" "Like a baby."
NEGATIVE = ("denied", "normal")
MOST = 200  # findings of a concept that are considered, so that the time stays linear
REACH = 6  # words to either side within which the words of a hint must stand
PART_PLACEHOLDER = "@"  # in a hint: stands for a word of the finding's body part
WEAK_WORDS = FILLERS | {"it", "and"}  # are no content words


@dataclass(frozen=True, eq=False)
class FindingIndex:
    """A dialogue and its findings, read once."""

    turns: Sequence[Turn]
    scan: FindingScan
    lexicon: Lexicon

    @cached_property
    def by_name(self) -> dict[str, list[Finding]]:
        """The findings by each of their concepts and of the broader concepts."""
        found: dict[str, list[Finding]] = {}
        for finding in self.scan.findings:
            for name in frozenset().union(*(self.lexicon.ancestors[own] for own in finding.names)):
                found.setdefault(name, []).append(finding)
        return found

    def broader(self, names: Iterable[str]) -> frozenset[str]:
        """The concepts broader than these, without `ROOTS`."""
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
        """The first `PREFIX` letters of each stem."""
        return frozenset(word[:PREFIX] for word in self.turns_of)

    @cached_property
    def kin(self) -> frozenset[str]:
        """The relatives that are named or speak; "my mother's sister" names the mother too."""
        speaking = {kin_of(part) for turn in self.turns for part in turn.speaker.replace("_", " ").split()}
        read = dict(self.scan.kin)
        named = {read.get(i) or kin_of(word.text) for i, word in enumerate(self.scan.words)}
        return frozenset(named | speaking) - {"", FAMILY}

    def implied_parts(self, finding: Finding) -> set[str]:
        """The body parts that a finding's concepts imply."""
        return {part for name in finding.names for part in self.lexicon.parts_in.get(name, ())}

    def kin_near(self, finding: Finding) -> set[str]:
        """The relatives named in a finding's turn and the two after it."""
        first, _ = self.scan.turns[finding.turn]
        _, last = self.scan.turns[min(finding.turn + 2, len(self.scan.turns) - 1)]
        return {name for _, name in self.scan.kin_between(first, last)}

    def is_answered_no(self, finding: Finding) -> bool:
        """Whether a finding is in a question that is answered "no": "No other symptoms?" "No."."""
        return finding.reply is not None and read_reply(self.scan.words, *self.scan.turns[finding.reply])[0] == "no"

    def has_word(self, words: frozenset[str]) -> bool:
        """Whether the dialogue has one of the words, in any inflection."""
        return not words.isdisjoint(self.turns_of) or any(stem(word) in self.turns_of for word in words)

    def has_word_near(self, words: frozenset[str], finding: Finding) -> bool:
        """Whether one of the words is in a finding's turn or in the next, which may answer it."""
        first, _ = self.scan.turns[finding.turn]
        _, last = self.scan.turns[min(finding.turn + 1, len(self.scan.turns) - 1)]
        return any(self.scan.words[i].text in words for i in range(first, last))

    def named(self, names: Iterable[str]) -> list[Finding]:
        """The findings of these concepts or of narrower ones, in order, at most `MOST`."""
        wanted = tuple(names)
        return self.cached(("named", *wanted), lambda: _in_order(self.by_name.get(name, ()) for name in wanted))

    def exact(self, names: Iterable[str]) -> list[Finding]:
        """The findings of these concepts, without narrower ones, in order, at most `MOST`."""
        wanted = tuple(sorted(names))
        own = ([one for one in self.by_name.get(name, ()) if name in one.names] for name in wanted)
        return self.cached(("exact", *wanted), lambda: _in_order(own))

    def cached(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` returns, computed once for each key, as a note may name the same finding many times."""
        if key not in self._cache:
            self._cache[key] = make()
        return cast(T, self._cache[key])

    @cached_property
    def _cache(self) -> dict[tuple[object, ...], object]:
        return {}

    def in_paraphrase(self, names: Iterable[str], part: str, *, least: int = 1) -> list[tuple[int, Polarity]]:
        """The turns that may paraphrase a concept, each with the polarity.

        `part`: a body part that must be named nearby, "" for none. `least`: content words that a paraphrase must have.
        """
        wanted = tuple(names)
        return self.cached(("in_paraphrase", part, least, *wanted), lambda: self._in_paraphrase(wanted, part, least))

    def _in_paraphrase(self, names: Sequence[str], part: str, least: int) -> list[tuple[int, Polarity]]:
        part_stems = self._part_stems(part)
        found: list[tuple[int, Polarity]] = []
        for name, stems in self.paraphrases(names):
            is_used = max(len(stems - WEAK_WORDS), 1) >= least and not self._belongs_to_longer_phrase(stems, name)
            for number in self._turns_with_all(stems) if is_used else ():
                nearby = {number, number + 1}
                if not part_stems or any(self.turns_of.get(word, set()) & nearby for word in part_stems):
                    found.append((max(number, 0), self._polarity(number, stems)))
        return found

    def paraphrases(self, names: Iterable[str]) -> Iterator[tuple[str, frozenset[str]]]:
        """The paraphrases of these concepts, each with its concept."""
        known = self.lexicon.concepts
        return ((name, stems) for name in names if name in known for stems in known[name].paraphrases)

    def _belongs_to_longer_phrase(self, stems: frozenset[str], name: str) -> bool:
        """Whether a condition's one-word paraphrase occurs only within longer ones of other conditions.

        "thyroid" does in "my [thyroid] is slow".
        """
        if len(stems) > 1 or self.lexicon.concepts[name].kind != "condition":
            return False
        (word,) = stems
        alone = self.positions.get(word, [])
        for longer, other in self.lexicon.longer_phrases.get(word, ()) if alone else ():
            if not self.lexicon.related(name, other):
                alone = [i for i in alone if not self._are_all_near(longer, i)]
        return word in self.positions and not alone

    def _are_all_near(self, stems: Iterable[str], i: int) -> bool:
        """Whether each of these stems occurs near word i."""
        positions = (self.positions.get(word, ()) for word in stems)
        return all(bisect_left(others, i - REACH) < bisect_right(others, i + REACH) for others in positions)

    def sentences_with(self, names: Iterable[str]) -> list[tuple[int, Sentence]]:
        """The sentences with all words of a paraphrase of one of the concepts, and where the first of the words is."""
        found: dict[int, tuple[int, Sentence]] = {}
        for _, stems in self.paraphrases(names):
            shared = set.intersection(*(self.turns_of.get(word, set()) for word in stems))
            for sentence in (s for turn in sorted(shared) for s in self.scan.sentences_of[turn]):
                matches = self._positions_in(sentence, stems)
                if stems <= {self.scan.words[i].stem for i in matches}:
                    found.setdefault(matches[0], (matches[0], sentence))
        return [found[key] for key in sorted(found)]

    def hints_at(self, names: Iterable[str], part: str, *, affirmed: bool = False) -> bool:
        """Whether the dialogue has all words of a hint of one of these concepts, near each other.

        `part`: a body part that the dialogue must name, "" for none. `affirmed`: questions answered "no" do not count.
        """
        wanted = tuple(names)
        return self.cached(("hints", part, affirmed, *wanted), lambda: self._hints_at(wanted, part, affirmed))

    def _hints_at(self, names: Sequence[str], part: str, affirmed: bool) -> bool:
        known, of_part = self.lexicon.concepts, self.named_part_stems(part)
        if part and not of_part:
            return False
        own = ((name, stems) for name in names if name in known for stems in known[name].hints)
        hints = [stems for name, stems in own if not self._belongs_to_longer_phrase(stems, name)]
        with_part = [stems for stems in hints if PART_PLACEHOLDER in stems]
        filled = [stems - {PART_PLACEHOLDER} | {word} for stems in with_part for word in sorted(of_part)]
        hints = [*filled, *(stems for stems in hints if PART_PLACEHOLDER not in stems)]
        return any(self._occur_together(stems, affirmed=affirmed) for stems in hints)

    def named_part_stems(self, part: str) -> set[str]:
        """The stems of a body part's names that the dialogue has."""
        return self._part_stems(part) & self.turns_of.keys()

    def has_problem_with(self, part: str) -> bool:
        """Whether an open question is about a body part ("How is the knee?") or a symptom is stated near its name."""
        stems = self._part_stems(part)
        turns = {turn for word in stems for turn in self.turns_of.get(word, ())}
        asking = (s for turn in turns for s in self.scan.sentences_of[turn] if s.asks and self._positions_in(s, stems))
        if any(QUESTION_WORDS & set(texts_of(self.scan.words, s.first, s.last)) for s in asking):
            return True
        stated = (one for one in self.scan.findings if one.kind == "symptom" and one.reply is None)
        return any(one.assertion == "present" and {one.turn, one.turn - 1} & turns for one in stated)

    def _positions_in(self, sentence: Sentence, stems: Container[str]) -> list[int]:
        return [i for i in range(sentence.first, sentence.last) if self.scan.words[i].stem in stems]

    @cached_property
    def positions(self) -> dict[str, list[int]]:
        """The indices of the words with each stem."""
        found: dict[str, list[int]] = {}
        for i, word in enumerate(self.scan.words):
            found.setdefault(word.stem, []).append(i)
        return found

    def _occur_together(self, stems: Iterable[str], *, affirmed: bool) -> bool:
        positions = min((self.positions.get(word, []) for word in stems), key=len)
        near = (i for i in positions if self._are_all_near(stems, i))
        return any(not (affirmed and self._is_in_question_answered_no(i)) for i in near)

    def _is_in_question_answered_no(self, i: int) -> bool:
        sentence = self.scan.sentence_at(i)
        return sentence.asks and self.polarity_of(sentence, [i]) == "denied"

    def _part_stems(self, part: str) -> set[str]:
        concept = self.lexicon.concepts.get(part)
        return {stem(part), *(word for stems in concept.paraphrases for word in stems)} if concept else set()

    def _turns_with_all(self, stems: frozenset[str]) -> list[int]:
        """The turns that have all of these stems, alone or together with the next turn."""
        turns = [self.turns_of.get(word) for word in stems]
        if not all(turns):
            return []
        rarest = min((of_stem for of_stem in turns if of_stem), key=len)
        starts = {start for number in rarest for start in (number - 1, number)} if len(stems) > 1 else rarest
        return sorted(
            start
            for start in starts
            if all(of_stem and not of_stem.isdisjoint((start, start + 1)) for of_stem in turns)
        )

    def _polarity(self, number: int, stems: frozenset[str]) -> Polarity:
        """The polarity of these stems in a turn and the next: affirmed if any sentence affirms, denied if all deny."""
        stems = stems - WEAK_WORDS or stems
        sentences = (s for turn in (number, number + 1) for s in self.scan.sentences_of.get(turn, ()))
        named = ((sentence, self._positions_in(sentence, stems)) for sentence in sentences)
        polarities = {self.polarity_of(sentence, positions) for sentence, positions in named if positions}
        if "affirmed" in polarities or "normal" in polarities:
            return "affirmed" if "affirmed" in polarities else "normal"
        return "denied" if polarities == {"denied"} else "unclear"

    def polarities_of(self, stems: Iterable[str]) -> Iterator[Polarity]:
        """The polarity of each word of the dialogue with one of these texts or stems, at most `MOST` of each."""
        for i in (i for text in sorted(stems) for i in self.positions.get(text, ())[:MOST]):
            yield self.polarity_of(self.scan.sentence_at(i), [i])

    def polarity_of(self, sentence: Sentence, positions: Sequence[int]) -> Polarity:
        """The polarity of the words `positions` of a sentence; of a question, after its answer."""
        words = self.scan.words
        if sentence.asks and sentence.turn + 1 < len(self.scan.turns):
            if asks_openly(words, sentence):
                return "unclear"
            answer = self.scan.turns[sentence.turn + 1]
            if says_all_is_well(words, *answer):
                return "normal"
            stems = {words[i].stem for i in positions}
            repeated = ((s, self._positions_in(s, stems)) for s in self.scan.sentences_of.get(sentence.turn + 1, ()))
            own = {self.polarity_of(s, places) for s, places in repeated if places and not s.asks}
            if own & {"denied", "normal"} and "affirmed" not in own:
                return "denied"  # "Any strain, any blood?" "Strain, yes. Blood, no."
            reply = read_reply(words, *answer)[0]
            if reply == "yes" and self._asks_more(sentence):
                return "unclear"
            if reply in ("yes", "no") and words[sentence.last - 1].text in FINE:
                return "normal" if reply == "yes" else "affirmed"  # "Blood pressure okay?"
            denied = read_scopes(words, sentence, spoken=True).denied  # "And no weight loss?"
            described = (
                reply == "other"
                and not self._asks_more(sentence)
                and is_plain_statement(words, *answer)
                and denied.isdisjoint(positions)
            )
            return "affirmed" if described or reply == "yes" else "denied" if reply == "no" else "unclear"
        scopes = read_scopes(words, sentence, spoken=True)
        if is_denied_or_normal(words, positions[-1] + 1, sentence.last, "symptom"):
            return "normal"
        if all(i in scopes.denied for i in positions):
            return "denied"
        doubtful = scopes.denied | scopes.neutral | scopes.unsure | scopes.planned
        return "unclear" if doubtful.intersection(positions) else "affirmed"

    def _asks_more(self, sentence: Sentence) -> bool:
        """Whether a question lists alternatives or others follow it in its turn, so that "yes" may answer another."""
        marks = texts_of(self.scan.words, sentence.first, sentence.last).count(",")
        return marks > 1 or any(one.first > sentence.first for one in self.scan.sentences_of[sentence.turn] if one.asks)

    @cached_property
    def has_family_speaker(self) -> bool:
        """Whether a relative is one of the speakers, who then may call the patient "my mother"."""
        return any(is_family(turn.speaker) for turn in self.turns)


def _in_order(of_names: Iterable[Sequence[Finding]]) -> list[Finding]:
    """The first `MOST` findings of several concepts in order, without duplicates."""
    found = {(finding.first, finding.last): finding for findings in of_names for finding in findings}
    return [found[key] for key in sorted(found)[:MOST]]


@lru_cache(maxsize=16)  # checking while a note is generated reads the same dialogue at each step
def index_findings(dialogue: str, lexicon: Lexicon) -> FindingIndex:
    """Read a dialogue and index its findings."""
    turns = read_turns(dialogue)
    return FindingIndex(turns, scan_findings(dialogue, turns, lexicon), lexicon)
