"""Which tokens are trained on, with all token ids written out. Needs no weights, takes seconds.

The toy vocabulary has a few words, some with the space before them, so that a row can be read from its ids:

    position     0      1     2       3        4       5         6       7       8        9
    token      <bos>  <ask>   Plan  <talk>  Cough   .         <note>   Rest     .      </turn>
    input_ids    2      4     10      5       11      12        6       13      12        7
    targets    -100   -100   -100   -100    -100    -100       13       12       7      -100
"""

from __future__ import annotations

import pytest
from hypothesis import example as example_case
from hypothesis import given, settings
from hypothesis import strategies as st
from support import section_record, tiny_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medsum_core.data.masking import IGNORE_INDEX, build_example, build_examples
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.records import Record
from medsum_core.errors import InputError
from medsum_core.tasks.built_in.section import TASK as SECTION

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "<ask>", "<talk>", "<note>", "</turn>", "\n", "Plan"]
WORDS += [" Plan", "Cough", ".", "Rest", " three", " days", "\u00e9t\u00e9", " Cough"]
X = IGNORE_INDEX


def toy_renderer(*, pad_token_id: int = 0) -> PromptRenderer:
    """A renderer of the row <bos> <ask> SECTION <talk> DIALOGUE <note> NOTE </turn>."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[^\s.]+|\.|\n"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PromptRenderer(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"),
        style="chat",
        task=SECTION,
        fixed_ids=((2, 4), (5,), (6,)),
        stop_token_id=7,
        stop_token_ids=(7, 1),
        pad_token_id=pad_token_id,
    )


def record(note: str, *, dialogue: str = "Cough.", section_header: str = "Plan", id: str = "1") -> Record:
    return section_record(id=id, section_header=section_header, dialogue=dialogue, note=note)


def build(row: Record, renderer: PromptRenderer, **options):
    return build_example(row, renderer, **{"max_length": 512, "max_new_tokens": 64, **options})


def test_note_and_stop_token_are_the_only_targets_and_already_shifted() -> None:
    example = build(record("Rest."), toy_renderer())
    #                            bos ask Plan talk Cough .  note Rest . </turn>
    assert example.input_ids == (2, 4, 10, 5, 11, 12, 6, 13, 12, 7)
    assert example.targets == (X, X, X, X, X, X, 13, 12, 7, X)
    assert (example.num_prompt_tokens, example.num_targets, example.num_tokens) == (7, 3, 10)
    assert (example.num_turns_dropped, example.beyond_reserve) == (0, False)


def test_masking_depends_on_the_prompts_length_never_on_token_ids() -> None:
    # The pad token is the stop token (as in SmolLM2), and the note begins with the same token. A mask by id would
    # leave the stop token out of the loss, and the model would never learn to stop.
    renderer = toy_renderer(pad_token_id=7)
    example = build(record("</turn> Plan."), renderer)
    assert example.input_ids == (2, 4, 10, 5, 11, 12, 6, 7, 10, 12, 7)
    assert example.targets == (X, X, X, X, X, X, 7, 10, 12, 7, X)


def test_white_space_around_the_note_is_stripped() -> None:
    assert build(record(" \n Rest.\n\n"), toy_renderer()) == build(record("Rest."), toy_renderer())


def test_exactly_the_tokens_of_ignored_characters_have_no_target() -> None:
    note = "Rest three days."  # tokens: Rest[0:4] " three"[4:10] " days"[10:15] .[15:16]
    renderer = toy_renderer()
    whole = build(record(note), renderer)
    assert whole.targets == (X, X, X, X, X, X, 13, 14, 15, 12, 7, X)
    start = note.index("three")
    masked = build(record(note), renderer, ignored_spans=[(start, start + len("three"))])
    assert masked.targets == (X, X, X, X, X, X, 13, X, 15, 12, 7, X)
    assert masked.input_ids == whole.input_ids  # still in the input, only not trained on
    two = build(record(note), renderer, ignored_spans=[(0, 1), (14, 16)])
    assert two.targets == (X, X, X, X, X, X, X, 14, X, X, 7, X)
    assert (
        build(record(note), renderer, ignored_spans=[(4, 4)]).targets == whole.targets
    )  # an empty span ignores nothing


def test_stop_token_is_trained_on_even_if_the_whole_note_is_ignored() -> None:
    example = build(record("Rest."), toy_renderer(), ignored_spans=[(0, 100)])
    assert example.targets == (X, X, X, X, X, X, X, X, 7, X)
    assert example.num_targets == 1


def test_ignored_spans_are_positions_in_the_note_before_it_is_stripped() -> None:
    example = build(record("\n\nRest three days."), toy_renderer(), ignored_spans=[(2, 6)])
    assert example.targets == (X, X, X, X, X, X, X, 14, 15, 12, 7, X)


def test_a_note_longer_than_the_limit_is_set_aside_never_truncated() -> None:
    rows = [record("Rest.", id="a"), record("Rest" + " three" * 30, id="b"), record("Rest. Plan.", id="c")]
    examples, report = build_examples(rows, toy_renderer(), max_length=20, max_new_tokens=8)
    assert [example.id for example in examples] == ["a", "c"]
    [left_out] = report.set_aside
    # 31 note tokens + 7 prompt tokens + the stop token = 39
    assert (left_out.id, left_out.num_note_tokens, left_out.num_tokens_needed, left_out.reason) == (
        "b",
        31,
        39,
        "its note alone does not fit",
    )
    assert report.lines() == [
        "1 of 3 notes are longer than --max_new_tokens 8, at which decoding would cut them: 32 fits 95 % of them, 32 "
        "all; ids, the longest first: b",
        "row id b is set aside: its note alone does not fit (31 tokens); --max_length 39 would use it whole",
    ]
    for max_length, alone in ((36, True), (37, False)):  # at 37 the prompt fits, if it has no dialogue
        _, report = build_examples(rows[:2], toy_renderer(), max_length=max_length, max_new_tokens=8)
        assert [row.reason == "its note alone does not fit" for row in report.set_aside] == [alone]
    assert build(rows[1], toy_renderer(), max_length=38, max_new_tokens=8) is None
    assert build(rows[1], toy_renderer(), max_length=39, max_new_tokens=8).num_tokens == 39


@given(
    turns=st.lists(st.text("ab c.", min_size=1, max_size=30), min_size=1, max_size=12),
    note=st.text("abc \u00e9\u6f22\U0001f600.\n", min_size=1, max_size=60).filter(str.strip),
    max_length=st.integers(40, 400),
    max_new_tokens=st.integers(1, 39),
)
@settings(deadline=None, max_examples=60)
def test_targets_do_not_depend_on_max_length(turns: list[str], note: str, max_length: int, max_new_tokens: int) -> None:
    renderer = build_renderer(tiny_tokenizer())
    row = record(note, dialogue="\n".join(f"Doctor: {turn}" for turn in turns))
    whole = build(row, renderer, max_length=100_000)
    example = build(row, renderer, max_length=max_length, max_new_tokens=max_new_tokens)
    if example is None:
        return
    assert example.num_tokens <= max_length
    trained_on = [target for target in example.targets if target != X]
    assert trained_on == [target for target in whole.targets if target != X] == renderer.note_ids(note)
    assert list(example.input_ids[example.num_prompt_tokens :]) == trained_on
    assert set(example.targets[: example.num_prompt_tokens - 1]) == {X} and example.targets[-1] == X
    assert all(target in (X, nxt) for target, nxt in zip(example.targets, example.input_ids[1:], strict=False))


@given(
    note=st.text("ab dose\u00e9\u6f22\U0001f600.\n", min_size=1, max_size=40).map(str.strip).filter(bool),
    spans=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair))), max_size=3
    ),
)
@example_case(note="da", spans=[(1, 1)])  # an empty span, inside a token
@settings(deadline=None, max_examples=150)
def test_ignored_tokens_are_those_with_a_byte_in_an_ignored_span(note: str, spans: list[tuple[int, int]]) -> None:
    """A byte-level token may be a part of a character, so the reference counts bytes."""
    renderer = build_renderer(tiny_tokenizer())
    example = build(record(note), renderer, ignored_spans=spans)
    owner = [index for index, char in enumerate(note) for _ in char.encode()]  # byte -> character
    ids = renderer.note_ids(note)[:-1]
    expected, byte = [], 0
    for token in ids:
        size = len(renderer.tokenizer.convert_ids_to_tokens(token))  # written with one character for each byte
        touched = {owner[position] for position in range(byte, byte + size)}
        expected.append(X if any(start <= char < end for start, end in spans for char in touched) else token)
        byte += size
    assert byte == len(owner)
    assert list(example.targets[example.num_prompt_tokens - 1 :]) == [*expected, renderer.stop_token_id, X]


def test_a_row_without_a_note_is_refused_by_id_without_its_text() -> None:
    with pytest.raises(InputError, match="row id 77 has no note") as caught:
        build(record(" \n", dialogue="Cough secret.", id="77"), toy_renderer())
    assert "secret" not in str(caught.value)


def test_a_note_that_the_vocabulary_cannot_encode_is_reported() -> None:
    rows = [record("Rest.", id="a"), record("Rest fever.", id="b")]  # " fever" is <unk>
    _, report = build_examples(rows, toy_renderer(), max_length=64, max_new_tokens=8)
    assert report.inexact == ("b",)
    assert report.lines() == [
        "1 notes hold characters that this model's vocabulary lacks; they are learnt without them: ids b"
    ]


def test_if_no_row_fits_the_error_names_the_max_length_that_would() -> None:
    with pytest.raises(
        InputError, match=r"none of the 2 rows fits --max_length 10: the shortest needs --max_length 17"
    ):
        build_examples([record("Rest" + " three" * n) for n in (8, 9)], toy_renderer(), max_length=10, max_new_tokens=2)


def test_max_new_tokens_that_leave_no_room_for_a_prompt_are_refused() -> None:
    with pytest.raises(InputError, match="--max_new_tokens 64 leaves no prompt within --max_length 64"):
        build_examples([record("Rest.")], toy_renderer(), max_length=64, max_new_tokens=64)
