"""Write the training prompt as a chat template, so that a server that gets a dialogue builds the same prompt.

    [{"role": "user", "content": DIALOGUE}], section="GENHX"   ->   the text of `PromptRenderer.prompt_ids`

The single message is the source text; the other parts are the template's arguments, by their names (a section also as
`section`). The rest is fixed text, rendered with the date and the template variables of training. The base's own
template is stored inside as a string and used when the merged model is trained further.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from medsum_core.data.chat_template import template_text
from medsum_core.data.prompt import PromptRenderer, control_token_ids
from medsum_core.errors import InputError
from medsum_core.tasks.section_names import SECTION_NAMES
from medsum_core.tasks.task import Part, Task

_MARK = "{#- A prompt of medsum."
_BASE = "{%- set medsum_base = "
_END = " -%}"
_OWN = "medsum_"  # begins the template's own names
_KEYWORDS = {"messages", "and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None"}
_MANY = 10  # if more control tokens than this differ in a number only, they are matched by their common prefix


def served_template(renderer: PromptRenderer) -> str:
    """The text of `chat_template.jinja`, for chat and plain prompts.

    The template raises an error (`raise_exception`) for a missing argument, for more or fewer than one message, and for
    text that holds the name of a control token, which a server would tokenize as that token. Raises InputError for a
    task with a part whose name can't be an argument.
    """
    task = renderer.task
    if task.images_part is not None:
        raise InputError("a prompt with images is written by the base's own template and image processor")
    _check_names(renderer)
    fixed, parts = renderer.fixed_texts, {part.name: _variable(part, task) for part in task.parts}
    arguments = ", ".join(arguments_of(task)) or "none"
    lines = [
        f"{_MARK} The user's one message is the {task.source}; arguments: {arguments}. -#}}",
        f"{_BASE}{_literal(template_text(renderer.tokenizer))}{_END}",
        "{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}"
        + _fail(f"this model takes one message, the user's: the {task.source}"),
        f"{{%- set {_OWN}source = messages[0]['content'] -%}}",
        f"{{%- if {_OWN}source is defined and {_OWN}source is not string -%}}"
        f"{{%- set {_OWN}source = {_OWN}source | map(attribute='text') | join -%}}{{%- endif -%}}",
    ]
    for part in task.parts:
        lines += _checks(part, task)
    lines += _no_control_tokens(renderer, parts.values())
    if task.section_part is not None:
        lines += _section_lines()
    lines.append(f"{{{{- {_literal(fixed[0])} -}}}}")
    for part, after in zip(task.parts, fixed[1:], strict=True):
        written = (
            f"' ' ~ ({parts[part.name]}.split() | join(' '))" if part.form == "line" else f"{parts[part.name]}.strip()"
        )
        lines += [f"{{{{- {written} -}}}}", f"{{{{- {_literal(after)} -}}}}"]
    return "\n".join(lines) + "\n"


def arguments_of(task: Task) -> list[str]:
    """The names of the template's arguments: every part but the source; a section is called `section`."""
    return ["section" if part.is_section else part.name for part in task.parts if part.name != task.source]


def refuse_unequal(template: str, renderer: PromptRenderer, rows: Iterable[Mapping[str, str]]) -> None:
    """Raise InputError unless the template, rendered and tokenized by transformers alone, gives `prompt_ids`.

    `rows`: the parts of prompts; those with the name of a control token, which the template refuses, are skipped.
    """
    task, served = renderer.task, copy(renderer.tokenizer)
    served.chat_template = template
    for parts in rows:
        if any(name in text for name in _control_names(renderer) for text in parts.values()):
            continue
        given: dict[str, Any] = {part.name: parts[part.name] for part in task.parts if part.name != task.source}
        message = {"role": "user", "content": parts[task.source]}
        ids = served.apply_chat_template([message], add_generation_prompt=True, return_dict=False, **given)
        if list(ids) != renderer.prompt_ids(parts):
            raise InputError(
                "this model's tokenizer joins the parts of the prompt to other tokens than in the training"
            )


def base_template(template: Any) -> Any:
    """The base's own chat template stored by `served_template` (None if it had none); any other template unchanged."""
    if not isinstance(template, str) or not template.startswith(_MARK):
        return template
    text = template.split("\n")[1].removeprefix(_BASE).removesuffix(_END)
    return None if text == "none" else json.loads(text)


def _check_names(renderer: PromptRenderer) -> None:
    tokenizer = renderer.tokenizer
    taken = (
        _KEYWORDS | set(inspect.signature(tokenizer.apply_chat_template).parameters) | set(tokenizer.special_tokens_map)
    )
    for name in arguments_of(renderer.task):
        if name in taken or name.startswith(_OWN) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InputError(f"the part {name!r} of the task can't be the name of an argument of a chat template")


def _variable(part: Part, task: Task) -> str:
    """The template's variable that holds a part's text."""
    if part.name == task.source:
        return f"{_OWN}source"
    return f"{_OWN}section" if part.is_section else part.name


def _checks(part: Part, task: Task) -> list[str]:
    """Template lines that raise unless the part is a string, and not blank if its form is "line"."""
    variable = _variable(part, task)
    lines = []
    if part.is_section:
        given = f"section if section is defined else {part.name}"
        lines.append(f"{{%- set {variable} = {given} -%}}")
    missing = f"{variable} is not string" + (f" or not {variable}.strip()" if part.form == "line" else "")
    name = "section" if part.is_section else part.name
    place = "the message is empty" if part.name == task.source else f"give the argument `{name}` (chat_template_kwargs)"
    return [*lines, f"{{%- if {missing} -%}}" + _fail(f"{place}: the {part.name.replace('_', ' ')} as text")]


def _section_lines() -> list[str]:
    """Template lines that expand an MTS-Dialog code or a name in any case, as `section_name` does."""
    section, names = f"{_OWN}section", {name.lower(): name for name in SECTION_NAMES.values()}
    return [
        f"{{%- set {_OWN}codes = {_literal(SECTION_NAMES)} -%}}",
        f"{{%- set {_OWN}names = {_literal(names)} -%}}",
        f"{{%- set {section} = {section}.strip() -%}}",
        f"{{%- set {section} = {_OWN}codes[{section}.upper()] if {section}.upper() in {_OWN}codes "
        f"else {_OWN}names.get({section}.lower(), {section}) -%}}",
    ]


def _no_control_tokens(renderer: PromptRenderer, variables: Iterable[str]) -> list[str]:
    names = sorted(_control_names(renderer))
    return [
        f"{{%- set {_OWN}text = [{', '.join(variables)}] | join(' ') -%}}",
        f"{{%- for {_OWN}name in {_literal(names)} -%}}{{%- if {_OWN}name in {_OWN}text -%}}"
        + _fail("a text holds the name of a control token, which would be taken for that token")
        + "{%- endfor -%}",
    ]


def _control_names(renderer: PromptRenderer) -> set[str]:
    """The names that no text may contain; for many numbered ones, their common prefix."""
    tokenizer = renderer.tokenizer
    names = {str(tokenizer.convert_ids_to_tokens(index)) for index in control_token_ids(tokenizer)}
    names |= set(renderer.cut_names)
    numbered: dict[str, set[str]] = {}
    for name in names:
        beginning = re.split(r"\d+\D*$", name)[0]
        if beginning != name and len(beginning) > 2:
            numbered.setdefault(beginning, set()).add(name)
    for beginning, alike in numbered.items():
        if len(alike) > _MANY:
            names = names - alike | {beginning}
    return names


def _fail(message: str) -> str:
    return f"{{{{- raise_exception({_literal(message)}) -}}}}{{%- endif -%}}"


def _literal(value: Any) -> str:
    """JSON that Jinja reads as the same text, list or mapping of texts."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
