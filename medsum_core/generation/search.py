"""A note being written, its outcome, and the interface of a decoding rule.

Letters: R notes being written, K beams a note, M rows of candidates (R x K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from medsum_core.generation.candidates import Candidates


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A note's tokens without the stop token; whether it was cut off by its limit.

    `score`: the sum of the tokens' log-probabilities (nats, the stop token's included); with beams divided by the
    number of tokens, stop token included, to the power of the length penalty.
    """

    token_ids: tuple[int, ...]
    hit_limit: bool
    score: float


@dataclass(kw_only=True)
class Note:
    """A note being written: index in the input, prompt, limits, number of tokens so far, and greedy search's tokens."""

    index: int
    prompt: tuple[int, ...]
    min_new: int
    max_new: int
    num_written: int = 0
    tokens: list[int] = field(default_factory=list)
    score: float = 0.0

    def num_keys(self, num_beams: int) -> int:
        """Keys in its slot: those of all tokens but the newest, which the next forward pass adds."""
        return len(self.prompt) + max(0, self.num_written - 1) * num_beams


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


def finish(tokens: Sequence[int], score: float, stop_token_ids: frozenset[int]) -> Generation:
    """The outcome of a note whose tokens end in a stop token, or else hit the limit."""
    stopped = bool(tokens) and tokens[-1] in stop_token_ids
    return Generation(token_ids=tuple(tokens[:-1] if stopped else tokens), hit_limit=not stopped, score=score)
