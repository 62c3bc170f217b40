"""The rule of grounded decoding, greedy, restated: anew from a note's first token after each fault, without a cache."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from decoding_models import VOCAB, small_model, some_prompts
from small_language import FULL_STOPS, STOPS, decode, grounding, piece, refused_numbers

from medsum_core.generation.generate import generate
from medsum_core.generation.grounded_rules import MAX_RETURNS


class ByHand:
    """The rule for one greedy note, anew from its first token after each fault, without a cache."""

    def __init__(self, model: Any, prompt: list[int], verify: Any) -> None:
        self.model, self.prompt, self.verify = model, prompt, verify
        self.barred: dict[str, set[int]] = {}  # by the beginning of a note, its tokens in words
        self.must_end: dict[str, frozenset[int]] = {}
        self.tries: dict[str, int] = {}

    def note(self, limit: int) -> tuple[int, ...]:
        for _ in range(MAX_RETURNS + 1):
            note, fault = self._until_fault(limit)
            if fault is None:
                return tuple(note)
            self._forbid(note, *fault)
        raise AssertionError("more faults than this test is for")

    def _until_fault(self, limit: int) -> tuple[list[int], tuple[int, int] | None]:
        written: list[int] = []
        while True:
            with torch.no_grad():
                logits_V = self.model(torch.tensor([[*self.prompt, *written]]), use_cache=False).logits[0, -1]
            allowed = self.must_end.get(str(written), frozenset(range(VOCAB))) - self.barred.get(str(written), set())
            token = max(sorted(allowed), key=lambda choice: float(logits_V[choice]))
            ended = token in STOPS or len(written) + 1 == limit
            written += [] if token in STOPS else [token]
            fault = self._fault(written, ended=ended)
            if ended or fault is not None:
                return written, fault

    def _fault(self, written: list[int], *, ended: bool) -> tuple[int, int] | None:
        """The tokens in which the fact and its sentence begin."""
        text = decode(written)
        breaks = [match.end() for match in re.finditer(r"(?<=[a-z0-9]{2})\.+(?=\s)", text)]
        faults = [start for start, end in self.verify(text) if ended or (breaks and end <= breaks[-1])]
        begins = [0, *(place + 1 for place in breaks)]
        changed = any(
            str(written[:length]) in {*self.barred, *self.must_end} and len(decode(written[:length])) >= begins[-1]
            for length in range(len(written))
        )
        if changed and not ended and not faults:
            last_word = text[: max(text.rfind(" "), 0)].rstrip().rfind(" ")
            faults = [start for start, end in self.verify(text) if end <= last_word]
        if not faults:
            return None
        starts = [len(decode(written[: place + 1])) for place in range(len(written))]
        begin = max(place for place in begins if place <= faults[0])
        return tuple(next(k for k, end in enumerate(starts) if end > at) for at in (faults[0], begin))

    def _forbid(self, written: list[int], start: int, sentence: int) -> None:
        opening = str(written[:sentence])
        self.tries[opening] = self.tries.get(opening, 0) + 1
        if self.tries[opening] == 5:
            del self.tries[opening]
            if (clause := self._clause(written, start, sentence)) is not None:
                self.must_end[str(written[:clause])] = FULL_STOPS | set(STOPS)
                return
            self.barred.setdefault(opening, set()).add(written[sentence])
            if len(self.barred[opening]) == 3:
                self.must_end[opening] = frozenset(STOPS)
            return
        after_blank = start - 1 > sentence and piece(written[start - 1]) == " "
        if after_blank and str(written[:start]) in self.barred:
            start -= 1
        self.barred.setdefault(str(written[:start]), set()).add(written[start])

    def _clause(self, written: list[int], start: int, sentence: int) -> int | None:
        """The tokens up to the last whole word before the fact, if there are three."""
        text = decode([*written[:start], 0])[:-1]
        begin = len(decode([*written[:sentence], 0])) - 1
        words = re.findall(r"\S+(?= )", text[begin:])
        if len(words) < 3:
            return None
        end = begin + len(text[begin:].rpartition(" ")[0].rstrip())
        length = next(k for k in range(start + 1) if len(decode(written[:k])) >= end)
        return length if len(decode(written[:length])) == end and str(written[:length]) not in self.must_end else None


@pytest.mark.parametrize("seed", range(4))
def test_greedy_notes_are_those_of_the_rule_by_hand(seed: int) -> None:
    model, prompts = small_model("gemma", seed), some_prompts(seed, 8)
    verifiers = [refused_numbers(index, share=0.6) for index in range(8)]
    options: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 20}
    plain = generate(model, prompts, **options)
    notes = generate(model, prompts, batch_size=3, grounding=grounding(verifiers), **options)
    assert sum(note != before for note, before in zip(notes, plain, strict=True)) > 2
    for prompt, verify, note in zip(prompts, verifiers, notes, strict=True):
        assert note.token_ids == ByHand(model, prompt, verify).note(20)
