"""The rule of grounded decoding, greedy, restated: anew from a note's first token after each fault, without a cache."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from decoding_models import VOCAB, small_model, some_prompts
from small_language import FULL_STOPS, STOPS, decode, grounding, piece, refused_numbers

from medsum_core.generation.generate import generate
from medsum_core.generation.grounded_rules import MAX_RETURNS, Fault, NoteRules


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
            str(written[:length]) in {*self.barred, *self.must_end} and len(decode(written[:length])) >= begins[-1] - 1
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


WORDS = ["<eos>", ".", "He", "She", "Now", "Then", " took", " 40", " mg", " daily", " It", " helps", " ", "40", "41"]


def spell(text: str) -> tuple[int, ...]:
    return tuple(WORDS.index(word) for word in re.findall(r" ?\w+|\.", text))


def rules_without_numbers() -> NoteRules:
    """Refuses every number; a token is a word with the blank before it."""
    return NoteRules(
        verify=lambda text: [match.span() for match in re.finditer(r"\d+", text)],
        decode=lambda tokens: "".join(WORDS[token] for token in tokens).strip(),
        full_stops=frozenset({1}),
        stops=frozenset({0}),
        marks={},
    )


@pytest.mark.parametrize(
    ("ruled", "text", "sentence"),
    [
        (None, "He took 40 mg daily", None),  # the sentence may continue
        (None, "He took 40 mg. It", 0),
        (None, "He took mg. It took 40 mg. It", 4),
        (None, "He took mg. 40 mg. It", 4),  # the fact begins its sentence
        ("He took", "He took 40", None),
        ("He took", "He took 40 mg", None),  # the last word may continue
        ("He took", "He took 40 mg daily", 0),
        ("", "He took 40 mg daily", 0),
        ("She took", "He took 40 mg daily", None),  # a rule for another beginning
        ("He took mg.", "He took mg. It took 40 mg daily", 4),  # a rule for the sentence's first token
        ("He took", "He took mg. It helps 40 mg daily", None),  # a rule for an earlier sentence
    ],
)
def test_a_fact_is_checked_when_its_sentence_ends_or_earlier_where_a_rule_changed_it(
    ruled: str | None, text: str, sentence: int | None
) -> None:
    """`sentence`: the first token of the one with the fault that is found."""
    rules, tokens = rules_without_numbers(), spell(text)
    if ruled is not None:
        rules.banned[spell(ruled)] = {9}
    expected = None
    if sentence is not None:
        expected = Fault(tokens=tokens, sentence=sentence, start=tokens.index(7), clause=None)
    assert rules.fault(tokens, ended=False) == expected


def test_a_sentence_begins_anew_after_four_tries_and_the_note_ends_after_three_beginnings() -> None:
    rules = rules_without_numbers()

    def go_back(text: str) -> int | None:
        fault = rules.fault(spell(text), ended=True)
        assert fault is not None
        return rules.forbid(fault)

    for beginning in ("He", "She", "Now"):
        assert not rules.only
        assert [go_back(f"{beginning} 40 mg.") for _ in range(5)] == [1, 1, 1, 1, 0]
    assert rules.banned[()] == {2, 3, 4} and rules.only == {(): frozenset({0})}
    assert go_back("Then 40 mg.") == 1  # the sixteenth return, which is the last
    assert go_back("Then 40 mg.") is None


def test_after_one_number_the_blank_before_it_is_banned_where_it_is_a_token() -> None:
    rules, before = rules_without_numbers(), spell("He took")
    for number, place in ((13, 3), (14, 2)):
        fault = rules.fault((*before, 12, number, *spell(" mg.")), ended=True)
        assert fault is not None and rules.forbid(fault) == place
    assert rules.banned == {(*before, 12): {13}, before: {12}}
    assert rules.num_left_out((*before, 9)) == 1 and rules.num_left_out((2, 11)) == 0
