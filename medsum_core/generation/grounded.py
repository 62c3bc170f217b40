"""Grounded decoding: write notes without a fact that a verifier refuses, by returning to an earlier token of the cache.

Letters: R notes being written, K beams a note.

Text is checked when its sentence, line or note ends, as later text no longer changes its facts. At an unsupported fact
the search returns to the fact's first token and continues as if that token had been banned from the start. After some
tries (`grounded_rules.py`) the sentence ends before the fact, or begins differently, or the note ends.

Guaranteed for every model and verifier:
- No note has a fact that its verifier refuses: each is checked as a whole when it is finished.
- If no checked hypothesis contained an unsupported fact, the note is that of ordinary decoding, token for token. With
  beams, the checked hypotheses are those of all live beams whose sentence ends, and those that finish.
- A note does not depend on the others of its batch, as in `generate.py`; one without a verifier is not changed.
- Decoding ends: it returns at most MAX_RETURNS times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medsum_core.generation.grounded_rules import NoteRules, Tokens
from medsum_core.generation.search import Generation, Note, ReversibleSearch, Trail


class GroundedNotes:
    """The rules of the notes being written that have a verifier; makes the search return to an earlier token."""

    def __init__(
        self,
        search: ReversibleSearch,
        stop_token_ids: frozenset[int],
        *,
        decode: Callable[[list[int]], str],
        full_stops: frozenset[int],
    ) -> None:
        """`decode`, `full_stops`: see `Grounding`."""
        self._search = search
        self._decode, self._full_stops = decode, full_stops
        self._stops = stop_token_ids
        self._rules: dict[int, NoteRules] = {}  # by the note's index
        self._ended: dict[int, Tokens] = {}  # notes that went back too often: the hypothesis that they are cut from
        self._marks: dict[int, bool] = {}

    def review(self, notes: Sequence[Note], done: list[bool]) -> list[tuple[int, Trail]]:
        """Check the text of this step. Returns the slots whose notes went back, and what their cache must keep.

        Changes `done`: False for a note that goes back, True for one that has gone back too often.
        """
        returned = []
        for slot, note in enumerate(notes):
            if note.verifier is None:
                continue
            rules = self._of(note)
            hypotheses = self._search.hypotheses(note, slot, is_done=done[slot])
            faults = (rules.fault(self._spoken(tokens), ended=ended) for tokens, ended in hypotheses)
            if (fault := next((found for found in faults if found is not None), None)) is None:
                continue
            target = rules.forbid(fault)
            done[slot] = target is None
            if target is None:
                self._ended[note.index] = fault.tokens
            else:
                returned.append((slot, self._search.go_back(note, slot, target)))
        return returned

    def bans(self, notes: Sequence[Note]) -> tuple[list[tuple[int, int]], dict[int, frozenset[int]]]:
        """Pairs of a row and a token that may not come next in it; rows and the only tokens that may.

        Rows are the beams of the notes, K a note.
        """
        pairs: list[tuple[int, int]] = []
        only: dict[int, frozenset[int]] = {}
        ruled = [None if note.verifier is None else self._of(note) for note in notes]
        if not any(rules is not None and (rules.banned or rules.only) for rules in ruled):
            return pairs, only
        for row, written in enumerate(self._search.written(notes)):
            rules, place = ruled[row // self._search.num_beams], tuple(written)
            if rules is None:
                continue
            pairs += [(row, token) for token in rules.banned.get(place, ())]
            if place in rules.only:
                only[row] = rules.only[place]
        return pairs, only

    def finish(self, note: Note, generation: Generation) -> Generation:
        """The outcome of a note that is done, with what was left out of it; cut if it had to end."""
        if note.verifier is None:
            return generation
        rules, ended = self._of(note), self._ended.get(note.index)
        self.forget(note)
        tokens = generation.token_ids if ended is None else ended
        kept = rules.supported_beginning(tokens)
        num_left_out = rules.num_left_out(kept)
        if ended is None and kept == tokens:
            return replace(generation, left_out=num_left_out)
        return Generation(token_ids=kept, hit_limit=False, score=float("nan"), left_out=num_left_out + 1)

    def forget(self, note: Note) -> None:
        """Keep nothing of a note that leaves."""
        self._rules.pop(note.index, None)
        self._ended.pop(note.index, None)

    def _spoken(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens[:-1] if tokens and tokens[-1] in self._stops else tokens

    def _of(self, note: Note) -> NoteRules:
        if note.index not in self._rules:
            assert note.verifier is not None
            self._rules[note.index] = NoteRules(
                verify=note.verifier,
                decode=self._decode,
                full_stops=self._full_stops,
                stops=self._stops,
                marks=self._marks,
            )
        return self._rules[note.index]
