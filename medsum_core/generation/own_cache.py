"""Decoding with the model's own cache, for untested families and those that store more than keys and values.

Letters: R notes being written, K beams a note, N notes that start now, M rows of candidates.

Recurrent and convolution layers (Qwen3.5, Mamba, LFM2) have a state that `KVCache` does not store, so their notes would
be wrong. Here each note has its own cache, made and read by the model as in transformers' `generate`, and its own
forward pass: nothing is packed or padded, which is slower but correct for any family.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.errors import InputError
from medsum_core.generation.banned_tokens import Ban
from medsum_core.generation.candidates import Candidates, candidates_of_logits
from medsum_core.generation.kv_cache import KVCache, Step
from medsum_core.model.forward import autocast, no_adapter_casts
from medsum_core.model.widened_weights import widened_weights


class OwnCaches(KVCache):
    """The model's own cache for each slot, with a row per beam; keys and values of `KVCache` stay empty."""

    def __init__(self, num_slots: int, num_beams: int, capacity: int, *, device: torch.device) -> None:
        super().__init__(num_slots, num_beams, capacity, device=device)
        self.of_slot: dict[int, Any] = {}

    def reorder_beams(self, parents_RK: Tensor) -> None:
        """Beam k of note r continues beam `parents_RK[r, k]`."""
        super().reorder_beams(parents_RK)
        for slot, parents_K in enumerate(parents_RK):
            self.of_slot[slot].reorder_cache(parents_K)

    def move_slot(self, source: int, target: int, num_keys: int) -> None:
        """Move a note into another slot."""
        super().move_slot(source, target, num_keys)
        self.of_slot[target] = self.of_slot.pop(source)


@contextmanager
def one_by_one(causal: PreTrainedModel) -> Iterator[Any]:
    """The forward pass of a step with `OwnCaches`: one call of the model for each note, its beams as rows."""

    accepted = signature(causal.forward).parameters
    cache_name = "cache" if "cache" in accepted else "past_key_values"  # from transformers 5.24 on, and before
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def positions(of_tokens_KL: Tensor) -> dict[str, Tensor]:
        return {"position_ids": of_tokens_KL} if "position_ids" in accepted else {}

    def forward(
        caches: OwnCaches, step: Step, tokens_T: Tensor, positions_T: Tensor, num_candidates: int, ban: Ban | None
    ) -> Candidates:
        beams, place = step.num_beams, step.num_decoded
        logits = []
        for slot in range(step.num_rows):
            span = slice(slot * beams, (slot + 1) * beams)
            where: dict[str, Any] = {cache_name: caches.of_slot[slot], **positions(positions_T[span, None])}
            logits.append(causal(input_ids=tokens_T[span, None], use_cache=True, **where).logits[:, -1])
        for slot, length in enumerate(step.prompt_lengths, start=step.num_rows):
            span = slice(place, place + length)
            place += length
            # The prompt is repeated for each beam, since not every family's cache can be repeated afterwards.
            prompt_KL, where = tokens_T[span].expand(beams, -1), positions(positions_T[span].expand(beams, -1))
            output = causal(input_ids=prompt_KL, use_cache=True, **where, **last_only)
            caches.of_slot[slot] = _cache_of(causal, output, cache_name)
            logits.append(output.logits[:1, -1])
        return candidates_of_logits(torch.cat(logits), num_candidates, ban)

    with widened_weights(causal), no_adapter_casts(causal), autocast(causal):
        yield forward


def _cache_of(causal: PreTrainedModel, output: Any, cache_name: str) -> Any:
    cache = getattr(output, cache_name, None)
    if cache is None:
        raise InputError(
            f"--model_name_or_path: {causal.config.model_type} keeps its state where transformers' beam search can't "
            "reorder it: no notes can be written with it here"
        )
    return cache
