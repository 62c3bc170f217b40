"""For an untested model family: check that decoding chooses the same tokens as transformers' `generate`.

A layer that stores more than keys and values, or uses positions differently, would silently write wrong notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.errors import InputError, is_out_of_memory, reason
from medsum_core.generation.generate import Decoder, generate
from medsum_core.model.attention import TESTED_MODEL_TYPES
from medsum_core.model.forward import autocast, causal_model, evaluation_mode, no_adapter_casts
from medsum_core.quiet_libraries import quiet_libraries

NUM_PROMPTS = 2
NUM_TOKENS = 4
# Nats by which the model's own choice may be likelier than ours: rounding decides between tokens that close.
BOUNDS = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.1}
# Errors of a family's own code when it is used in a way that it does not support.
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError, AssertionError)


def is_tested(model: PeftModel | PreTrainedModel) -> bool:
    """Whether packing, loss and notes of this family are tested throughout, so that it needs no check at start."""
    return causal_model(model).config.model_type in TESTED_MODEL_TYPES


@torch.no_grad()
def check_decoding(
    model: PeftModel | PreTrainedModel, prompts: Sequence[Sequence[int]], *, decoder: Decoder | None = None
) -> None:
    """Compare the first tokens of the shortest prompts' notes with those of the model's own `generate`.

    `decoder`: as in `generate`. Raises InputError with both choices' log-probabilities where they differ, and with the
    reason where the family's code does not run.
    """
    causal = causal_model(model)
    shortest = sorted(prompts, key=len)[:NUM_PROMPTS]
    with failing_as_input_error(causal, "decoded"):
        notes = generate(model, shortest, stop_token_ids=(), max_new_tokens=NUM_TOKENS, decoder=decoder)
        own = [_own_choices(causal, prompt) for prompt in shortest]
    for note, log_probs_SV in zip(notes, own, strict=True):
        for token, log_prob_V in zip(note.token_ids, log_probs_SV, strict=False):
            ours, theirs = log_prob_V[token].item(), log_prob_V.max().item()
            if not theirs - ours <= BOUNDS.get(causal.dtype, BOUNDS[torch.float32]):
                raise InputError(
                    f"--model_name_or_path: {causal.config.model_type} is no tested family, and its notes would differ "
                    f"here from those of the model's own generate: it chooses a token of log-probability {theirs:.4f} "
                    f"where this loop chooses one of {ours:.4f}"
                )
            if log_prob_V.argmax() != token:
                break  # two tokens are equally likely up to rounding: from here on the notes may differ


@contextmanager
def failing_as_input_error(causal: PreTrainedModel, purpose: str) -> Iterator[None]:
    """While the block runs, raise InputError for errors of the family's own code. `purpose`: what can't be done."""
    try:
        yield
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"--model_name_or_path: {causal.config.model_type} is no tested family and can't be {purpose} here: "
            f"{reason(error)}"
        ) from error


def _own_choices(causal: PreTrainedModel, prompt: Sequence[int]) -> torch.Tensor:
    """(S, V): the log-probabilities from which the model's own greedy search chooses, step by step."""
    ids = torch.tensor([prompt], device=causal.device)
    wanted: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
    plain = GenerationConfig(do_sample=False, max_new_tokens=NUM_TOKENS, pad_token_id=0, **wanted)
    before: Any = causal.generation_config
    causal.generation_config = plain  # without the settings that a model comes with, such as a penalty
    try:
        with evaluation_mode(causal), no_adapter_casts(causal), autocast(causal), quiet_libraries():
            own_generate: Any = causal.generate
            output = own_generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)
    finally:
        causal.generation_config = before
    return torch.cat(output.logits).float().log_softmax(-1)
