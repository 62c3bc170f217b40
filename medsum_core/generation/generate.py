"""Greedy and beam decoding, written out over the key-value cache.

Letters: R notes being written, K beams a note, N notes that start now, T tokens of a forward pass.

One forward pass is one packed row: the newest tokens of the R notes being written (R x K of them), then the whole
prompts of N notes that start. So a prompt is read once, also for beams, and nothing is padded. A note that ends leaves
at once and the next prompt takes its place (continuous batching: Orca, OSDI 2022), longest prompts first, since the
last notes to end would otherwise be written almost alone.

A note does not depend on the batch's other notes or on their order, up to the rounding of sums of different shapes.
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
from medsum_core.generation.banned_tokens import Ban, BanRules, repeating_tokens
from medsum_core.generation.beam import BeamRules, BeamSearch, EarlyStopping
from medsum_core.generation.candidates import Candidates, candidates_of_logits
from medsum_core.generation.greedy import GreedySearch
from medsum_core.generation.grounded import GroundedNotes
from medsum_core.generation.grounded_rules import Grounding
from medsum_core.generation.kv_cache import KVCache, Step, cached_attention
from medsum_core.generation.own_cache import OwnCaches, one_by_one
from medsum_core.generation.search import Generation, Note, ReversibleSearch, Search
from medsum_core.model.families import CACHED_MODEL_TYPES
from medsum_core.model.forward import autocast, causal_model, evaluation_mode, no_adapter_casts
from medsum_core.model.widened_weights import widened_weights

# Most prompt tokens in one forward pass: with more, matrix products get no faster while activations grow.
MAX_PROMPT_TOKENS = 2048
# (cache, step, tokens_T, positions_T, number of candidates, ban) -> candidates
Forward = Callable[[KVCache, Step, Tensor, Tensor, int, Ban | None], Candidates]
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
    on_finished(index, generation): called as each note ends, in whatever order they do.
    on_token(index, token): called for each token of a greedy note, the stop token excluded, as it is chosen.
    decoder: how the forward pass is computed, such as the fast kernels'; not given: by the model's own modules.
    search(stop_token_ids): builds another decoding rule, used instead of greedy and beam search.
    grounding: no note has a fact that its verifier refuses (`grounded.py`), where the rule and the cache can go back.
    Raises InputError for a prompt that leaves no room for its note, ValueError for arguments that make no sense.
    """
    causal = causal_model(model)
    assert isinstance(causal, PreTrainedModel)
    notes = _notes(prompts, max_new_tokens, min_new_tokens, causal.config)
    if num_beams < 1 or batch_size < 1 or no_repeat_ngram_size < 0:
        raise ValueError("num_beams and batch_size must be at least 1, no_repeat_ngram_size at least 0")
    if on_token is not None and (num_beams > 1 or grounding is not None or search is not None):
        raise ValueError("on_token is for plain greedy notes: those of beams, grounding and other rules may change")
    if search is not None and num_beams > 1:
        raise ValueError("num_beams belongs to the built-in rules: leave it out with one of your own")
    if not notes:
        return []
    stops, num_slots = frozenset(stop_token_ids), min(batch_size, len(notes))
    packs = decoder is not None or causal.config.get_text_config().model_type in CACHED_MODEL_TYPES
    decoder, cache_type = decoder or (own_modules if packs else one_by_one), KVCache if packs else OwnCaches
    rule: Search = GreedySearch(stops, on_token) if search is None else search(stops)
    if num_beams > 1:
        rules = BeamRules(num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping)
        room = {"num_slots": num_slots, "max_new_tokens": max(note.max_new for note in notes)}
        rule = BeamSearch(rules, stops, **room, device=causal.device, goes_back=grounding is not None)
    grounded = None if grounding is None else _grounded(grounding, rule, stops, causal.config, can_go_back=packs)
    bans = BanRules(stop_token_ids=stops, no_repeat_ngram_size=no_repeat_ngram_size)
    generations: dict[int, Generation] = {}
    with evaluation_mode(causal), torch.no_grad(), decoder(causal) as forward:
        cache = cache_type(num_slots, rule.num_beams, _capacity(notes, rule.num_beams), device=causal.device)
        for index, generation in _decode(forward, notes, rule, bans, cache, num_slots=num_slots, grounded=grounded):
            generations[index] = generation
            if on_finished is not None:
                on_finished(index, generation)
    return [generations[index] for index in range(len(notes))]


def _grounded(
    grounding: Grounding, rule: Search, stops: frozenset[int], config: PretrainedConfig, *, can_go_back: bool
) -> GroundedNotes:
    if not can_go_back:
        raise InputError(
            f"--grounded: {config.model_type} keeps more than keys and values, which can't be taken back: leave it out"
        )
    if not isinstance(rule, ReversibleSearch):
        raise ValueError("grounding: this decoding rule can't go back; give it the methods of ReversibleSearch")
    return GroundedNotes(grounding, rule, stops)


def _capacity(notes: Sequence[Note], num_beams: int) -> int:
    """The most keys of a note."""
    return max(len(note.prompt) + num_beams * (note.max_new - 1) for note in notes)


def _decode(
    forward: Forward,
    notes: list[Note],
    search: Search,
    bans: BanRules,
    cache: KVCache,
    *,
    num_slots: int,
    grounded: GroundedNotes | None,
) -> Iterator[tuple[int, Generation]]:
    """Yield each note as it ends. `active[slot]` is being written; the slots in use have no gaps."""
    beams, device = search.num_beams, cache.visible_SKC.device
    waiting = deque(sorted(notes, key=lambda note: -len(note.prompt)))
    active: list[Note] = []
    tokens_RK = torch.zeros(0, beams, dtype=torch.int64, device=device)
    while waiting or active:
        starting = _admit(waiting, num_slots - len(active))
        step, tokens_T, positions_T = _packed_inputs(cache, active, starting, tokens_RK)
        ban = _ban(active, starting, search, bans, grounded, device=device)
        candidates = _spread(forward(cache, step, tokens_T, positions_T, search.num_candidates, ban), step)
        active += starting
        tokens_RK, parents_RK, done = search.advance(active, candidates)
        if parents_RK is not None:
            cache.reorder_beams(parents_RK)
        for slot, trail in () if grounded is None else grounded.review(active, done):
            prompt = active[slot].prompt
            cache.go_back(slot, len(prompt), trail.beams_KT)
            tokens_RK[slot] = torch.tensor([[*prompt, *tokens][-1] for tokens in trail.tokens_KT], device=device)
        for slot in reversed([slot for slot, is_done in enumerate(done) if is_done]):
            generation = search.result(active[slot], slot)
            yield active[slot].index, generation if grounded is None else grounded.finish(active[slot], generation)
            last = len(active) - 1
            if slot != last:
                cache.move_slot(last, slot, active[last].num_keys(beams))
                search.move_slot(last, slot)
                tokens_RK[slot] = tokens_RK[last]
                active[slot] = active[last]
            active.pop()
        tokens_RK = tokens_RK[: len(active)]


def _admit(waiting: deque[Note], num_free: int) -> list[Note]:
    """The notes that start now: as many as there are free slots, within the budget of prompt tokens, one at least."""
    starting: list[Note] = []
    num_tokens = 0
    while waiting and len(starting) < num_free:
        num_tokens += len(waiting[0].prompt)
        if starting and num_tokens > MAX_PROMPT_TOKENS:
            break
        starting.append(waiting.popleft())
    return starting


def _packed_inputs(
    cache: KVCache, active: Sequence[Note], starting: Sequence[Note], tokens_RK: Tensor
) -> tuple[Step, Tensor, Tensor]:
    """One packed row for the model, tokens and positions (T,): the newest of R x K beams, then N prompts from 0 on."""
    positions = [len(note.prompt) + note.num_written - 1 for note in active]
    columns = [note.num_keys(cache.num_beams) for note in active]
    went_back_whole = [note.num_written == 0 for note in active]
    lengths = [len(note.prompt) for note in starting]
    step = cache.begin_step(positions, columns, lengths, one_column=went_back_whole)
    device = tokens_RK.device
    prompt_tokens = torch.tensor([token for note in starting for token in note.prompt], device=device).long()
    prompt_positions = torch.tensor([t for note in starting for t in range(len(note.prompt))], device=device).long()
    tokens_T = torch.cat((tokens_RK.flatten(), prompt_tokens))
    positions_T = torch.cat((step.positions_R.repeat_interleave(step.num_beams), prompt_positions))
    return step, tokens_T, positions_T


def _ban(
    active: Sequence[Note],
    starting: Sequence[Note],
    search: Search,
    rules: BanRules,
    grounded: GroundedNotes | None,
    *,
    device: torch.device,
) -> Ban | None:
    """What may not come next in each row: a row for each beam being written, then one for each prompt that starts."""
    rows = [*(note for note in active for _ in range(search.num_beams)), *starting]
    too_short = [row for row, note in enumerate(rows) if note.num_written < note.min_new]
    pairs = [(row, token) for row in too_short for token in rules.stop_token_ids]
    if rules.no_repeat_ngram_size:
        for row, written in enumerate(search.written(active)):
            pairs += [(row, token) for token in repeating_tokens(written, rules.no_repeat_ngram_size)]
    unsupported, only = ([], {}) if grounded is None else grounded.bans(active)
    return Ban.of(pairs + unsupported, only, device=device)


@contextmanager
def own_modules(causal: PreTrainedModel) -> Iterator[Forward]:
    """The forward pass by the model's own modules, which store keys and values in the cache."""

    def forward(cache: KVCache, step: Step, tokens_T: Tensor, positions_T: Tensor, *options: Any) -> Candidates:
        where: Any = {"logits_to_keep": step.read_M, "kv_cache": cache, "decoding_step": step, "use_cache": False}
        logits = causal(input_ids=tokens_T[None], position_ids=positions_T[None], **where).logits
        return candidates_of_logits(logits[0], *options)

    with cached_attention(causal), widened_weights(causal), no_adapter_casts(causal), autocast(causal):
        yield forward


def _spread(candidates: Candidates, step: Step) -> Candidates:
    """Repeat a new prompt's one row of candidates for each of its K beams."""
    if step.num_beams == 1 or not step.prompt_lengths:
        return candidates
    rows = torch.arange(len(candidates.tokens_Mk), device=candidates.tokens_Mk.device)
    rows = torch.cat((rows[: step.num_decoded], rows[step.num_decoded :].repeat_interleave(step.num_beams)))
    return Candidates(tokens_Mk=candidates.tokens_Mk[rows], log_probs_Mk=candidates.log_probs_Mk[rows])


def _notes(
    prompts: Sequence[Sequence[int]],
    max_new: int | Sequence[int],
    min_new: int | Sequence[int],
    config: PretrainedConfig,
) -> list[Note]:
    room = num_positions(config)
    check_token_ids((token for prompt in prompts for token in prompt), config)
    maxima = [max_new] * len(prompts) if isinstance(max_new, int) else list(max_new)
    minima = [min_new] * len(prompts) if isinstance(min_new, int) else list(min_new)
    notes = [
        Note(index=index, prompt=tuple(prompt), min_new=shortest, max_new=longest)
        for index, (prompt, shortest, longest) in enumerate(zip(prompts, minima, maxima, strict=True))
    ]
    for note in notes:
        if not note.prompt or not 0 <= note.min_new <= note.max_new or note.max_new < 1:
            raise ValueError(f"prompt {note.index}: it is empty, or not 0 <= min_new_tokens <= max_new_tokens >= 1")
        if room is not None and len(note.prompt) + note.max_new > room:
            raise InputError(
                f"prompt {note.index} has {len(note.prompt)} tokens and its note may have {note.max_new}, but this "
                f"model has room for {room}: lower --max_new_tokens, or shorten the dialogue"
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
    """The most tokens that a model has positions for; None where its configuration names no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
