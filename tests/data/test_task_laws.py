"""The laws of prompt and targets hold for every task and every public form of chat template.

1: training, decoding and the text that the template writes by itself are one prompt. 2: nothing but the answer is
trained on. 3: no text from outside makes a control token; BOS is where the template writes it. The references are
written by hand: each task's user message here, and what a template puts around it in `template_forms.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_tokenizer
from template_forms import FORMS, turns

from medsum_core.data.masking import IGNORE_INDEX, build_example
from medsum_core.data.prompt import PromptRenderer, build_renderer, check_prompt
from medsum_core.data.records import Record
from medsum_core.data.truncation import prompt_within
from medsum_core.errors import InputError
from medsum_core.preview import broken_laws
from medsum_core.tasks.find import find_task, task_names

FACTS = "State only facts that are said in the dialogue, and leave out what is not said."
MESSAGES = {
    "section": "Write one section of a clinical note from the dialogue below. " + FACTS + "\n\n"
    "Section: {section_header}\n\nDialogue:\n{dialogue}",
    "section-with-header": "Name the section of a clinical note that the dialogue below belongs to, then write that "
    "section. " + FACTS + "\n\nDialogue:\n{dialogue}",
    "visit": "Write one division of the clinical note of the visit below. " + FACTS + "\n\n"
    "Division: {division}\n\nDialogue:\n{dialogue}",
    "pubmedqa": "Answer the question from the abstract below: first yes, no or maybe on a line of its own, then the "
    "reason in a few sentences.\n\nQuestion: {question}\n\nAbstract:\n{context}",
    "medquad": "Answer the medical question below as a health library would.\n\nQuestion: {question}",
}
ANSWER_LABELS = {
    "section": "Note:",
    "section-with-header": "Section and note:",
    "visit": "Note:",
    "pubmedqa": "Answer:",
    "medquad": "Answer:",
}
SOURCES = {"pubmedqa": "context", "medquad": "question"}
CHOICES = {"pubmedqa": ["yes", "no", "maybe"], "section-with-header": ["Plan", "Family and social history"]}
SECTIONS = {"GENHX": "History of present illness", "cc": "Chief complaint", " Visit\n 2": "Visit 2"}
# No control characters: str.split takes some, such as U+001C, for white space and removes them from one-line parts.
LETTERS = st.characters(exclude_categories=["Cs", "Cc"])
# Templates that no run may use, with the reason.
REFUSED: dict[str, tuple[str, str]] = {
    "glm-4": (
        turns("'<|user|>\\n' + c", "'<|assistant|>\\n' + c", "'<|assistant|>'"),
        "no control token after a message",
    ),
    "minicpm": (turns("'<user>' + c.strip()", "'<AI>' + c", "'<AI>'"), "no control token after a message"),
    "solar": (
        turns("'### User:\\n' + c + '\\n\\n'", "'### Assistant:\\n' + c + '\\n\\n'", "'### Assistant:\\n'"),
        "no control token after a message",
    ),
    "falcon": (turns("'User: ' + c + '\\n\\n'", "'Falcon: ' + c", "'Falcon:'"), "no control token after a message"),
    "deepseek-r1": (turns("'User: ' + c", "c + eos_token", "'Assistant: <think>\\n'"), "inside a block of thinking"),
    "gpt-oss": (
        turns(
            "'<|start|>user<|message|>' + c",
            "c + eos_token",
            "'<|start|>assistant'",
            first="'Current date: ' + strftime_now('%Y-%m-%d')",
        ),
        "today's date",
    ),
    "names-in-capitals": (turns("c | upper", "c + eos_token", "''"), "changes or repeats"),
}
PROPERTY = settings(deadline=None, max_examples=8, database=None)


def test_every_text_task_has_its_message_here() -> None:
    """Tasks with images are compared with transformers' own processor in tests/images/test_image_prompt.py."""
    assert sorted(MESSAGES) == [name for name in task_names() if find_task(name).images_part is None]


def texts(form: str) -> st.SearchStrategy[str]:
    """Text from outside, with the names of the form's control tokens and what its template writes."""
    of_form = FORMS[form]
    names = [*of_form.tokens.split(), *of_form.marks.split(), of_form.eos, of_form.bos or "<s>", of_form.after.strip()]
    pieces = st.one_of(st.text(LETTERS, max_size=20), st.sampled_from([*names, "\n", "  ", "[...]", "Doctor: Hi."]))
    return st.lists(pieces, min_size=1, max_size=5).map("".join).filter(str.strip)


@cache
def renderer_of(form: str, task: str, style: str) -> PromptRenderer:
    made = FORMS[form]
    variables = {"template_kwargs": made.variables} if style == "chat" else {}
    renderer = build_renderer(made.tokenizer(), style=style, task=find_task(task), **variables)
    check_prompt(renderer)
    return renderer


@st.composite
def rows(draw: st.DrawFn, form: str) -> tuple[str, Record, str]:
    """A task, a row of it and the user's message that the row should become."""
    task, text = draw(st.sampled_from(sorted(MESSAGES))), texts(form)
    names = [
        name
        for name in ("section_header", "division", "question", "dialogue", "context")
        if f"{{{name}}}" in MESSAGES[task]
    ]
    parts = {name: draw(st.sampled_from(sorted(SECTIONS)) if name == "section_header" else text) for name in names}
    shown = {
        name: value.strip() if name in ("dialogue", "context") else " ".join(value.split())
        for name, value in parts.items()
    }
    if "section_header" in parts:
        shown["section_header"] = SECTIONS[parts["section_header"]]
    choice = draw(st.sampled_from(CHOICES[task])) if task in CHOICES else ""
    record = Record(id="1", parts=parts, note=draw(text), choice=choice, source=SOURCES.get(task, "dialogue"))
    return task, record, MESSAGES[task].format(**shown)


@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize("form", FORMS)
def test_the_laws_hold(form: str, style: str) -> None:
    made = FORMS[form]

    @given(rows(form))
    @PROPERTY
    def hold(row: tuple[str, Record, str]) -> None:
        task, record, message = row
        renderer = renderer_of(form, task, style)
        tokenizer = renderer.tokenizer
        example = build_example(record, renderer, max_length=100_000, max_new_tokens=10_000)
        assert broken_laws(example, record, renderer, max_prompt_tokens=90_000) == []

        prompt = list(example.prompt_ids)
        assert prompt == prompt_within(record, renderer, max_prompt_tokens=90_000).ids
        expected = f"{made.before}{message}{made.after}"
        if style == "plain":
            expected = f"{made.bos or ''}{message}\n\n{ANSWER_LABELS[task]}\n"
        else:
            asked = {"add_generation_prompt": True, "tokenize": False, "date_string": "26 Jul 2024", **made.variables}
            assert tokenizer.apply_chat_template([{"role": "user", "content": message}], **asked) == expected
        assert tokenizer.decode(prompt, clean_up_tokenization_spaces=False) == expected
        # The reference has the same text around a harmless message, so all its control tokens are the template's.
        around = tokenizer(expected.replace(message, "x"), add_special_tokens=False)["input_ids"]
        marks = [mark for mark in made.marks.split() if mark in expected.replace(message, "")]
        controls = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(marks)}
        assert [token for token in prompt if token in controls] == [token for token in around if token in controls]

        targets = [target for target in example.targets if target != IGNORE_INDEX]
        stop = made.stop if style == "chat" else made.eos
        answer = "\n".join(part for part in (record.choice, record.note) if part).strip()
        assert tokenizer.decode(targets, clean_up_tokenization_spaces=False) == answer + stop
        assert targets[-1] == tokenizer.convert_tokens_to_ids(stop) and not controls & set(targets[:-1])

    hold()


@pytest.mark.parametrize("form", REFUSED)
def test_templates_that_cannot_be_trained_with_are_refused(form: str) -> None:
    template, message = REFUSED[form]
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message) as caught:
        check_prompt(build_renderer(tokenizer))
    assert "--prompt_style plain" in str(caught.value)
    check_prompt(build_renderer(tokenizer, style="plain"))


def test_a_broken_law_is_reported() -> None:
    """The broken renderer makes control tokens of their names in a dialogue."""
    renderer = renderer_of("chatml", "section", "chat")
    careless = careless_copy(renderer)
    parts = {"section_header": "CC", "dialogue": "Doctor: <|im_end|>"}
    record = Record(id="1", parts=parts, note="Rest.")
    example = build_example(record, careless, max_length=1000, max_new_tokens=100)
    assert "no text from outside made a control token" in broken_laws(example, record, careless, max_prompt_tokens=900)


def careless_copy(renderer: PromptRenderer) -> PromptRenderer:
    class Careless(PromptRenderer):
        def text_ids(self, text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    return Careless(**vars(replace(renderer)))
