"""Compare a merged model's outputs with those of base and adapter.

Base and adapter write the beginning of a greedy note for each prompt; then the merged model gets the same tokens. The
logits before every token of these notes and the likeliest tokens are compared.

Letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.data.prompt import PromptRenderer
from medsum_core.errors import MedsumError
from medsum_core.generation.generate import generate
from medsum_core.model.forward import causal_model
from medsum_core.model.widened_weights import widened_weights

NUM_NOTE_TOKENS = 32
# Measured with the embedded Gemma after an epoch: the merge, rounded once to bf16, differs by 0.4 % of the range and in
# 0 of 214 tokens; the base without its adapter by 28 % and in 28 of 88.
MAX_DIFFERENCE = 0.05  # largest logit difference, as a share of the logits' own range
MIN_AGREEMENT = 0.9  # share of positions with the same likeliest token


class ParityError(MedsumError):
    """The merged model's outputs differ from those of base and adapter; its files were removed."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Difference of the merged model to base and adapter over `num_tokens` positions of `num_prompts` greedy notes."""

    largest_logit_difference: float
    logit_range: float  # largest minus least logit: what the difference is measured against
    num_same_tokens: int  # positions where both have the same likeliest token
    num_tokens: int
    num_prompts: int
    arithmetic: str  # float32 on a CPU with enough memory; in 16 bits, rounded activations add to the difference

    @property
    def agreement(self) -> float:
        """Share of positions with the same likeliest token."""
        return self.num_same_tokens / self.num_tokens

    @property
    def holds(self) -> bool:
        """False beyond the bounds, and for logits that are not finite."""
        return self.largest_logit_difference <= MAX_DIFFERENCE * self.logit_range and self.agreement >= MIN_AGREEMENT

    def line(self) -> str:
        """The comparison in one line."""
        return (
            f"parity on {self.num_prompts} prompts ({self.arithmetic} arithmetic): largest logit difference "
            f"{self.largest_logit_difference:.3g} in a range of {self.logit_range:.3g} (bound "
            f"{MAX_DIFFERENCE * self.logit_range:.3g}), greedy agreement {self.num_same_tokens} of {self.num_tokens} "
            f"tokens (bound {MIN_AGREEMENT:.0%})"
        )


@dataclass(frozen=True, kw_only=True)
class NoteLogits:
    """A prompt with the start of its greedy note, and the logits before each note token and after the last."""

    token_ids: tuple[int, ...]
    logits_TV: Tensor  # fp32, on the CPU


def note_logits(model: PeftModel, prompts: Sequence[Sequence[int]], renderer: PromptRenderer) -> list[NoteLogits]:
    """The start of each prompt's greedy note as base and adapter write it, with their logits."""
    notes = generate(model, prompts, stop_token_ids=renderer.stop_token_ids, max_new_tokens=NUM_NOTE_TOKENS)
    rows = [(*prompt, *note.token_ids) for prompt, note in zip(prompts, notes, strict=True)]
    with torch.no_grad(), widened_weights(model, widen=True):
        return [
            NoteLogits(token_ids=row, logits_TV=_logits(model, row, len(row) - len(prompt) + 1))
            for row, prompt in zip(rows, prompts, strict=True)
        ]


def compare_logits(merged: PreTrainedModel, expected: Sequence[NoteLogits]) -> Parity:
    """Compare the merged model's logits with `expected`, on the tokens that base and adapter wrote."""
    differences, ranges, num_same = [], [], 0
    with torch.no_grad(), widened_weights(merged, widen=True):
        arithmetic = str(merged.dtype).removeprefix("torch.")
        for note in expected:
            logits_TV = _logits(merged, note.token_ids, len(note.logits_TV))
            differences.append((logits_TV - note.logits_TV).abs().max())
            ranges.append(note.logits_TV.max() - note.logits_TV.min())
            num_same += int((logits_TV.argmax(-1) == note.logits_TV.argmax(-1)).sum())
    return Parity(
        largest_logit_difference=float(torch.stack(differences).max()),  # torch's max keeps NaN, Python's may not
        logit_range=float(torch.stack(ranges).max()),
        num_same_tokens=num_same,
        num_tokens=sum(len(note.logits_TV) for note in expected),
        num_prompts=len(expected),
        arithmetic=arithmetic,
    )


def _logits(model: PeftModel | PreTrainedModel, token_ids: Sequence[int], num_last: int) -> Tensor:
    causal = causal_model(model)
    ids_1T = torch.tensor([token_ids], device=causal.device)
    logits_1TV: Tensor = causal(input_ids=ids_1T, use_cache=False, logits_to_keep=num_last).logits
    return logits_1TV[0].float().cpu()
