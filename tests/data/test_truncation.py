"""A dialogue that does not fit loses whole turns, alike in training and decoding, and the run reports the rows' ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import section_parts, section_record, tiny_tokenizer

from medsum_core.data.masking import build_examples
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.truncation import GAP, split_turns, truncate_source
from medsum_core.preview import broken_laws

SECTION = "Plan"


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return build_renderer(tiny_tokenizer())


def dialogue_of(lengths: list[int]) -> str:
    speakers = ("Doctor", "Patient")
    return "\n".join(f"{speakers[index % 2]}: {'cough ' * length}{index}." for index, length in enumerate(lengths))


def length_of(renderer: PromptRenderer, dialogue: str) -> int:
    return len(renderer.prompt_ids(section_parts(dialogue, SECTION)))


def test_a_turn_begins_at_a_speakers_tag() -> None:
    dialogue = "Doctor: Hello.\nHow are you?\n\nPatient: Well.\nGuest_family_1: She is not.\n12:30 was the last dose."
    assert split_turns(dialogue) == [
        "Doctor: Hello.\nHow are you?",
        "Patient: Well.",
        "Guest_family_1: She is not.\n12:30 was the last dose.",
    ]
    assert split_turns("Good morning.\nDoctor: Hello.\nPatient: Hi.") == [
        "Good morning.",
        "Doctor: Hello.",
        "Patient: Hi.",
    ]
    assert split_turns("no tags here\nnor here") == ["no tags here", "nor here"]
    assert split_turns("\n") == []


def test_a_dialogue_that_fits_is_unchanged(renderer: PromptRenderer) -> None:
    dialogue = "  Doctor: Hi.\n\n\nPatient:   Hi.  "
    exact = length_of(renderer, dialogue)
    assert truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=exact) == (dialogue, 0)
    assert truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=exact - 1)[1] > 0


def test_middle_turns_are_dropped_and_the_gap_is_marked(renderer: PromptRenderer) -> None:
    dialogue = dialogue_of([2, 2, 2, 30, 2, 2])
    turns = split_turns(dialogue)
    wanted = "\n".join([*turns[:3], GAP, *turns[4:]])
    assert truncate_source(
        section_parts(dialogue, SECTION), renderer, max_prompt_tokens=length_of(renderer, wanted)
    ) == (wanted, 1)
    # One token less: the turn that was added last, the third of the beginning, is dropped as well.
    wanted_less = "\n".join([*turns[:2], GAP, *turns[4:]])
    budget = length_of(renderer, wanted) - 1
    assert truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=budget) == (wanted_less, 2)


def test_blank_lines_are_dropped_before_any_turn(renderer: PromptRenderer) -> None:
    dialogue = "Doctor: Hi." + "\n" * 200 + "Sit down." + "\n" * 200 + "Patient: Hi."
    assert truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=200) == (
        "Doctor: Hi.\nSit down.\nPatient: Hi.",
        0,
    )


def test_a_turn_that_is_too_long_is_dropped_whole(renderer: PromptRenderer) -> None:
    assert truncate_source(section_parts(dialogue_of([200]), SECTION), renderer, max_prompt_tokens=150) == ("", 1)
    dialogue = dialogue_of([200, 1])
    assert truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=150) == (
        f"{GAP}\nPatient: cough 1.",
        1,
    )


@given(lengths=st.lists(st.integers(0, 25), min_size=1, max_size=25), budget=st.integers(90, 400))
@settings(deadline=None, max_examples=100)
def test_whole_turns_from_both_ends_are_kept(renderer: PromptRenderer, lengths: list[int], budget: int) -> None:
    dialogue = dialogue_of(lengths)
    turns = split_turns(dialogue)
    text, num_dropped = truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=budget)
    if num_dropped in (0, len(turns)):
        assert text == (dialogue if num_dropped == 0 else "")
        return
    assert length_of(renderer, text) <= budget
    before, after = text.split(GAP)
    head, tail = split_turns(before), split_turns(after)
    assert len(head) + len(tail) + num_dropped == len(turns)
    assert head == turns[: len(head)] and tail == turns[len(turns) - len(tail) :]


@given(lengths=st.lists(st.integers(0, 12), min_size=2, max_size=12), budget=st.integers(90, 300))
@settings(deadline=None, max_examples=60)
def test_no_further_turn_would_have_fitted(renderer: PromptRenderer, lengths: list[int], budget: int) -> None:
    dialogue = dialogue_of(lengths)
    turns = split_turns(dialogue)
    text, num_dropped = truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=budget)
    if num_dropped in (0, 1, len(turns)):
        return
    head = len(split_turns(text.split(GAP)[0]))
    tail = len(turns) - num_dropped - head
    for more_head, more_tail in ((head + 1, tail), (head, tail + 1)):
        longer = "\n".join([*turns[:more_head], GAP, *turns[len(turns) - more_tail :]])
        assert length_of(renderer, longer) > budget


@pytest.mark.parametrize("error", [-3, 3])
def test_the_limit_holds_for_the_joint_text_where_turns_alone_have_other_lengths(
    renderer: PromptRenderer, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tokenizers merge across a newline or add a space before each text: the sum of the turns' lengths is inexact."""
    encode = PromptRenderer.text_ids

    def text_ids(self: PromptRenderer, text: str) -> list[int]:
        ids = encode(self, text)
        alone = text.endswith("\n")  # true only for a turn that is tokenized alone
        return [*ids, *[9] * error] if alone and error > 0 else ids[:error] if alone else ids

    monkeypatch.setattr(PromptRenderer, "text_ids", text_ids)
    dialogue = dialogue_of([5] * 30)
    for budget in range(200, 500, 7):
        text, num_dropped = truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=budget)
        assert length_of(renderer, text) <= budget
        assert 0 < num_dropped < 30


def test_each_turn_is_tokenized_once(renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = PromptRenderer.text_ids
    monkeypatch.setattr(PromptRenderer, "text_ids", lambda self, text: calls.append(len(text)) or encode(self, text))
    dialogue = dialogue_of([5] * 400)
    truncate_source(section_parts(dialogue, SECTION), renderer, max_prompt_tokens=500)
    assert len(calls) < 400 + 20
    assert sum(calls) < 4 * len(dialogue)


def test_rows_are_used_or_reported_and_only_a_long_note_costs_more_turns(renderer: PromptRenderer) -> None:
    rows = [
        section_record(id="whole", section_header=SECTION, dialogue=dialogue_of([2, 2]), note="Rest."),
        section_record(id="truncated", section_header=SECTION, dialogue=dialogue_of([5] * 30), note="Rest."),
        section_record(id="long-note", section_header=SECTION, dialogue=dialogue_of([5] * 30), note="Rest. " * 40),
        section_record(id="long-note-short-talk", section_header=SECTION, dialogue="Doctor: Hi.", note="Rest. " * 20),
        section_record(id="one-turn", section_header=SECTION, dialogue=dialogue_of([300]), note="Rest."),
        section_record(id="note-alone", section_header=SECTION, dialogue="Doctor: Hi.", note="Rest. " * 200),
    ]
    examples, report = build_examples(rows, renderer, max_length=400, max_new_tokens=60)
    assert [example.id for example in examples] == ["whole", "truncated", "long-note", "long-note-short-talk"]
    assert report.num_rows == 6 == report.num_used + len(report.set_aside)
    assert set(report.num_turns_dropped) == {"truncated", "long-note"}
    assert report.beyond_reserve == ("long-note",)
    assert [(row.id, row.reason) for row in report.set_aside] == [
        ("one-turn", "no turn of the dialogue fits with its note"),
        ("note-alone", "its note alone does not fit"),
    ]
    pairs = zip(rows[1:3], examples[1:3], strict=True)
    lost = [len(renderer.prompt_ids(row.parts)) - len(example.prompt_ids) for row, example in pairs]
    assert report.num_tokens_dropped == {"truncated": lost[0], "long-note": lost[1]}
    assert [line.split(":")[0] for line in report.lines()] == [
        "3 of 6 notes are longer than --max_new_tokens 60, at which decoding would cut them",
        f"2 source texts lost whole turns or paragraphs (median {sum(report.num_turns_dropped.values()) / 2:g}, worst "
        f"{max(report.num_turns_dropped.values())}; in tokens {sum(lost) / 2:g} and {max(lost)})",
        "of these, 1 are shorter than in decoding, to make room for a note longer than --max_new_tokens",
        "row id one-turn is set aside",
        "row id note-alone is set aside",
    ]
    for row in report.set_aside:  # the --max_length that is reported for a row suffices
        [record] = [record for record in rows if record.id == row.id]
        [example], _ = build_examples([record], renderer, max_length=row.num_tokens_needed, max_new_tokens=60)
        assert example.num_turns_dropped == 0
        assert not build_examples([*rows[:1], record], renderer, max_length=400, max_new_tokens=60)[1].num_turns_dropped


def test_a_long_note_can_change_which_turns_are_dropped_and_not_how_many(renderer: PromptRenderer) -> None:
    """With room for fewer tokens the long second turn is dropped, and the fourth is kept instead."""
    row = section_record(id="1", section_header=SECTION, dialogue=dialogue_of([1, 9, 20, 5, 1]), note="Rest. " * 16)
    turns = split_turns(row.source_text)
    for max_new_tokens, kept in ((64, [turns[0], GAP, *turns[3:]]), (56, [turns[0], GAP, *turns[3:]])):
        [example], report = build_examples([row], renderer, max_length=221, max_new_tokens=max_new_tokens)
        assert list(example.prompt_ids) == renderer.prompt_ids(section_parts("\n".join(kept), SECTION))
        assert example.num_turns_dropped == 2 and report.beyond_reserve == (("1",) if max_new_tokens < 64 else ())
        assert broken_laws(example, row, renderer, max_prompt_tokens=221 - max_new_tokens) == []
    in_decoding, num_dropped = truncate_source(row.parts, renderer, max_prompt_tokens=221 - 56)
    assert (in_decoding, num_dropped) == ("\n".join([*turns[:2], GAP, turns[4]]), 2)


def test_training_and_decoding_truncate_alike(renderer: PromptRenderer) -> None:
    for lengths in ([3], [5] * 30, [0, 60, 0]):
        row = section_record(id="1", section_header=SECTION, dialogue=dialogue_of(lengths), note="Rest.")
        [example], _ = build_examples([row], renderer, max_length=300, max_new_tokens=64)
        text, dropped = truncate_source(section_parts(row.source_text, SECTION), renderer, max_prompt_tokens=300 - 64)
        assert list(example.input_ids[: example.num_prompt_tokens]) == renderer.prompt_ids(section_parts(text, SECTION))
        assert example.num_turns_dropped == dropped
