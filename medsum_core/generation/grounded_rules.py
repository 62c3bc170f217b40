"""Rules for one note that is decoded with a verifier: which tokens are forbidden, and where decoding returns to.

A fault is an unsupported fact in the text of a hypothesis (a note's tokens so far, of one beam). Each adds a
rule for a prefix of the note (a tuple of tokens): some tokens are banned after it, or only some are allowed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from medsum_core.grounding.clauses import clause_end
from medsum_core.grounding.evidence import sentences

MAX_SPELLINGS = 1  # banned at one place; then, where a blank is a token of its own, what goes on without a number
MAX_TRIES = 4  # in one sentence; then its end is left out
MAX_BEGINNINGS = 2  # of one sentence; then the note ends before it
MAX_RETURNS = 16  # in one note, which bounds its time; then it ends before the sentence of the last fault
Tokens = tuple[int, ...]


class Verifier(Protocol):
    """Finds the facts of a note that its dialogue does not support. Tests pass their own."""

    def __call__(self, text: str) -> Sequence[tuple[int, int]]:
        """Characters `[start, end)` of the unsupported facts, in order; none for an empty text. Must be deterministic.

        The result may be wrong for a text that ends inside a sentence.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """What `generate` needs to write only facts that a verifier accepts.

    `verifiers`: one for each prompt. `decode`: the text of a note's tokens without the blanks around it. `full_stops`:
    the tokens that may end a sentence early.
    """

    verifiers: Sequence[Verifier]
    decode: Callable[[list[int]], str]
    full_stops: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An unsupported fact in the text of `tokens`: it begins in the token `start`, its sentence in `sentence`.

    `clause`: the number of leading tokens that a full stop can follow; None if there is no such place.
    """

    tokens: Tokens
    sentence: int
    start: int
    clause: int | None


@dataclass(kw_only=True)
class NoteRules:
    """The rules of one note, and the texts of it that were checked."""

    verify: Verifier
    decode: Callable[[list[int]], str]
    full_stops: frozenset[int]
    stops: frozenset[int]
    marks: dict[int, bool]  # by token: a sentence may end with it; shared by all notes
    banned: dict[Tokens, set[int]] = field(default_factory=dict)
    only: dict[Tokens, frozenset[int]] = field(default_factory=dict)
    left_out: set[Tokens] = field(default_factory=set)
    num_returns: int = 0
    _tries: dict[Tokens, int] = field(default_factory=dict)
    _checked: dict[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def fault(self, tokens: Sequence[int], *, ended: bool) -> Fault | None:
        """The first unsupported fact in the whole sentences of a hypothesis; in all of it if it has `ended`.

        Where a rule has changed a sentence already, a fact counts as soon as a word and the blank after it follow it.
        """
        written = tuple(tokens)
        places = [place for place in (*self.banned, *self.only) if not ended and written[: len(place)] == place]
        if not (ended or places or any(self._may_end_sentence(token) for token in written[-2:])):
            return None
        text = self.decode(list(written))
        if ended:
            return self._fault_in(written, text, text)
        whole = sentences(text)[:-1]  # the last one may continue
        end = whole[-1][1] if whole else 0
        fault = self._fault_in(written, text, text[:end])
        if fault is None and any(len(self.decode(list(place))) >= end for place in places):
            words = text[: max(text.rfind(" "), 0)].rstrip()
            fault = self._fault_in(written, text, words, before=words.rfind(" "))
        return fault

    def forbid(self, fault: Fault) -> int | None:
        """Add the rule that keeps this fault out; the number of tokens to go back to. None: the note must end."""
        self.num_returns += 1
        if self.num_returns > MAX_RETURNS:
            return None
        tokens, sentence, start = fault.tokens, fault.tokens[: fault.sentence], fault.start
        self._tries[sentence] = self._tries.get(sentence, 0) + 1
        if self._tries[sentence] > MAX_TRIES:
            return self._leave_out(fault)
        follows_blank = start - 1 > fault.sentence and self.decode(list(tokens[start - 1 : start])) == ""
        if follows_blank and len(self.banned.get(tokens[:start], ())) >= MAX_SPELLINGS:
            start -= 1
            self.left_out.add(tokens[:start])
        self.banned.setdefault(tokens[:start], set()).add(tokens[start])
        return start

    def _leave_out(self, fault: Fault) -> int | None:
        place = fault.tokens[: fault.sentence if fault.clause is None else fault.clause]
        if fault.clause is not None and place not in self.only:
            self.only[place] = self.full_stops | self.stops
        else:
            place = fault.tokens[: fault.sentence]
            banned = self.banned.setdefault(place, set())
            banned.add(fault.tokens[fault.sentence])
            if len(banned) > MAX_BEGINNINGS:
                self.only[place] = self.stops
        self.left_out.add(place)
        self._tries.pop(fault.tokens[: fault.sentence], None)
        return len(place) if self.only.get(place, self.stops) else None

    def supported_beginning(self, tokens: Tokens) -> Tokens:
        """The most whole sentences of a note, from its beginning, that hold no unsupported fact: all, or fewer."""
        kept = tokens
        text = self.decode(list(kept))
        while found := self._unsupported(text):
            begin = max((start for start, _ in sentences(text) if start <= found[0][0]), default=0)
            kept = kept[: self._token_at(kept, begin)] if begin else ()
            text = self.decode(list(kept))
        return kept

    def num_left_out(self, tokens: Tokens) -> int:
        """How often something was left out of a note, by its tokens."""
        return sum(tokens[: len(place)] == place for place in self.left_out)

    def _fault_in(self, tokens: Tokens, text: str, checked: str, *, before: int | None = None) -> Fault | None:
        """The first unsupported fact in `checked`, a beginning of the text; only one that ends by `before` if given."""
        found = [start for start, end in self._unsupported(checked) if before is None or end <= before]
        if not found:
            return None
        begin = max((start for start, _ in sentences(text) if start <= found[0]), default=0)
        length = clause_end(text[begin : found[0]])
        clause = bisect_left(range(len(tokens)), begin + length, key=lambda n: len(self.decode(list(tokens[:n]))))
        ends_there = length and self.decode(list(tokens[:clause])) == text[: begin + length]
        sentence = self._token_at(tokens, begin)
        start = max(sentence, self._token_at(tokens, found[0]))
        return Fault(tokens=tokens, sentence=sentence, start=start, clause=clause if ends_there else None)

    def _token_at(self, tokens: Tokens, character: int) -> int:
        """The token that holds a character of the text."""
        places = range(len(tokens) - 1)
        return bisect_right(places, character, key=lambda n: len(self.decode(list(tokens[: n + 1]))))

    def _unsupported(self, text: str) -> Sequence[tuple[int, int]]:
        if text not in self._checked:
            self._checked[text] = self.verify(text) if text else ()
        return self._checked[text]

    def _may_end_sentence(self, token: int) -> bool:
        if token not in self.marks:
            piece = self.decode([token])
            self.marks[token] = not piece or any(mark in piece for mark in ".!?")
        return self.marks[token]
