"""`no_repeat_ngram_size`, against transformers' rule applied to the note without its prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding_models import STOPS, VOCAB, reference, small_model, some_prompts
from hypothesis import given
from hypothesis import strategies as st

from medsum_core.generation.banned_tokens import Ban, repeating_tokens
from medsum_core.generation.generate import generate

NO_STOPS: tuple[int, ...] = ()


def ngrams(tokens: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [tokens[start : start + size] for start in range(len(tokens) - size + 1)]


@pytest.mark.parametrize("stops", [(3,), STOPS])
@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama"])
def test_notes_equal_those_under_transformers_rule_without_the_prompt(
    kind: str, num_beams: int, stops: tuple[int, ...]
) -> None:
    for size in (1, 2, 3):  # a model each
        model, prompts = small_model(kind, size), some_prompts(size, 3)
        settings = {"max_new_tokens": 12, "num_beams": num_beams}
        notes = generate(model, prompts, stop_token_ids=stops, no_repeat_ngram_size=size, batch_size=2, **settings)
        for prompt, note in zip(prompts, notes, strict=True):
            expected = reference(model, prompt, stops=stops, no_repeat_in_note=size, **settings)
            assert note.token_ids == expected.token_ids


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_rule_ends_an_endless_repetition(num_beams: int) -> None:
    # A random model with a tied head repeats its last token.
    model, prompts = small_model("gemma", tie_word_embeddings=True), some_prompts(1, 5)
    options: dict[str, Any] = {"stop_token_ids": NO_STOPS, "max_new_tokens": 30, "num_beams": num_beams}
    for size in (1, 2, 4):
        free = generate(model, prompts, **options)
        assert any(len(set(ngrams(note.token_ids, size))) < 31 - size for note in free)
        for note in generate(model, prompts, no_repeat_ngram_size=size, **options):
            assert len(note.token_ids) == 30 and len(set(ngrams(note.token_ids, size))) == 31 - size


def test_a_note_may_quote_its_prompt() -> None:
    model = small_model("gemma", tie_word_embeddings=True)
    prompt = [2, 9, 9, 9, 9]
    (free,) = generate(model, [prompt], stop_token_ids=NO_STOPS, max_new_tokens=2)
    (note,) = generate(model, [prompt], stop_token_ids=NO_STOPS, max_new_tokens=2, no_repeat_ngram_size=2)
    assert note.token_ids == free.token_ids == (9, 9)


def test_log_probabilities_are_unaffected_by_the_rule() -> None:
    model, (prompt,) = small_model("gemma", tie_word_embeddings=True), some_prompts(2, 1)
    (note,) = generate(model, [prompt], stop_token_ids=NO_STOPS, max_new_tokens=6, no_repeat_ngram_size=1)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *note.token_ids]]), use_cache=False).logits[0].float()
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    expected = sum(float(row[token]) for row, token in zip(log_probs, note.token_ids, strict=True))
    assert note.score == pytest.approx(expected, abs=1e-4)


@given(st.lists(st.integers(0, 3), max_size=14), st.integers(1, 5))
def test_repeating_tokens_are_those_that_complete_a_known_ngram(tokens: list[int], size: int) -> None:
    known = set(ngrams(tuple(tokens), size))
    expected = {token for token in range(4) if tuple([*tokens, token][-size:]) in known}
    assert repeating_tokens(tokens, size) == expected


def test_a_ban_changes_only_its_pairs_in_any_part_of_the_vocabulary() -> None:
    pairs = [(0, 5), (2, 5), (1, 0), (2, VOCAB - 1)]
    ban = Ban.of(pairs, device=torch.device("cpu"))
    assert ban is not None and Ban.of([], device=torch.device("cpu")) is None
    logits = torch.zeros(3, VOCAB)
    for start in range(0, VOCAB, 7):
        ban.apply(logits[:, start : start + 7], start=start)
    assert sorted(torch.isinf(logits).nonzero().tolist()) == sorted([row, token] for row, token in pairs)


def test_where_only_some_tokens_are_allowed_all_others_are_banned() -> None:
    only = {1: frozenset({9, 20, VOCAB - 1}), 2: frozenset[int]()}
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(0))
    expected = logits.clone()
    expected[0, 5] = float("-inf")
    expected[1, [token for token in range(VOCAB) if token not in only[1]]] = float("-inf")
    expected[2] = float("-inf")
    for pairs in ([(0, 5), (1, 9), (1, 6)], []):  # a pair in a row of `only` is overruled
        ban, found = Ban.of(pairs, only, device=logits.device), logits.clone()
        assert ban is not None
        for start in range(0, VOCAB, 7):
            ban.apply(found[:, start : start + 7], start=start)
        assert torch.equal(found[1:], expected[1:])
        assert torch.equal(found[0], expected[0] if pairs else logits[0])
