"""Training and decoding have the same prompt: its text, its laws, and texts that try to forge control tokens.

The laws are checked on a tiny tokenizer and, where their packages are installed, on those of Gemma 3 and SmolLM2.
"""

from __future__ import annotations

import re
import sys
from copy import copy
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import GEMMA_TEMPLATE, section_parts, section_record, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from medsum_core.data import chat_template
from medsum_core.data.masking import IGNORE_INDEX, build_example
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.served_template import served_template
from medsum_core.errors import InputError
from medsum_core.model.embedded import EMBEDDED_NAME, SMOLLM2_NAME, embedded_folder

BODY = """Write one section of a clinical note from the dialogue below. \
State only facts that are said in the dialogue, and leave out what is not said.

Section: History of present illness

Dialogue:
Doctor: What brings you in?
Patient: A cough."""
DIALOGUE = "Doctor: What brings you in?\nPatient: A cough."
SMOL_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
EXPECTED_PROMPTS = {
    "tiny plain": f"<bos>{BODY}\n\nNote:\n",
    "gemma3 plain": f"<bos>{BODY}\n\nNote:\n",
    "tiny chat": f"<bos><start_of_turn>user\n{BODY}<end_of_turn>\n<start_of_turn>model\n",
    "gemma3 chat": f"<bos><start_of_turn>user\n{BODY}<end_of_turn>\n<start_of_turn>model\n",
    "smollm2 chat": f"{SMOL_SYSTEM}<|im_start|>user\n{BODY}<|im_end|>\n<|im_start|>assistant\n",
}
STOPS = {
    "tiny plain": ["<eos>"],
    "gemma3 plain": ["<eos>"],
    "tiny chat": ["<end_of_turn>", "<eos>"],
    "gemma3 chat": ["<end_of_turn>", "<eos>"],
    "smollm2 chat": ["<|im_end|>"],  # also its EOS and pad token; its BOS is <|im_start|>, which begins every turn
}
# Excluded are characters that a vocabulary can't encode: U+2581, which stands for the space in Gemma's, and some C0
# controls and the planes from 2 on, whose bytes SmolLM2's lacks. `BuildReport.inexact` names rows that have them.
ENCODABLE = st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0x1FFFF, exclude_characters="\u2581")
ANY_TEXT = st.text(st.one_of(ENCODABLE, st.sampled_from("\n\t")))
CONTROL_NAMES = [
    "<end_of_turn>",
    "<start_of_turn>model\n",
    "<eos>",
    "<bos>",
    "<pad>",
    "<|im_end|>",
    "<|im_start|>",
    "\nNote:\n",
]
HOSTILE_TEXT = st.lists(st.one_of(ANY_TEXT, st.sampled_from(CONTROL_NAMES)), max_size=5).map("".join)


@lru_cache
def embedded_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(embedded_folder(name))
    except InputError as error:
        pytest.skip(str(error))


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    family, style = name.split()
    if family == "smollm2":
        return embedded_tokenizer(SMOLLM2_NAME)
    tokenizer = copy(embedded_tokenizer(EMBEDDED_NAME) if family == "gemma3" else tiny_tokenizer())
    tokenizer.chat_template = GEMMA_TEMPLATE if style == "chat" else None
    return tokenizer


@pytest.fixture(scope="module", params=EXPECTED_PROMPTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def renderer(name: str) -> PromptRenderer:
    return build_renderer(tokenizer_of(name))


def text_of(renderer: PromptRenderer, ids: list[int]) -> str:
    return renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_prompt_is_the_text_written_out_here(name: str, renderer: PromptRenderer) -> None:
    assert renderer.style == name.split()[1]
    ids = renderer.prompt_ids(section_parts(DIALOGUE, "GENHX"))
    assert text_of(renderer, ids) == EXPECTED_PROMPTS[name]
    assert (
        renderer.prompt_ids(section_parts(f"\n {DIALOGUE} \n", "History of present\nillness")) == ids
    )  # a section's name for its code; outer white space is stripped


def test_pieces_that_are_tokenized_alone_give_the_tokens_of_the_joint_text(name: str, renderer: PromptRenderer) -> None:
    joint = renderer.tokenizer(EXPECTED_PROMPTS[name], add_special_tokens=False)["input_ids"]
    assert renderer.prompt_ids(section_parts(DIALOGUE, "GENHX")) == joint
    if renderer.style == "chat":
        messages = [{"role": "user", "content": BODY}]
        rendered = renderer.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert rendered == joint
    with_note = EXPECTED_PROMPTS[name] + "Dry cough.\n\n2 mg." + STOPS[name][0]
    note_ids = renderer.note_ids("Dry cough.\n\n2 mg.")
    assert joint + note_ids == renderer.tokenizer(with_note, add_special_tokens=False)["input_ids"]


def test_a_server_with_our_template_builds_the_same_prompt(name: str, renderer: PromptRenderer) -> None:
    joint = renderer.tokenizer(EXPECTED_PROMPTS[name], add_special_tokens=False)["input_ids"]
    served = copy(renderer.tokenizer)
    served.chat_template = served_template(renderer)
    message = [{"role": "user", "content": f"{DIALOGUE}\n"}]
    assert served.apply_chat_template(message, section="GENHX", add_generation_prompt=True, return_dict=False) == joint


def test_stop_tokens_are_those_written_out_here(name: str, renderer: PromptRenderer) -> None:
    names = [renderer.tokenizer.convert_ids_to_tokens(index) for index in renderer.stop_token_ids]
    assert names == STOPS[name]
    assert renderer.stop_token_id == renderer.stop_token_ids[0]
    assert renderer.note_ids("Rest.")[-1] == renderer.stop_token_id


def test_bos_occurs_only_where_the_template_writes_it(name: str, renderer: PromptRenderer) -> None:
    ids = renderer.prompt_ids(section_parts("<bos> <|im_start|>", "<bos>"))
    bos = renderer.tokenizer.bos_token_id
    assert ids[0] == bos and ids[1] != bos
    assert ids.count(bos) == EXPECTED_PROMPTS[name].count(
        renderer.tokenizer.bos_token
    )  # one; for SmolLM2 one in each of its three turns


@given(dialogue=HOSTILE_TEXT, section=HOSTILE_TEXT.filter(str.strip), note=HOSTILE_TEXT.filter(str.strip))
@settings(deadline=None, max_examples=60)
def test_the_laws_hold_for_every_row(renderer: PromptRenderer, dialogue: str, section: str, note: str) -> None:
    dialogue = f"Doctor: {dialogue}"
    record = section_record(id="1", section_header=section, dialogue=dialogue, note=note)
    example = build_example(record, renderer, max_length=100_000, max_new_tokens=1000)
    prompt = list(example.input_ids[: example.num_prompt_tokens])
    assert prompt == renderer.prompt_ids(section_parts(dialogue, section))
    targets = [target for target in example.targets if target != IGNORE_INDEX]
    assert renderer.decode(targets) == note.strip()
    assert targets[-1] == renderer.stop_token_id
    assert not set(targets[:-1]) & controls_of(renderer)
    fixed = tuple(renderer.all_fixed_ids)
    assert control_counts(renderer, prompt) == control_counts(renderer, fixed)


@lru_cache
def names_of_controls(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def controls_of(renderer: PromptRenderer) -> set[int]:
    return set(names_of_controls(renderer.tokenizer))


def control_counts(renderer: PromptRenderer, ids: list[int] | tuple[int, ...]) -> dict[int, int]:
    return {index: list(ids).count(index) for index in controls_of(renderer) & set(ids)}


def test_the_name_of_a_control_token_in_a_text_makes_no_control_token(renderer: PromptRenderer) -> None:
    names = list(names_of_controls(renderer.tokenizer).values())  # Gemma has 6,242 of them
    for text in (" ".join(names), "".join(names), "\n".join(names), "x".join(names), f"{names[0]}{DIALOGUE}"):
        ids = renderer.text_ids(text)
        assert not controls_of(renderer) & set(ids)
        assert text_of(renderer, ids) == text


@given(note=ANY_TEXT.filter(str.strip))
@settings(deadline=None, max_examples=60)
def test_offsets_cover_the_note(renderer: PromptRenderer, note: str) -> None:
    offsets = renderer.note_offsets(note)
    assert len(offsets) == len(renderer.note_ids(note)) - 1
    first, last = len(note) - len(note.lstrip()), len(note.rstrip())
    covered = {char for start, end in offsets for char in range(start, end)}
    assert covered == set(range(first, last))
    assert offsets == sorted(offsets)


@given(note=ANY_TEXT.filter(str.strip))
@settings(deadline=None, max_examples=60)
def test_a_token_of_whole_characters_decodes_to_the_text_at_its_offsets(renderer: PromptRenderer, note: str) -> None:
    """A token of a part of a character decodes to U+FFFD and is left out."""
    for token, (start, end) in zip(renderer.note_ids(note), renderer.note_offsets(note), strict=False):
        text = text_of(renderer, [token])
        if "\ufffd" not in text:
            assert note[start:end] == text


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow: Any = SimpleNamespace(is_fast=False)
    with pytest.raises(InputError, match="no character offsets"):
        replace(build_renderer(tiny_tokenizer()), tokenizer=slow).note_offsets("Rest.")


def test_decoding_ends_at_the_first_stop_token(renderer: PromptRenderer) -> None:
    ids = renderer.note_ids("Rest.")
    for stop in renderer.stop_token_ids:
        assert renderer.decode([*ids[:-1], stop, *ids]) == "Rest."
    assert renderer.decode(ids[:-1]) == "Rest."  # cut off by a length limit
    assert renderer.decode([]) == renderer.decode(ids[-1:]) == ""
    assert renderer.decode([*renderer.text_ids("\n\n "), *ids]) == "Rest."


# ---- unusable tokenizers and templates, and templates with peculiarities


def chat_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_prompt_style_must_be_known_and_fit_the_tokenizer() -> None:
    with pytest.raises(InputError, match="--prompt_style poem: choose one of auto, chat, plain"):
        build_renderer(tiny_tokenizer(), style="poem")
    with pytest.raises(InputError, match="no chat template"):
        build_renderer(tiny_tokenizer(chat=False), style="chat")
    assert build_renderer(tiny_tokenizer(), style="auto").style == "chat"
    assert build_renderer(tiny_tokenizer(chat=False), style="auto").style == "plain"


def test_plain_prompt_of_a_chat_model_ends_in_eos_and_stops_at_turns_too() -> None:
    renderer = build_renderer(tiny_tokenizer(), style="plain")
    names = renderer.tokenizer.convert_ids_to_tokens(list(renderer.stop_token_ids))
    assert names == ["<eos>", "<end_of_turn>"]
    assert text_of(renderer, renderer.prompt_ids(section_parts(DIALOGUE, "GENHX"))) == EXPECTED_PROMPTS["tiny plain"]


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_a_template_that_raises_is_refused_for_chat_and_unused_for_plain(style: str) -> None:
    tokenizer = chat_with("{{ raise_exception('no such role') }}")
    if style == "plain":
        assert build_renderer(tokenizer, style="plain").stop_token_ids == (tokenizer.eos_token_id,)
        return
    with pytest.raises(InputError, match=r"no such role.*use --prompt_style plain"):
        build_renderer(tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}<eos>{% endfor %}", "changes or repeats"),
        ("{% for m in messages %}{{ m['content'] | lower }}<eos>{% endfor %}", "changes or repeats"),
        (
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
            "no control token after a message",
        ),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_renderer(chat_with(template))


def test_template_without_bos_gets_none() -> None:
    renderer = build_renderer(chat_with("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"))
    assert renderer.tokenizer.bos_token_id not in renderer.prompt_ids(section_parts(DIALOGUE, "GENHX"))


def test_a_template_with_a_date_variable_gets_a_fixed_date() -> None:
    """As in Llama 3.2: without a `date_string` it writes today's date, and decoding tomorrow would see another prompt."""
    date = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
    renderer = build_renderer(chat_with(date + "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"))
    assert text_of(renderer, renderer.prompt_ids(section_parts(DIALOGUE, "GENHX"))).startswith("26 Jul 2024")


def test_stop_token_that_is_no_token_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>")), unk_token="<unk>"
    )
    with pytest.raises(InputError, match="names no end-of-text token"):
        build_renderer(tokenizer)
    tokenizer._special_tokens_map["eos_token"] = "</s>"  # a name that the vocabulary does not have
    with pytest.raises(InputError, match="no such token"):
        build_renderer(tokenizer)


def test_pad_may_be_absent_or_equal_to_eos() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<eos>"
    assert build_renderer(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.pad_token = None
    assert build_renderer(tokenizer).pad_token_id in build_renderer(tokenizer).stop_token_ids


def unmarked(turn: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose token for a turn is not marked as special, so that it is matched in any text."""
    tokenizer = chat_with("{% for m in messages %}" + turn + "{{ m['content'] }}<eos>{% endfor %}")
    tokenizer.add_tokens([AddedToken(turn, special=False)])
    return tokenizer


def test_a_turn_token_that_is_not_marked_as_special_is_split_in_a_dialogue() -> None:
    renderer = build_renderer(unmarked("<turn>"))
    turn = renderer.tokenizer.convert_tokens_to_ids("<turn>")
    assert renderer.all_fixed_ids.count(turn) == 1 and turn in renderer.tokenizer("a<turn>").input_ids
    assert turn not in renderer.text_ids("hello <turn> <<turn><turn>")


def test_tokenizer_that_lets_a_dialogue_forge_turns_is_refused() -> None:
    """The name of a control token is split after its first character, so one of a single character can't be."""
    with pytest.raises(
        InputError, match=re.escape("lets a dialogue forge its control tokens (\u00a7): use another model")
    ):
        build_renderer(unmarked("\u00a7"))


@pytest.mark.parametrize("section", ["", " \n "])
def test_empty_section_is_refused(section: str) -> None:
    with pytest.raises(InputError, match="section header is empty"):
        build_renderer(tiny_tokenizer()).prompt_ids(section_parts(DIALOGUE, section))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 0.2 s"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ raise_exception('\x1b[31m' + 'x' * 999) }}", r"\(\\x1b\[31mx{190,200}\)"),
    ],
)
def test_a_template_that_never_ends_or_fails_is_refused(
    monkeypatch: pytest.MonkeyPatch, template: str, message: str
) -> None:
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.2)
    trace = sys.gettrace()
    with pytest.raises(InputError, match=message):
        build_renderer(chat_with(template))
    assert sys.gettrace() is trace
