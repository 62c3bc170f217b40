"""Continuous batching (Orca, OSDI 2022): notes join and leave the batch between two forward passes.

Letters: R notes being written, K beams a note, N notes that start now, T tokens of a forward pass.

One forward pass is one packed row: the newest tokens of the R notes being written (R x K of them), then the whole
prompts of N notes that start. A prompt is thus computed once, also for beams, and nothing is padded. `generate` uses it
for a list of prompts, `live.py` for requests that arrive over time.

A note does not depend on the batch's other notes or on their order, up to the rounding of sums of different shapes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsum_core.generation.banned_tokens import Ban, BanRules, repeating_tokens
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.grounded import GroundedNotes
from medsum_core.generation.kv_cache import KVCache, Step
from medsum_core.generation.search import Generation, Note, Search

# Most prompt tokens in one forward pass: with more, matrix products get no faster while activations grow.
MAX_PROMPT_TOKENS = 2048
# (cache, step, tokens_T, positions_T, number of candidates, ban) -> candidates
Forward = Callable[[KVCache, Step, Tensor, Tensor, int, Ban | None], Candidates]


class Batch:
    """The notes being written, one per slot: `active[slot]`. The slots in use are 0 to R-1."""

    def __init__(
        self,
        forward: Forward,
        search: Search,
        bans: BanRules,
        cache: KVCache,
        *,
        num_slots: int,
        grounded: GroundedNotes | None,
    ) -> None:
        self.active: list[Note] = []
        self.starting: list[Note] = []
        self._forward, self._search, self._bans, self._cache = forward, search, bans, cache
        self._num_slots, self._grounded = num_slots, grounded
        self._device = cache.visible_SKC.device
        self._tokens_RK = torch.zeros(0, search.num_beams, dtype=torch.int64, device=self._device)

    def join(self, waiting: deque[Note]) -> list[Note]:
        """Remove from the left of `waiting` the notes that start with the next step, and return them.

        As many as there are free slots and fit in MAX_PROMPT_TOKENS, but at least one if a slot is free.
        """
        joined: list[Note] = []
        num_free = self._num_slots - len(self.active) - len(self.starting)
        num_tokens = sum(len(note.prompt) for note in self.starting)
        while waiting and len(joined) < num_free:
            num_tokens += len(waiting[0].prompt)
            if (joined or self.starting) and num_tokens > MAX_PROMPT_TOKENS:
                break
            joined.append(waiting.popleft())
        self.starting += joined
        return joined

    def leave(self, note: Note) -> None:
        """Stop writing a note and free its slot; does nothing if the note has ended already."""
        for slot, other in enumerate(self.active):
            if other is note:
                if self._grounded is not None:
                    self._grounded.forget(note)
                self._free(slot)
                return

    def step(self) -> list[tuple[Note, Generation]]:
        """One forward pass and one more token for every note, including new ones; returns the notes that end.

        After an error the batch must not be used any more.
        """
        starting, self.starting = self.starting, []
        step, tokens_T, positions_T = self._packed_inputs(starting)
        ban = self._ban(starting)
        rows = self._forward(self._cache, step, tokens_T, positions_T, self._search.num_candidates, ban)
        self.active += starting
        self._tokens_RK, parents_RK, done = self._search.advance(self.active, _spread(rows, step))
        if parents_RK is not None:
            self._cache.reorder_beams(parents_RK)
        if self._grounded is not None:
            self._go_back(self._grounded, done)
        finished = []
        for slot in reversed([slot for slot, is_done in enumerate(done) if is_done]):
            note, generation = self.active[slot], self._search.result(self.active[slot], slot)
            finished.append((note, generation if self._grounded is None else self._grounded.finish(note, generation)))
            self._free(slot)
        return finished

    def _go_back(self, grounded: GroundedNotes, done: list[bool]) -> None:
        for slot, trail in grounded.review(self.active, done):
            prompt = self.active[slot].prompt
            self._cache.go_back(slot, len(prompt), trail.beams_KT)
            newest = [[*prompt, *tokens][-1] for tokens in trail.tokens_KT]
            self._tokens_RK[slot] = torch.tensor(newest, device=self._device)

    def _free(self, slot: int) -> None:
        """Free a slot by moving the note of the last slot into it."""
        last = len(self.active) - 1
        if slot != last:
            self._cache.move_slot(last, slot, self.active[last].num_keys(self._search.num_beams))
            self._search.move_slot(last, slot)
            self._tokens_RK[slot] = self._tokens_RK[last]
            self.active[slot] = self.active[last]
        self.active.pop()
        self._tokens_RK = self._tokens_RK[:last]

    def _packed_inputs(self, starting: Sequence[Note]) -> tuple[Step, Tensor, Tensor]:
        """One packed row for the model, tokens and positions (T,): the newest of R x K beams, then N whole prompts."""
        positions = [len(note.prompt) + note.num_written - 1 for note in self.active]
        columns = [note.num_keys(self._cache.num_beams) for note in self.active]
        went_back_whole = [note.num_written == 0 for note in self.active]
        lengths = [len(note.prompt) for note in starting]
        step = self._cache.begin_step(positions, columns, lengths, one_column=went_back_whole)
        prompt_tokens = torch.tensor([token for note in starting for token in note.prompt], device=self._device).long()
        prompt_positions = torch.tensor([t for length in lengths for t in range(length)], device=self._device).long()
        tokens_T = torch.cat((self._tokens_RK.flatten(), prompt_tokens))
        positions_T = torch.cat((step.positions_R.repeat_interleave(step.num_beams), prompt_positions))
        return step, tokens_T, positions_T

    def _ban(self, starting: Sequence[Note]) -> Ban | None:
        """The banned tokens by row: one row for each beam being written, then one for each prompt that starts."""
        rows = [*(note for note in self.active for _ in range(self._search.num_beams)), *starting]
        too_short = [row for row, note in enumerate(rows) if note.num_written < note.min_new]
        pairs = [(row, token) for row in too_short for token in self._bans.stop_token_ids]
        if self._bans.no_repeat_ngram_size:
            for row, written in enumerate(self._search.written(self.active)):
                pairs += [(row, token) for token in repeating_tokens(written, self._bans.no_repeat_ngram_size)]
        unsupported, only = ([], {}) if self._grounded is None else self._grounded.bans(self.active)
        return Ban.of(pairs + unsupported, only, device=self._device)


def _spread(candidates: Candidates, step: Step) -> Candidates:
    """Repeat a new prompt's one row of candidates for each of its K beams."""
    if step.num_beams == 1 or not step.prompt_lengths:
        return candidates
    rows = torch.arange(len(candidates.tokens_Mk), device=candidates.tokens_Mk.device)
    rows = torch.cat((rows[: step.num_decoded], rows[step.num_decoded :].repeat_interleave(step.num_beams)))
    return Candidates(tokens_Mk=candidates.tokens_Mk[rows], log_probs_Mk=candidates.log_probs_Mk[rows])
