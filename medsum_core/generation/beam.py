"""Beam search with the rules of transformers 5 (`generation/utils.py`, `_beam_search`), each note at its own step.

Letters: S slots, R notes being written, K beams a note, c candidates a note, k candidates a beam, T new tokens.

Scores are sums of fp32 log-probabilities; a finished beam's is divided by (tokens, its stop token included) to the
power of `length_penalty`. Only the first beam of a new note is live. Of max(2, 1 + stop tokens) x K candidates the best
K may finish; of those that do not, the best K are continued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medsum_core.generation.candidates import Candidates
from medsum_core.generation.search import Generation, Note, Trail, finish

NEVER = -1.0e9  # as in transformers: a score that no real beam reaches
EarlyStopping = Literal["never"] | bool


@dataclass(frozen=True, kw_only=True)
class BeamRules:
    """How beams are ranked and when a note is done; the meanings are those of transformers' generation settings."""

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False


@dataclass(frozen=True, kw_only=True)
class _BeamStep:
    """A snapshot of a note after a step: the beam that each beam continues, and the note's row of each state tensor."""

    parents: list[int]
    state: tuple[Tensor, ...]


class BeamSearch:
    """The beams of all notes being written, by slot. `advance` takes one step with all of them."""

    def __init__(
        self,
        rules: BeamRules,
        stop_token_ids: frozenset[int],
        *,
        num_slots: int,
        max_new_tokens: int,
        device: torch.device,
    ) -> None:
        self.rules = rules
        self.num_beams = rules.num_beams
        self.num_candidates = max(2, 1 + len(stop_token_ids)) * rules.num_beams
        self._stop_token_ids = stop_token_ids
        self._stop_tokens = torch.tensor(sorted(stop_token_ids), dtype=torch.int64, device=device)
        beams = (num_slots, rules.num_beams)
        self.running_SKT = torch.zeros(*beams, max_new_tokens, dtype=torch.int64, device=device)
        self.running_scores_SK = torch.zeros(beams, device=device)
        self.finished_SKT = torch.zeros(*beams, max_new_tokens, dtype=torch.int64, device=device)
        self.finished_lengths_SK = torch.zeros(beams, dtype=torch.int64, device=device)
        self.finished_scores_SK = torch.zeros(beams, device=device)
        self.is_finished_SK = torch.zeros(beams, dtype=torch.bool, device=device)

    def move_slot(self, source: int, target: int) -> None:
        """See `Search`."""
        for tensor in self._state():
            tensor[target] = tensor[source]

    def _state(self) -> tuple[Tensor, ...]:
        finished = (self.finished_SKT, self.finished_lengths_SK, self.finished_scores_SK, self.is_finished_SK)
        return (self.running_SKT, self.running_scores_SK, *finished)

    def advance(self, notes: Sequence[Note], candidates: Candidates) -> tuple[Tensor, Tensor, list[bool]]:
        """See `Search`. No note's outcome depends on another's."""
        device, num_rows = self.running_SKT.device, len(notes)
        for slot, note in enumerate(notes):
            if note.num_written == 0:
                self._start(slot)
            note.num_written += 1
        lengths_R = torch.tensor([note.num_written for note in notes], device=device)
        limits_R = torch.tensor([note.max_new for note in notes], device=device)
        scores_Rc, tokens_Rc, parents_Rc = self._best_continuations(candidates, num_rows)
        ends_Rc = torch.isin(tokens_Rc, self._stop_tokens) | (lengths_R >= limits_R)[:, None]

        written_RcT = _pick(self.running_SKT[:num_rows], parents_Rc)
        written_RcT.scatter_(
            2, (lengths_R - 1)[:, None, None].expand(-1, written_RcT.shape[1], 1), tokens_Rc[..., None]
        )
        live_scores_RK, live_RK = (scores_Rc + ends_Rc * NEVER).topk(self.rules.num_beams)
        self.running_SKT[:num_rows] = _pick(written_RcT, live_RK)
        self.running_scores_SK[:num_rows] = live_scores_RK
        self._merge_finished(written_RcT, scores_Rc, ends_Rc, lengths_R)
        done_R = self._done(lengths_R, limits_R) | ends_Rc.all(1)
        parents_RK = parents_Rc.gather(1, live_RK)
        for slot, note in enumerate(notes):
            if note.verifier is not None:
                state = tuple(tensor[slot].clone() for tensor in self._state())
                note.beam_steps.append(_BeamStep(parents=parents_RK[slot].tolist(), state=state))
        return tokens_Rc.gather(1, live_RK), parents_RK, done_R.tolist()

    def written(self, notes: Sequence[Note]) -> list[list[int]]:
        """See `Search`."""
        beams = self.running_SKT[: len(notes)].flatten(0, 1).tolist()
        return [tokens[: notes[row // self.num_beams].num_written] for row, tokens in enumerate(beams)]

    def result(self, note: Note, slot: int) -> Generation:
        """See `Search`: the best finished beam."""
        length = int(self.finished_lengths_SK[slot, 0])
        tokens = self.finished_SKT[slot, 0, :length].tolist()
        return finish(tokens, float(self.finished_scores_SK[slot, 0]), self._stop_token_ids)

    def hypotheses(self, note: Note, slot: int, *, is_done: bool) -> list[tuple[list[int], bool]]:
        """See `ReversibleSearch`."""
        length = note.num_written
        ended_K = self.is_finished_SK[slot] & (self.finished_lengths_SK[slot] == length)
        found = [(tokens, True) for tokens in self.finished_SKT[slot, ended_K, :length].tolist()]
        if not is_done:
            is_live_K = self.running_scores_SK[slot] > NEVER / 2
            found += [(tokens, False) for tokens in self.running_SKT[slot, is_live_K, :length].tolist()]
        return found

    def go_back(self, note: Note, slot: int, num_tokens: int) -> Trail:
        """See `ReversibleSearch`. A note without a token is started again by `advance`."""
        steps: list[_BeamStep] = note.beam_steps
        del steps[num_tokens:]
        note.num_written = num_tokens
        if steps:
            for tensor, before in zip(self._state(), steps[-1].state, strict=True):
                tensor[slot] = before
        beams_KT = [[beam] * min(num_tokens, 1) for beam in range(self.num_beams)]
        for step in reversed(steps[1:]):
            beams_KT = [[step.parents[beams[0]], *beams] for beams in beams_KT]
        return Trail(tokens_KT=self.running_SKT[slot, :, :num_tokens].tolist(), beams_KT=beams_KT)

    def _start(self, slot: int) -> None:
        self.running_scores_SK[slot] = NEVER
        self.running_scores_SK[slot, 0] = 0.0
        self.finished_scores_SK[slot] = NEVER
        self.is_finished_SK[slot] = False

    def _best_continuations(self, candidates: Candidates, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        log_probs_RKk = candidates.log_probs_Mk.unflatten(0, (num_rows, self.rules.num_beams))
        per_beam = log_probs_RKk.shape[-1]
        all_scores = (log_probs_RKk + self.running_scores_SK[:num_rows, :, None]).flatten(1)
        scores_Rc, places_Rc = all_scores.topk(min(self.num_candidates, all_scores.shape[1]))
        tokens_Rc = candidates.tokens_Mk.reshape(num_rows, -1).gather(1, places_Rc)
        return scores_Rc, tokens_Rc, places_Rc // per_beam

    def _merge_finished(self, written_RcT: Tensor, scores_Rc: Tensor, ends_Rc: Tensor, lengths_R: Tensor) -> None:
        """Merge the candidates that end now, among the best K, into the finished beams; the best K of both stay."""
        num_rows, beams = len(lengths_R), self.rules.num_beams
        ends_now_Rc = ends_Rc.clone()
        ends_now_Rc[:, beams:] = False
        scores_Rc = scores_Rc / (lengths_R[:, None].float() ** self.rules.length_penalty) + ~ends_now_Rc * NEVER
        merged_scores = torch.cat((self.finished_scores_SK[:num_rows], scores_Rc), 1)
        self.finished_scores_SK[:num_rows], best_RK = merged_scores.topk(beams)
        merged = torch.cat((self.finished_SKT[:num_rows], written_RcT), 1)
        self.finished_SKT[:num_rows] = _pick(merged, best_RK)
        lengths_Rc = lengths_R[:, None].expand_as(scores_Rc)
        merged = torch.cat((self.finished_lengths_SK[:num_rows], lengths_Rc), 1)
        self.finished_lengths_SK[:num_rows] = merged.gather(1, best_RK)
        merged = torch.cat((self.is_finished_SK[:num_rows], ends_now_Rc), 1)
        self.is_finished_SK[:num_rows] = merged.gather(1, best_RK)

    def _done(self, lengths_R: Tensor, limits_R: Tensor) -> Tensor:
        """(R,) bool: K beams have finished and, by the early-stopping rule, no running beam can become better."""
        num_rows = len(lengths_R)
        all_finished_R = self.is_finished_SK[:num_rows].all(1)
        if self.rules.early_stopping is True:
            return all_finished_R
        assume_full_length = self.rules.early_stopping == "never" and self.rules.length_penalty > 0
        best_lengths_R = (limits_R if assume_full_length else lengths_R).float()
        best_R = self.running_scores_SK[:num_rows, 0] / best_lengths_R**self.rules.length_penalty
        return all_finished_R & (best_R <= self.finished_scores_SK[:num_rows].amin(1))


def _pick(tensor_RKT: Tensor, index_Rk: Tensor) -> Tensor:
    """Per row, the beams named by `index_Rk`: (R, k, T)."""
    return tensor_RKT.gather(1, index_Rk[:, :, None].expand(-1, -1, tensor_RKT.shape[2]))
