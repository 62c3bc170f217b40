"""The served chat template, rendered and tokenized by transformers alone, gives the training prompt token for token."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import GEMMA_TEMPLATE, tiny_config, tiny_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medsum_core.data.prompt import PromptRenderer, build_renderer, control_token_ids
from medsum_core.data.served_template import arguments_of, base_template, refuse_unequal, served_template
from medsum_core.errors import InputError
from medsum_core.model.base import load_tokenizer
from medsum_core.tasks.find import find_task, read_task_file, task_names
from medsum_core.tasks.section_names import SECTION_NAMES
from medsum_core.tasks.task import Answer, Part, Task, Truncation

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (  # with a date, an extra argument, outer white space and letters outside ASCII
    "\n{%- set names = {'user': 'user'} %}{{- bos_token }}\n{%- if not date_string is defined %}"
    '{%- set date_string = "1 Jan" %}{%- endif %}'
    "{{- '<|im_start|>system\n\nToday Date: ' + date_string + ' \\\"é\U0001f600{{%}\\'  \n' + tone + '<|im_end|>' }}"
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
)
FORMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "gemma": (GEMMA_TEMPLATE, {"style": "chat"}),
    "chatml": (CHATML, {"style": "chat"}),
    "llama3": (LLAMA3, {"style": "chat", "template_kwargs": {"tone": "plainly"}}),
    "plain": (None, {"style": "plain"}),
    "plain over gemma": (GEMMA_TEMPLATE, {"style": "plain"}),
}
OWN = Task(
    name="of one's own",
    instruction="Say \"what\" to do, in {{ words }} {% raw %} \u2028 'and' \\n.",
    parts=(
        Part(name="history", label="History:", columns=("h",)),
        Part(name="reader", label="Reader:", columns=("r",), form="line"),
        Part(name="summary", label="Summary:", columns=("s",)),
        Part(name="length", label="Length:", columns=("l",), form="line"),
    ),
    answer=Answer(label="Told:", columns=("t",)),
    truncate=Truncation(part="history", unit="paragraphs"),
)
OF_TEXT = [name for name in task_names() if find_task(name).images_part is None]
TASKS = {**{name: find_task(name) for name in OF_TEXT}, "own": OWN}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
DIALOGUE = st.lists(
    st.one_of(TEXT, st.sampled_from(["Doctor: Any cough?", "\n", "  ", "\r\n", "\t", "\x0b"])), max_size=6
)
SECTION = st.sampled_from([*SECTION_NAMES, *SECTION_NAMES.values(), "genhx", " Family\nHISTORY ", "Visit 2", "plan"])
IM = ["<|im_start|>", "<|im_end|>"]
NAMES = ("<eos>", "<start_of_turn>", "<|im_end|>")


def tokenizer_of(form: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>", *IM]})
    tokenizer.chat_template = FORMS[form][0]
    return tokenizer


@lru_cache
def pair(form: str, task: str) -> tuple[PromptRenderer, PreTrainedTokenizerFast]:
    """A renderer, and the tokenizer of a server with our template."""
    renderer = build_renderer(tokenizer_of(form), task=TASKS[task], **FORMS[form][1])
    served = tokenizer_of(form)
    served.chat_template = served_template(renderer)
    return renderer, served


def served_ids(served: PreTrainedTokenizerFast, task: Task, parts: dict[str, str], **options: Any) -> list[int]:
    arguments = {name: text for name, text in parts.items() if name != task.source}
    message = {"role": "user", "content": parts[task.source]}
    return served.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=True, return_dict=False, **{**arguments, **options}
    )


def has_control_name(parts: dict[str, str]) -> bool:
    return any(
        name in text for text in parts.values() for name in ("<bos>", "<pad>", "<unk>", "<end_of_turn>", *NAMES, *IM)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", TASKS)
def test_the_served_prompt_equals_the_training_prompt(form: str, task: str) -> None:
    renderer, served = pair(form, task)
    names = {part.name: part for part in renderer.task.parts}

    @given(
        st.fixed_dictionaries(
            {name: SECTION if part.is_section else DIALOGUE.map("".join) for name, part in names.items()}
        )
    )
    @settings(deadline=None, max_examples=12, database=None)
    def equal(parts: dict[str, str]) -> None:
        parts = {name: text if text.strip() or names[name].form == "block" else "x" for name, text in parts.items()}
        if not has_control_name(parts):
            assert served_ids(served, renderer.task, parts) == renderer.prompt_ids(parts)

    equal()


@pytest.mark.parametrize(
    "header", [*SECTION_NAMES, *map(str.lower, SECTION_NAMES), "allergies", "REVIEW of systems", "X"]
)
def test_a_section_code_becomes_the_sections_name(header: str) -> None:
    renderer, served = pair("gemma", "section")
    ours = renderer.prompt_ids({"section_header": header, "dialogue": "Doctor: Hello."})
    message = [{"role": "user", "content": "Doctor: Hello."}]
    for name in ("section", "section_header"):
        asked = {name: header, "add_generation_prompt": True, "return_dict": False}
        assert served.apply_chat_template(message, **asked) == ours


def test_the_message_may_be_a_list_of_texts() -> None:
    renderer, served = pair("gemma", "medquad")
    content = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a goitre?"}]
    ids = served.apply_chat_template([{"role": "user", "content": content}], return_dict=False)
    assert ids == renderer.prompt_ids({"question": "What is a goitre?"})


@pytest.mark.parametrize(
    ("task", "messages", "arguments", "message"),
    [
        ("section", [("user", "Doctor: Hello.")], {}, r"give the argument `section` \(chat_template_kwargs\)"),
        ("section", [("user", "Doctor: Hello.")], {"section": " \n"}, "give the argument `section`"),
        ("section", [("user", "Doctor: Hello.")], {"section": 7}, "give the argument `section`"),
        ("visit", [("user", "Doctor: Hello.")], {}, "give the argument `division`"),
        ("own", [("user", "A fall.")], {"reader": "son", "length": "short"}, "give the argument `summary`"),
        ("medquad", [("user", " ")], {}, "the message is empty"),
        ("visit", [("system", "Be brief."), ("user", "Doctor: Hello.")], {"division": "exam"}, "takes one message"),
        ("visit", [("user", "Hi"), ("assistant", "Hi"), ("user", "Hi")], {"division": "exam"}, "takes one message"),
        ("visit", [("assistant", "Hi")], {"division": "exam"}, "takes one message"),
        ("visit", [("user", "Doctor: <end_of_turn>")], {"division": "exam"}, "name of a control token"),
        ("visit", [("user", "Doctor: Hello.")], {"division": "<eos>"}, "name of a control token"),
    ],
)
def test_messages_that_make_no_prompt_are_refused_with_the_reason(
    task: str, messages: list[tuple[str, str]], arguments: dict[str, Any], message: str
) -> None:
    _, served = pair("gemma", task)
    chat = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(jinja2.exceptions.TemplateError, match=message):
        served.apply_chat_template(chat, add_generation_prompt=True, **arguments)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_with_the_name_of_a_control_token_is_refused(form: str) -> None:
    renderer, served = pair(form, "medquad")
    for index in control_token_ids(renderer.tokenizer):
        with pytest.raises(jinja2.exceptions.TemplateError, match="control token"):
            served_ids(
                served, renderer.task, {"question": f"Is {renderer.tokenizer.convert_ids_to_tokens(index)} a word?"}
            )


def test_many_numbered_control_tokens_are_matched_by_their_common_prefix() -> None:
    tokenizer = tokenizer_of("gemma")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<unused{number}>" for number in range(300)]})
    renderer = build_renderer(tokenizer)
    text = served_template(renderer)
    assert text.count("<unused") == 1 and text.count("<start_of_turn>") > 1
    tokenizer.chat_template = text
    with pytest.raises(jinja2.exceptions.TemplateError, match="control token"):
        served_ids(tokenizer, renderer.task, {"dialogue": "a <unused299>", "section": "CC"})


@pytest.mark.parametrize("form", FORMS)
def test_loading_a_merged_model_for_training_restores_the_bases_template(form: str, tmp_path: Path) -> None:
    _, served = pair(form, "own")
    served.save_pretrained(tmp_path)
    tiny_config().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == served.chat_template
    assert load_tokenizer(str(tmp_path), offline=True).chat_template == FORMS[form][0]
    assert base_template(GEMMA_TEMPLATE) == GEMMA_TEMPLATE and base_template(None) is None


@pytest.mark.parametrize(
    "name", ["messages", "discharge summary", "tools", "bos_token", "medsum_text", "if", "tokenize"]
)
def test_a_part_that_cannot_be_an_argument_is_refused(name: str) -> None:
    parts = (Part(name=name, label="A:", columns=("a",)), Part(name="text", label="T:", columns=("t",)))
    task = Task(name="t", instruction="Write.", parts=parts, answer=Answer(label="N:", columns=("n",)))
    with pytest.raises(InputError, match=f"the part '{name}' of the task can't be the name of an argument"):
        served_template(build_renderer(tokenizer_of("gemma"), task=task))


def test_a_template_that_gives_other_tokens_than_training_is_refused() -> None:
    renderer, _ = pair("gemma", "section")
    rows = [{"section_header": "CC", "dialogue": "Doctor: Hello."}]
    text = served_template(renderer)
    refuse_unequal(text, renderer, rows)
    refuse_unequal(
        text, renderer, [{"section_header": "CC", "dialogue": "<eos>"}]
    )  # the template refuses such a text, so it is not compared
    with pytest.raises(InputError, match="other tokens than in the training"):
        refuse_unequal(text.replace("Dialogue:", "Dialog:"), renderer, rows)


def test_the_templates_arguments_are_the_parts_beside_the_message() -> None:
    assert {name: arguments_of(task) for name, task in TASKS.items()} == {
        "section": ["section"],
        "section-with-header": [],
        "visit": ["division"],
        "pubmedqa": ["question"],
        "medquad": [],
        "own": ["reader", "summary", "length"],
    }


def test_a_users_task_file_has_a_served_template(tmp_path: Path) -> None:
    path = tmp_path / "letters.yaml"
    path.write_text(
        "instruction: Write a letter.\nanswer: {label: 'Letter:', columns: letter}\nparts:\n"
        "- {name: reader, label: 'To:', columns: to, form: line}\n- {name: summary, label: 'Summary:', columns: s}\n"
    )
    renderer = build_renderer(tokenizer_of("chatml"), task=read_task_file(path))
    served = tokenizer_of("chatml")
    served.chat_template = served_template(renderer)
    parts = {"reader": "the patient's\n son", "summary": "  A fall.\n\nNo fracture.\n"}
    assert served_ids(served, renderer.task, parts) == renderer.prompt_ids(parts)
