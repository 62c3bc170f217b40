"""Decoding: batched == single == `model.generate`, beam == brute force, scores == teacher-forced log-probabilities."""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import Any

import pytest
import torch
from decoding_models import KINDS, SMALL, STOPS, VOCAB, reference, small_model, some_prompts
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention

from medsum_core.errors import InputError
from medsum_core.generation import generate as generate_module
from medsum_core.generation import kv_cache
from medsum_core.generation.banned_tokens import Ban
from medsum_core.generation.beam import BeamRules, BeamSearch
from medsum_core.generation.candidates import candidates_of_logits
from medsum_core.generation.generate import generate
from medsum_core.generation.search import Generation
from medsum_core.kernels import FAST_MODEL_TYPES
from medsum_core.kernels.cpu import arena
from medsum_core.kernels.decoding.blocked_head import Head
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.model import widened_weights as widened_module
from medsum_core.model.widened_weights import widened_weights


@pytest.fixture(params=["own modules", "packed"], autouse=True)
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test decodes by the model's own modules, and by the fast kernels where they know the family."""
    if request.param == "packed":
        own = generate_module.own_modules

        def either(causal: Any) -> Any:
            return (packed_decoder if causal.config.model_type in FAST_MODEL_TYPES else own)(causal)

        monkeypatch.setattr(generate_module, "own_modules", either)


def log_prob(model: Any, prompt: list[int], tokens: list[int]) -> float:
    """The teacher-forced log-probability of `tokens` after `prompt`, by one plain forward pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0].float().log_softmax(-1)
    return float(sum(log_probs[len(prompt) - 1 + place, token] for place, token in enumerate(tokens)))


@cache
def expected_notes(kind: str, seed: int) -> list[tuple[dict[str, Any], list[Generation]]]:
    """Settings of greedy, 2 and 4 beams with changing penalties, and the notes of transformers: for either decoder."""
    model, chance, found = small_model(kind, seed), random.Random(seed), []
    for num_beams in (1, 2, 4):
        settings: dict[str, Any] = {"max_new_tokens": 8, "num_beams": num_beams}
        if num_beams > 1:
            settings["length_penalty"] = chance.choice([0.0, 0.6, 1.0, 2.0])
            settings["early_stopping"] = chance.choice([False, True, "never"])
        found.append((settings, [reference(model, prompt, **settings) for prompt in some_prompts(seed, 3)]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(13))
def test_batched_notes_equal_single_notes_and_those_of_transformers(kind: str, seed: int) -> None:
    """52 random models; batches smaller than the number of notes."""
    model, prompts = small_model(kind, seed), some_prompts(seed, 3)
    for settings, notes in expected_notes(kind, seed):
        batched = generate(model, prompts, stop_token_ids=STOPS, batch_size=2, **settings)
        for prompt, note, expected in zip(prompts, batched, notes, strict=True):
            (single,) = generate(model, [prompt], stop_token_ids=STOPS, **settings)
            assert note.token_ids == single.token_ids == expected.token_ids
            assert note.hit_limit == single.hit_limit == expected.hit_limit
            assert note.score == pytest.approx(single.score, abs=1e-4)
            if settings["num_beams"] > 1:
                assert note.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_min_new_tokens_works_as_in_transformers(kind: str) -> None:
    model, prompts = small_model(kind, 3), some_prompts(3, 5)
    for num_beams, stops in itertools.product((1, 3), (STOPS, tuple(range(1, VOCAB, 3)))):
        free = generate(model, prompts, stop_token_ids=stops, max_new_tokens=7)
        assert any(len(note.token_ids) < 4 for note in free)
        settings = {"max_new_tokens": 7, "min_new_tokens": 4, "num_beams": num_beams}
        notes = generate(model, prompts, stop_token_ids=stops, **settings)
        for prompt, note in zip(prompts, notes, strict=True):
            assert note.token_ids == reference(model, prompt, stops=stops, **settings).token_ids
            assert len(note.token_ids) >= 4


def test_masks_begin_at_addresses_that_cuda_kernels_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of a mask from a window's first key on may begin at any address; CUDA's kernels need 16-byte alignment."""
    masks: list[torch.Tensor] = []

    def watched(*tensors: torch.Tensor, attn_mask: torch.Tensor | None, **settings: Any) -> torch.Tensor:
        masks.extend([] if attn_mask is None else [attn_mask])
        return scaled_dot_product_attention(*tensors, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(kv_cache, "scaled_dot_product_attention", watched)
    model = small_model("gemma3_text")
    generate(model, some_prompts(0, 3), stop_token_ids=(), max_new_tokens=20)
    starts = {mask.storage_offset() * mask.element_size() for mask in masks}
    assert max(starts) > 0 and all(start % 16 == 0 for start in starts)


def test_each_note_has_its_own_limits() -> None:
    model, prompts = small_model("gemma3_text"), some_prompts(0, 7)
    lengths = [1, 9, 3, 12, 2, 5, 30]
    for num_beams in (1, 2):
        limits = {"max_new_tokens": lengths, "min_new_tokens": lengths, "num_beams": num_beams}
        notes = generate(model, prompts, stop_token_ids=STOPS, batch_size=3, **limits)
        assert [len(note.token_ids) for note in notes] == lengths
        assert all(note.hit_limit for note in notes)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_note_depends_neither_on_order_nor_on_the_others_of_its_batch(num_beams: int) -> None:
    model, prompts = small_model("gemma3_text", 1), some_prompts(5, 9, longest=30)
    options: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 20, "num_beams": num_beams}
    expected = generate(model, prompts, batch_size=1, **options)
    assert len({len(note.token_ids) for note in expected}) > 3  # so that they leave the batch at different times
    for seed, batch_size in ((0, 2), (1, 4), (2, 9)):
        order = random.Random(seed).sample(range(9), 9)
        notes = generate(model, [prompts[i] for i in order], batch_size=batch_size, **options)
        assert [note.token_ids for note in notes] == [expected[i].token_ids for i in order]
        assert [note.score for note in notes] == pytest.approx([expected[i].score for i in order], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_beam_search_equals_brute_force_on_a_tiny_vocabulary(kind: str) -> None:
    """With as many beams as beginnings, the best of all texts of up to three tokens must be found."""
    model = small_model(kind, 2, vocab_size=8, pad_token_id=0)
    prompt, stop, limit, vocab = [2, 3, 4], 1, 3, 8
    texts = list(itertools.product(range(vocab), repeat=limit))
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *text] for text in texts]), use_cache=False).logits
    log_probs_by_text = (
        logits[:, len(prompt) - 1 : -1].log_softmax(-1).gather(2, torch.tensor(texts)[..., None])[..., 0]
    )
    for penalty in (0.0, 1.0):
        (note,) = generate(
            model,
            [prompt],
            stop_token_ids=[stop],
            max_new_tokens=limit,
            num_beams=vocab ** (limit - 1),
            length_penalty=penalty,
            early_stopping="never",
        )
        scores = {}
        for text, log_probs in zip(texts, log_probs_by_text, strict=True):
            end = text.index(stop) + 1 if stop in text else limit
            scores[text[:end]] = float(log_probs[:end].sum()) / end**penalty
        best = max(scores, key=scores.__getitem__)
        assert note.token_ids == tuple(token for token in best if token != stop)
        assert note.score == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_score_is_the_teacher_forced_log_probability(num_beams: int) -> None:
    model, prompts = small_model("gemma", 4), some_prompts(4)
    (stop,) = {5}
    notes = generate(model, prompts, stop_token_ids=[stop], max_new_tokens=10, num_beams=num_beams, length_penalty=0.7)
    for prompt, note in zip(prompts, notes, strict=True):
        tokens = [*note.token_ids, *([] if note.hit_limit else [stop])]
        expected = log_prob(model, prompt, tokens) / (len(tokens) ** 0.7 if num_beams > 1 else 1)
        assert note.score == pytest.approx(expected, abs=1e-4)


def test_beam_search_with_one_beam_is_greedy() -> None:
    """`generate` uses greedy search for one beam; beam search with one beam must give the same."""
    torch.manual_seed(0)
    table = torch.randn(VOCAB, VOCAB) * 2
    stops, token, tokens = frozenset({1}), 2, []
    from medsum_core.generation.search import Note

    note = Note(index=0, prompt=(2,), min_new=0, max_new=12)
    rules = BeamRules(num_beams=1, early_stopping=True)
    search = BeamSearch(rules, stops, num_slots=1, max_new_tokens=12, device=torch.device("cpu"))
    done, current = [False], torch.tensor([[2]])
    while not done[0]:
        candidates = candidates_of_logits(table[current[0]].clone(), num_candidates=search.num_candidates)
        current, _, done = search.advance([note], candidates)
    while len(tokens) < 12 and token not in stops:
        token = int(table[token].argmax())
        tokens.append(token)
    assert search.result(note, 0).token_ids == tuple(token for token in tokens if token != 1)


def test_a_note_stops_at_any_stop_token_or_has_hit_limit() -> None:
    model, prompts = small_model("llama", 6), some_prompts(6, 6)
    free = generate(model, prompts, stop_token_ids=[], max_new_tokens=12)
    assert all(note.hit_limit and len(note.token_ids) == 12 for note in free)
    stops = {free[0].token_ids[3], free[1].token_ids[0]}
    stopped = generate(model, prompts, stop_token_ids=sorted(stops), max_new_tokens=12)
    for whole, note in zip(free, stopped, strict=True):
        end = next((place for place, token in enumerate(whole.token_ids) if token in stops), 12)
        assert note.token_ids == whole.token_ids[:end]
        assert note.hit_limit == (end == 12)


def test_callbacks_get_each_token_and_each_note_once() -> None:
    model, prompts = small_model("gemma"), some_prompts(1, 5)
    finished: dict[int, Generation] = {}
    tokens: dict[int, list[int]] = {index: [] for index in range(5)}
    notes = generate(
        model,
        prompts,
        stop_token_ids=STOPS,
        max_new_tokens=6,
        batch_size=2,
        on_finished=lambda index, note: finished.update({index: note}),
        on_token=lambda index, token: tokens[index].append(token),
    )
    assert [finished[index] for index in range(5)] == notes
    assert [tuple(tokens[index]) for index in range(5)] == [note.token_ids for note in notes]


def test_prompts_are_read_once_and_nothing_is_padded() -> None:
    model, prompts = small_model("gemma"), some_prompts(2, 6)
    seen: list[int] = []
    embed = model.get_input_embeddings()
    embed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    notes = generate(model, prompts, stop_token_ids=[], max_new_tokens=5, num_beams=3, batch_size=4)
    assert len(notes) == 6
    assert sum(seen) == sum(map(len, prompts)) + 6 * 3 * (5 - 1)


def test_decoding_drops_the_blocks_of_the_arena_that_training_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_blocks", {})
    held, free = (arena.empty((size,), dtype=torch.uint8, device=torch.device("cpu")) for size in (2**21, 2**22))
    del free
    generate(small_model("gemma"), some_prompts(1), stop_token_ids=STOPS, max_new_tokens=2, decoder=packed_decoder)
    assert [len(arena._blocks[size]) for size in (2**21, 2**22)] == [1, 0]
    assert held.fill_(1).all()


def test_mode_gradients_and_attention_are_restored() -> None:
    model = get_peft_model(
        small_model("gemma3_text"), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    model.train()
    model.base_model.model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    attention, prompts = model.config._attn_implementation, some_prompts(3)
    model.get_base_model().activation_checkpointing_enable()
    before = generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=8)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.config._attn_implementation == attention
    assert torch.is_grad_enabled()
    model(torch.tensor([prompts[0]]), labels=torch.tensor([prompts[0]])).loss.backward()
    model.zero_grad()
    assert generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=8) == before
    model.eval()
    assert [note.token_ids for note in before] == [
        reference(model, prompt, max_new_tokens=8).token_ids for prompt in prompts
    ]
    with model.disable_adapter():
        base = generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=8)
        assert [n.token_ids for n in base] == [reference(model, p, max_new_tokens=8).token_ids for p in prompts]
    assert [note.token_ids for note in base] != [note.token_ids for note in before]


def test_an_interrupted_call_restores_the_model() -> None:
    model = small_model("gemma").train()
    attention = model.config._attn_implementation

    def interrupt(index: int, note: Generation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, some_prompts(0), stop_token_ids=STOPS, max_new_tokens=4, on_finished=interrupt)
    assert model.config._attn_implementation == attention
    assert model.training


def test_other_models_run_their_own_head() -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(**SMALL, num_hidden_layers=2, sliding_window=6, initializer_range=0.08, pad_token_id=0)
    model, prompts = AutoModelForCausalLM.from_config(config).eval(), some_prompts(8, 3)
    for num_beams in (1, 2):
        notes = generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=8, num_beams=num_beams)
        for prompt, note in zip(prompts, notes, strict=True):
            assert note.token_ids == reference(model, prompt, max_new_tokens=8, num_beams=num_beams).token_ids


def test_arguments_that_make_no_sense_are_refused() -> None:
    model = small_model("gemma", max_position_embeddings=32)
    assert generate(model, [], stop_token_ids=[1], max_new_tokens=4) == []
    with pytest.raises(InputError, match="room for 32"):
        generate(model, [[2, 3], [2] * 30], stop_token_ids=[1], max_new_tokens=4)
    for prompts, options in (
        ([[]], {}),
        ([[2]], {"max_new_tokens": 0}),
        ([[2]], {"min_new_tokens": 5}),
        ([[2]], {"num_beams": 0}),
        ([[2]], {"no_repeat_ngram_size": -1}),
        ([[2]], {"batch_size": 0}),
        ([[2]], {"num_beams": 2, "on_token": lambda index, token: None}),
    ):
        with pytest.raises(ValueError):
            generate(model, prompts, stop_token_ids=[1], **{"max_new_tokens": 4, **options})


@pytest.mark.parametrize("num_candidates", [1, 5])
def test_candidates_found_in_blocks_are_those_of_all_logits(
    num_candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsum_core.kernels.decoding.blocked_head.CPU_BLOCK_ENTRIES", 7)
    chance = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(3, 16, generator=chance), torch.randn(50, 16, generator=chance)
    logits = torch.tanh(hidden @ weight.t() / 3) * 3
    log_probs = logits.log_softmax(-1)
    likeliest = log_probs.argmax(-1)
    pairs = [(row, token) for row in (0, 2) for token in likeliest.tolist()]
    ban = Ban.of(pairs, device=hidden.device)
    found = Head(weight, softcap=3.0).candidates(hidden, num_candidates, ban)
    for row in (0, 2):
        log_probs[row, likeliest] = float("-inf")
    expected = log_probs.topk(num_candidates)
    assert torch.equal(found.tokens_Mk, expected.indices)
    torch.testing.assert_close(found.log_probs_Mk, expected.values)


def test_bf16_weights_on_slow_cpus_are_widened_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gemma", dtype=torch.bfloat16, tie_word_embeddings=True)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    for has_units, widen, expected in (
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (True, True, torch.float32),
    ):
        monkeypatch.setattr("medsum_core.device.cpu_has_bf16_units", lambda answer=has_units: answer)
        with widened_weights(model, widen=widen):
            assert {parameter.dtype for parameter in model.parameters()} == {expected}
            assert model.lm_head.weight is model.get_input_embeddings().weight
        assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before
    monkeypatch.setattr("medsum_core.device.cpu_has_bf16_units", lambda: False)
    full = widened_module.find_device()
    monkeypatch.setattr(widened_module, "find_device", lambda: type(full)(**{**vars(full), "free_bytes": 10}))
    with widened_weights(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
