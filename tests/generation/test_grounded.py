"""Grounded decoding: no refused fact is written, notes without one are unchanged, and going back is exact."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from decoding_models import VOCAB, small_model, some_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from small_language import STOPS, decode, grounding, piece, refused_numbers
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from medsum_core.generation import grounded, grounded_rules
from medsum_core.generation.beam import BeamRules, BeamSearch
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.generate import generate
from medsum_core.generation.grounded_rules import MAX_RETURNS, NoteRules
from medsum_core.generation.search import Generation, Note
from medsum_core.kernels.decoding.decoder_layers import packed_decoder

OPTIONS: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 24}


def tokens_of(notes: list[Generation]) -> list[tuple[int, ...]]:
    return [note.token_ids for note in notes]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_note_without_a_refused_fact_is_that_of_ordinary_decoding(num_beams: int) -> None:
    """Some notes of a batch hold refused facts, others none: these are the same token for token, with their scores."""
    num_same = 0
    for seed in range(2):
        model, prompts = small_model("gemma", seed), some_prompts(seed, 8)
        plain = generate(model, prompts, num_beams=num_beams, **OPTIONS)
        for batch_size in (1, 3, 8):
            refused: set[int] = set()

            def verify(text: str, note: int, refused: set[int] = refused) -> list[tuple[int, int]]:
                found = refused_numbers(note, share=0.3)(text)
                refused |= {note} if found else set()
                return found

            rules = grounding([partial(verify, note=index) for index in range(8)])
            notes = generate(model, prompts, num_beams=num_beams, batch_size=batch_size, grounding=rules, **OPTIONS)
            assert refused
            for index in set(range(8)) - refused:
                assert notes[index].token_ids == plain[index].token_ids and notes[index].left_out == 0
                assert notes[index].score == pytest.approx(plain[index].score, abs=1e-4)
                num_same += 1
    assert num_same > 6


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("kind", "seed"), [("gemma3_text", 0), ("llama", 1)])
def test_no_refused_fact_is_written_whatever_else_is_in_the_batch(kind: str, seed: int, num_beams: int) -> None:
    model, prompts = small_model(kind, seed), some_prompts(seed, 5)
    verifiers = [refused_numbers(index, share=1.0) for index in range(5)]
    plain = generate(model, prompts, num_beams=num_beams, **OPTIONS)
    assert sum(bool(verify(decode(note.token_ids))) for verify, note in zip(verifiers, plain, strict=True)) > 0
    expected = None
    for batch_size in (7, 1, 2):
        rules = grounding(verifiers)
        notes = generate(model, prompts, num_beams=num_beams, batch_size=batch_size, grounding=rules, **OPTIONS)
        assert all(verify(decode(note.token_ids)) == [] for verify, note in zip(verifiers, notes, strict=True))
        expected = expected or notes
        assert tokens_of(notes) == tokens_of(expected)
        assert [note.left_out for note in notes] == [note.left_out for note in expected]
        assert any(note.token_ids for note in notes)
        if kind == "llama":  # here some have left a fact out without being cut
            assert any(note.left_out for note in notes if note.score == note.score)


@settings(max_examples=20, deadline=None)
@given(
    flagged=st.sets(st.sampled_from([piece(token).strip() for token in range(3, VOCAB) if piece(token).strip()])),
    whole=st.booleans(),
    num_beams=st.sampled_from([1, 2]),
    stops=st.sampled_from([STOPS, ()]),
)
def test_no_note_has_what_a_verifier_refuses(
    flagged: set[str], whole: bool, num_beams: int, stops: tuple[int, ...]
) -> None:
    """Any set of words, digits and full stops, alone or with all that follows: the note ends, and has none of it."""

    def verify(text: str) -> list[tuple[int, int]]:
        found = [match.span() for mark in flagged for match in re.finditer(re.escape(mark), text)]
        return sorted((start, len(text) if whole else end) for start, end in found)

    options = {**OPTIONS, "stop_token_ids": stops, "min_new_tokens": 4}
    notes = generate(MODEL, PROMPTS, num_beams=num_beams, grounding=grounding([verify] * 3), **options)
    assert [verify(decode(note.token_ids)) for note in notes] == [[], [], []]


MODEL, PROMPTS = small_model("gemma", 5), some_prompts(5, 3)


class RulesFromTheStart(LogitsProcessor):
    def __init__(self, rules: NoteRules, num_prompt_tokens: int) -> None:
        self._rules, self._start = rules, num_prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, self._start :].tolist()):
            place = tuple(ids)
            barred = self._rules.banned.get(place, set())
            if place in self._rules.only:
                barred = set(range(VOCAB)) - self._rules.only[place]
            scores[row, sorted(barred)] = float("-inf")
        return scores


@pytest.mark.parametrize("decoder", [None, packed_decoder])
@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text"])
def test_going_back_equals_decoding_from_scratch_under_the_rules(
    kind: str, num_beams: int, decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against transformers' `generate` with all rules of a note from its first token on."""
    made: dict[int, NoteRules] = {}
    finish = grounded.GroundedNotes.finish

    def watched(self: Any, note: Any, generation: Generation) -> Generation:
        made[note.index] = self._of(note)
        return finish(self, note, generation)

    monkeypatch.setattr(grounded.GroundedNotes, "finish", watched)
    num_compared = 0
    for seed in range(3):
        model, prompts = small_model(kind, seed), some_prompts(seed, 5)
        rules = grounding([refused_numbers(index) for index in range(5)])
        notes = generate(model, prompts, num_beams=num_beams, batch_size=3, decoder=decoder, grounding=rules, **OPTIONS)
        for index, (prompt, note) in enumerate(zip(prompts, notes, strict=True)):
            if not 0 < made[index].num_returns <= MAX_RETURNS:
                continue
            config = GenerationConfig(
                do_sample=False, eos_token_id=list(STOPS), pad_token_id=0, max_new_tokens=24, num_beams=num_beams
            )
            processors = LogitsProcessorList([RulesFromTheStart(made[index], len(prompt))])
            ids = torch.tensor([prompt])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=processors
            )
            tokens = output[0, len(prompt) :].tolist()
            end = next((place for place, token in enumerate(tokens) if token in STOPS), len(tokens))
            assert note.token_ids == tuple(tokens[:end])
            with torch.no_grad():
                log_probs_TV = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0].log_softmax(-1)
            spelled = range(min(end + 1, len(tokens)))  # the stop token counts
            total = sum(float(log_probs_TV[len(prompt) - 1 + k, tokens[k]]) for k in spelled)
            assert note.score == pytest.approx(total / (len(spelled) if num_beams > 1 else 1), abs=1e-3)
            num_compared += 1
    assert num_compared > 5


def test_the_beams_that_are_checked_are_the_live_ones_and_those_that_end_in_this_step() -> None:
    """Two beams by hand; token 1 ends a note."""
    search = BeamSearch(
        BeamRules(num_beams=2), frozenset({1}), num_slots=1, max_new_tokens=4, device=torch.device("cpu")
    )
    note = Note(index=0, prompt=(2,), min_new=0, max_new=4)

    def step(*rows: list[tuple[int, float]]) -> list[tuple[list[int], bool]]:
        tokens, log_probs = (torch.tensor([[pair[part] for pair in row] for row in rows]) for part in (0, 1))
        search.advance([note], Candidates(tokens_Mk=tokens, log_probs_Mk=log_probs))
        return search.hypotheses(note, 0, is_done=False)

    first = [(5, -1.0), (1, -2.0), (6, -3.0), (7, -4.0)]
    assert step(first, first) == [([1], True), ([5], False), ([6], False)]
    after_5, after_6 = [(8, -1.0), (9, -5.0), (7, -6.0), (4, -7.0)], [(8, -1.0), (1, -9.0), (7, -9.0), (4, -9.0)]
    assert step(after_5, after_6) == [([5, 8], False), ([6, 8], False)]
    assert search.hypotheses(note, 0, is_done=True) == []


def test_beams_that_go_back_to_their_first_token_stay_within_the_cache() -> None:
    """All beams read the prompt's last token again, at its one position: a note of one token has no room for K of them."""
    options = {**OPTIONS, "max_new_tokens": 1, "num_beams": 4}
    plain = generate(MODEL, PROMPTS, **options)
    refused = {decode(note.token_ids) for note in plain} - {""}
    rules = grounding([lambda text: [(0, len(text))] if text in refused else []] * 3)
    notes = generate(MODEL, PROMPTS, grounding=rules, **options)
    assert refused and not refused & {decode(note.token_ids) for note in notes}


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_note_goes_back_at_most_max_returns_times(num_beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it ends with the whole sentences before the fact, and records that something was left out."""
    monkeypatch.setattr(grounded_rules, "MAX_RETURNS", 2)
    counts: list[int] = []
    forbid = NoteRules.forbid

    def counted(self: NoteRules, fault: Any) -> int | None:
        target = forbid(self, fault)
        counts.append(self.num_returns)
        return target

    monkeypatch.setattr(NoteRules, "forbid", counted)
    verify = refused_numbers(0, share=1.0)
    notes = generate(MODEL, PROMPTS, num_beams=num_beams, grounding=grounding([verify] * 3), **OPTIONS)
    assert max(counts) == 3
    assert not any(verify(decode(note.token_ids)) for note in notes)
    cut = [note for note in notes if note.score != note.score]
    assert cut and all(note.left_out > 0 and not note.hit_limit for note in cut)
