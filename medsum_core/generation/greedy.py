"""Greedy decoding: the likeliest token at each step.

Letters: R notes being written, M rows of candidates (one a note), k candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsum_core.errors import InputError
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.search import Generation, Note, Trail, finish


class GreedySearch:
    """The likeliest token at each step. A step has one transfer from the GPU, for all notes together."""

    num_beams = 1
    num_candidates = 1

    def __init__(self, stop_token_ids: frozenset[int], on_token: Callable[[int, int], None] | None = None) -> None:
        self._stop_token_ids = stop_token_ids
        self._on_token = on_token

    def choose(self, candidates: Candidates) -> Candidates:
        """The chosen candidate of each row, (R, 1); here the only one. Subclasses override it (examples/extend.md)."""
        return candidates

    def advance(self, notes: Sequence[Note], candidates: Candidates) -> tuple[Tensor, None, list[bool]]:
        """See `Search`. The tokens are added to the notes."""
        chosen = self.choose(candidates)
        if chosen.tokens_Mk.shape[1] != 1:
            raise InputError(
                f"{type(self).__name__}.choose returned {chosen.tokens_Mk.shape[1]} candidates a note: it must return "
                "one of its num_candidates"
            )
        pairs = torch.cat((chosen.tokens_Mk.double(), chosen.log_probs_Mk.double()), 1).tolist()
        return chosen.tokens_Mk, None, [self._append(note, *pair) for note, pair in zip(notes, pairs, strict=True)]

    def written(self, notes: Sequence[Note]) -> list[list[int]]:
        """See `Search`."""
        return [note.tokens for note in notes]

    def result(self, note: Note, slot: int) -> Generation:
        """See `Search`."""
        return finish(note.tokens, note.score, self._stop_token_ids)

    def move_slot(self, source: int, target: int) -> None:
        """See `Search`. Greedy search has no state by slot."""

    def hypotheses(self, note: Note, slot: int, *, is_done: bool) -> list[tuple[list[int], bool]]:
        """See `ReversibleSearch`."""
        return [(note.tokens, is_done)]

    def go_back(self, note: Note, slot: int, num_tokens: int) -> Trail:
        """See `ReversibleSearch`."""
        del note.tokens[num_tokens:], note.scores[num_tokens:]
        note.num_written, note.score = num_tokens, note.scores[-1] if num_tokens else 0.0
        return Trail(tokens_KT=[note.tokens], beams_KT=[[0] * num_tokens])

    def _append(self, note: Note, token: float, log_prob: float) -> bool:
        note.tokens.append(int(token))
        note.num_written += 1
        note.score += log_prob
        note.scores.append(note.score)
        stopped = note.tokens[-1] in self._stop_token_ids
        if self._on_token is not None and not stopped:
            self._on_token(note.index, note.tokens[-1])
        return stopped or note.num_written >= note.max_new
