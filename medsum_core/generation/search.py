"""A note being written, its outcome, and the interface of a decoding rule.

Letters: R notes being written, K beams a note, M rows of candidates (R x K).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from medsum_core.generation.candidates import Candidates
from medsum_core.generation.grounded_rules import Verifier


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A note's tokens without the stop token, and whether it was cut off at its limit.

    `score`: the sum of the tokens' log-probabilities (nats, the stop token's included); with beams divided by the
    number of tokens, stop token included, to the power of the length penalty; nan for a note that grounding cut.
    `left_out`: how often grounding left a fact out (`grounded.py`).
    """

    token_ids: tuple[int, ...]
    hit_limit: bool
    score: float
    left_out: int = 0


@dataclass(kw_only=True)
class Note:
    """A note being written: index in the input, prompt, limits, number of tokens so far, and greedy search's tokens.

    `verifier`: the note gets no fact that it refuses (`grounded.py`); None: ordinary decoding.
    `images`: of a live engine's request, by number (`requests.py`).
    """

    index: int
    prompt: tuple[int, ...]
    min_new: int
    max_new: int
    verifier: Verifier | None = None
    images: Mapping[int, Tensor] = field(default_factory=dict)
    num_written: int = 0
    tokens: list[int] = field(default_factory=list)
    score: float = 0.0
    scores: list[float] = field(default_factory=list)  # `score` after each token
    beam_steps: list[Any] = field(default_factory=list)  # beam search's, of a note that may go back

    def num_keys(self, num_beams: int) -> int:
        """Keys in its slot: those of all tokens but the newest, which the next forward pass adds.

        In a note that went back to its beginning, the newest token is the prompt's last one.
        """
        return len(self.prompt) - 1 if self.num_written == 0 else len(self.prompt) + (self.num_written - 1) * num_beams


class Search(Protocol):
    """A decoding rule, such as greedy or beam search.

    Notes being written are in slots 0 to R-1, in the order given.
    """

    num_beams: int
    num_candidates: int

    def advance(self, notes: Sequence[Note], candidates: Candidates) -> tuple[Tensor, Tensor | None, list[bool]]:
        """One more token for every note, from K rows of candidates each.

        Returns the chosen tokens (R, K), the beams that they continue (R, K; None: each its own), and which notes are
        done.
        """
        ...

    def written(self, notes: Sequence[Note]) -> list[list[int]]:
        """The tokens so far of every beam of every note being written."""
        ...

    def result(self, note: Note, slot: int) -> Generation:
        """The outcome of a note that is done."""
        ...

    def move_slot(self, source: int, target: int) -> None:
        """Move a note from slot `source` to slot `target`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The tokens of a note's beams, and the beam that wrote each: token j of beam k was written by `beams_KT[k][j]`.

    Beams are reordered at each step, while keys stay in the columns in which they were written.
    """

    tokens_KT: list[list[int]]
    beams_KT: list[list[int]]


@runtime_checkable
class ReversibleSearch(Search, Protocol):
    """A decoding rule that can go back to an earlier step of a note."""

    def hypotheses(self, note: Note, slot: int, *, is_done: bool) -> list[tuple[list[int], bool]]:
        """The tokens of each beam that may still become the note, and whether it ended in this step.

        Beams that ended before are left out, and live ones where the note `is_done`.
        """
        ...

    def go_back(self, note: Note, slot: int, num_tokens: int) -> Trail:
        """Restore the note's state after its first `num_tokens` tokens."""
        ...


def finish(tokens: Sequence[int], score: float, stop_token_ids: frozenset[int]) -> Generation:
    """The outcome of a note whose tokens end in a stop token, or else hit the limit."""
    stopped = bool(tokens) and tokens[-1] in stop_token_ids
    return Generation(token_ids=tuple(tokens[:-1] if stopped else tokens), hit_limit=not stopped, score=score)
