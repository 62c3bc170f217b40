"""Greedy and beam decoding with a key-value cache.

A note that ends leaves the batch at once and the next prompt takes its slot (`batch.py`). The longest prompts start
first; otherwise long notes would be written almost alone at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from medsum_core.errors import InputError
from medsum_core.generation.banned_tokens import BanRules
from medsum_core.generation.batch import Batch, Forward
from medsum_core.generation.beam import BeamRules, BeamSearch, EarlyStopping
from medsum_core.generation.candidates import Candidates, candidates_of_logits
from medsum_core.generation.greedy import GreedySearch
from medsum_core.generation.grounded import GroundedNotes
from medsum_core.generation.grounded_rules import Grounding
from medsum_core.generation.kv_cache import KVCache, Step, cached_attention
from medsum_core.generation.own_cache import OwnCaches, one_by_one
from medsum_core.generation.search import Generation, Note, ReversibleSearch, Search
from medsum_core.model.families import CACHED_MODEL_TYPES
from medsum_core.model.forward import autocast, causal_model, evaluation_mode, image_options, no_adapter_casts
from medsum_core.model.widened_weights import widened_weights

Decoder = Callable[[PreTrainedModel], AbstractContextManager[Forward]]


def generate(
    model: PeftModel | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_token_ids: Sequence[int],
    max_new_tokens: int | Sequence[int],
    min_new_tokens: int | Sequence[int] = 0,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    no_repeat_ngram_size: int = 0,
    batch_size: int = 16,
    on_finished: Callable[[int, Generation], None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
    search: Callable[[frozenset[int]], Search] | None = None,
    grounding: Grounding | None = None,
) -> list[Generation]:
    """A note for each prompt (token ids), in the prompts' order; greedy with one beam, as in transformers.

    model: a causal language model of transformers, or one with a PEFT adapter; each module's mode is restored.
    max_new_tokens, min_new_tokens: for all notes or one each; the stop token counts, as in transformers.
    no_repeat_ngram_size: no sequence of that many tokens twice in a note; 0 for no such rule (`banned_tokens.py`).
    batch_size: notes being written at a time, each with all its beams.
    on_finished(index, generation): called as each note ends, in the order in which they end.
    on_token(index, token): called for each token of a greedy note, the stop token excluded, as it is chosen.
    decoder: computes the forward pass, such as that of the fast kernels; None: the model's own modules.
    search(stop_token_ids): builds another decoding rule, used instead of greedy and beam search.
    grounding: no note has a fact that its verifier refuses (`grounded.py`); needs a rule and a cache that can go back.
    Raises InputError for a prompt that leaves no room for its note, ValueError for invalid arguments.
    """
    causal = causal_model(model)
    notes = _notes(prompts, max_new_tokens, min_new_tokens, causal.config, grounding)
    if num_beams < 1 or batch_size < 1 or no_repeat_ngram_size < 0:
        raise ValueError("num_beams and batch_size must be at least 1, no_repeat_ngram_size at least 0")
    if on_token is not None and (num_beams > 1 or grounding is not None or search is not None):
        raise ValueError("on_token is for plain greedy notes: those of beams, grounding and other rules may change")
    if search is not None and num_beams > 1:
        raise ValueError("num_beams belongs to the built-in rules: leave it out with one of your own")
    if not notes:
        return []
    stops, num_slots = frozenset(stop_token_ids), min(batch_size, len(notes))
    decoder, cache_type = decoder_and_cache(causal, decoder)
    rules = BeamRules(num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping)
    room: dict[str, Any] = {"num_slots": num_slots, "max_new_tokens": max(note.max_new for note in notes)}
    own: Search = built_in_rule(rules, stops, **room, device=causal.device, on_token=on_token)
    rule = own if search is None else search(stops)
    grounded = None if grounding is None else _grounded(grounding, rule, stops, causal.config, cache_type)
    bans = BanRules(stop_token_ids=stops, no_repeat_ngram_size=no_repeat_ngram_size)
    waiting = deque(sorted(notes, key=lambda note: -len(note.prompt)))
    generations: dict[int, Generation] = {}
    with evaluation_mode(causal), torch.no_grad(), any_algorithm(), decoder(causal) as forward:
        cache = cache_type(num_slots, rule.num_beams, _capacity(notes, rule.num_beams), device=causal.device)
        batch = Batch(forward, rule, bans, cache, num_slots=num_slots, grounded=grounded)
        while batch.join(waiting) or batch.active:
            for note, generation in batch.step():
                generations[note.index] = generation
                if on_finished is not None:
                    on_finished(note.index, generation)
    return [generations[index] for index in range(len(notes))]


@contextmanager
def any_algorithm() -> Iterator[None]:
    """While the block runs, torch may use nondeterministic algorithms, even where training has disabled them.

    Decoding does not use those whose results vary (they sum gradients); the deterministic ones would need a sort at
    each write to the cache.
    """
    before, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


def decoder_and_cache(causal: PreTrainedModel, decoder: Decoder | None) -> tuple[Decoder, type[KVCache]]:
    """The decoder and the class of its cache; untested families are decoded with the model's own cache."""
    if decoder is not None:
        return decoder, KVCache
    packs = causal.config.get_text_config().model_type in CACHED_MODEL_TYPES
    return (own_modules, KVCache) if packs else (one_by_one, OwnCaches)


def built_in_rule(
    rules: BeamRules,
    stop_token_ids: frozenset[int],
    *,
    num_slots: int,
    max_new_tokens: int,
    device: torch.device,
    on_token: Callable[[int, int], None] | None,
) -> ReversibleSearch:
    """Greedy search for one beam, and beam search for more."""
    if rules.num_beams == 1:
        return GreedySearch(stop_token_ids, on_token)
    return BeamSearch(rules, stop_token_ids, num_slots=num_slots, max_new_tokens=max_new_tokens, device=device)


def check_can_go_back(config: PretrainedConfig, cache_type: type[KVCache]) -> None:
    """Raise InputError where the cache can't go back to an earlier token, as grounded decoding needs."""
    if cache_type is OwnCaches:
        raise InputError(
            f"--grounded: {config.model_type} keeps more than keys and values, which can't be taken back: leave it out"
        )


def _grounded(
    grounding: Grounding, rule: Search, stops: frozenset[int], config: PretrainedConfig, cache_type: type[KVCache]
) -> GroundedNotes:
    check_can_go_back(config, cache_type)
    if not isinstance(rule, ReversibleSearch):
        raise ValueError("grounding: this decoding rule can't go back; give it the methods of ReversibleSearch")
    return GroundedNotes(rule, stops, decode=grounding.decode, full_stops=grounding.full_stops)


def _capacity(notes: Sequence[Note], num_beams: int) -> int:
    """The largest number of keys of any note."""
    return max(len(note.prompt) + num_beams * (note.max_new - 1) for note in notes)


@contextmanager
def own_modules(causal: PreTrainedModel) -> Iterator[Forward]:
    """The forward pass by the model's own modules, which store keys and values in the cache."""

    def forward(cache: KVCache, step: Step, tokens_T: Tensor, positions_T: Tensor, *options: Any) -> Candidates:
        where: Any = {"logits_to_keep": step.read_M, "kv_cache": cache, "decoding_step": step, "use_cache": False}
        where |= image_options(causal, tokens_T[None])
        logits = causal(input_ids=tokens_T[None], position_ids=positions_T[None], **where).logits
        return candidates_of_logits(logits[0], *options)

    with cached_attention(causal), widened_weights(causal), no_adapter_casts(causal), autocast(causal):
        yield forward


def _notes(
    prompts: Sequence[Sequence[int]],
    max_new: int | Sequence[int],
    min_new: int | Sequence[int],
    config: PretrainedConfig,
    grounding: Grounding | None,
) -> list[Note]:
    room = num_positions(config)
    check_token_ids((token for prompt in prompts for token in prompt), config)
    maxima = [max_new] * len(prompts) if isinstance(max_new, int) else list(max_new)
    minima = [min_new] * len(prompts) if isinstance(min_new, int) else list(min_new)
    verifiers = [None] * len(prompts) if grounding is None else grounding.verifiers
    notes = [
        Note(index=index, prompt=tuple(prompt), min_new=shortest, max_new=longest, verifier=verifier)
        for index, (prompt, shortest, longest, verifier) in enumerate(
            zip(prompts, minima, maxima, verifiers, strict=True)
        )
    ]
    for note in notes:
        if not note.prompt or not 0 <= note.min_new <= note.max_new or note.max_new < 1:
            raise ValueError(f"prompt {note.index}: it is empty, or not 0 <= min_new_tokens <= max_new_tokens >= 1")
        if room is not None and len(note.prompt) + note.max_new > room:
            raise InputError(
                f"prompt {note.index} has {len(note.prompt)} tokens and its note may have {note.max_new}, but this "
                f"model has room for {room}: lower --max_new_tokens, or shorten the source text"
            )
    return notes


def check_token_ids(tokens: Iterable[int], config: PretrainedConfig) -> None:
    """Raise InputError where a token is beyond the model's embedding."""
    num_embeddings = config.get_text_config().vocab_size
    if (largest := max(tokens, default=0)) >= num_embeddings:
        raise InputError(
            f"--model_name_or_path: the tokenizer gives the id {largest}, but the model has {num_embeddings} "
            "embeddings; is this tokenizer the model's own?"
        )


def num_positions(config: PretrainedConfig) -> int | None:
    """The number of positions of a model; None where its configuration has no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
