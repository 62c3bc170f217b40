"""A model's chat template: rendering it, the arguments that a user gives it, and thinking that it leaves open."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from medsum_core.data.disclosure import escape
from medsum_core.data.time_limit import time_limit
from medsum_core.errors import InputError

FLAG = "--chat_template_kwargs"
TEMPLATE_SECONDS = 20.0  # the first use compiles it; milliseconds on a quiet machine
MAX_REASON = 200  # characters of a template's own error
_FIXED_DATE = "26 Jul 2024"  # Llama 3's template writes today's date unless given one: no prompt may depend on the day

# How a block of thinking begins and ends: by tags in most families; Gemma 4, Command A, Magistral and Kimi have names
# of their own.
_TAG = "(?:[a-z_]+:)?(?:think|thinking|thoughts?|reason|reasoning)>"
_OWN_NAMES = (
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
_BEGINNING = re.compile("|".join([f"<{_TAG}", *(re.escape(beginning) for beginning, _ in _OWN_NAMES)]))
_END = re.compile("|".join([f"</{_TAG}", *(re.escape(end) for _, end in _OWN_NAMES)]))


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    template_kwargs: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> str:
    """The messages as the template writes them. Raises InputError where it fails or takes longer than 20 seconds."""
    variables = {"date_string": _FIXED_DATE, **template_kwargs}
    settings: dict[str, Any] = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    try:
        with time_limit(TEMPLATE_SECONDS):
            text = tokenizer.apply_chat_template([dict(message) for message in messages], **variables, **settings)
    except Exception as error:  # a template is a program that came with the model: it can raise anything
        reason = escape(str(error))[:MAX_REASON] or type(error).__name__
        raise InputError(f"this model's chat template can't be used ({reason}): use --prompt_style plain") from error
    return str(text)


def check_template_kwargs(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], template_kwargs: Mapping[str, Any]
) -> None:
    """Raise InputError for an argument without which the prompt of these messages would be the same."""
    reserved = set(inspect.signature(tokenizer.apply_chat_template).parameters)
    if taken := sorted(reserved.intersection(template_kwargs)):
        raise InputError(f"{FLAG}: {', '.join(taken)}: an argument of apply_chat_template, not of a template")
    prompt = render(tokenizer, messages, template_kwargs=template_kwargs, add_generation_prompt=True)
    idle = []
    for name in template_kwargs:
        others = {other: value for other, value in template_kwargs.items() if other != name}
        if render(tokenizer, messages, template_kwargs=others, add_generation_prompt=True) == prompt:
            idle.append(name)
    if idle:
        raise InputError(
            f"{FLAG}: {escape(', '.join(idle))}: changes nothing in this model's prompt (its template does not read "
            "that name, or does the same without it): leave it out"
        )


def thinking_names(text: str) -> set[str]:
    """The names in a text by which a block of thinking begins or ends."""
    return {match[0] for pattern in (_BEGINNING, _END) for match in pattern.finditer(text)}


def open_thinking(text: str) -> str | None:
    """The name that begins the block of thinking in which a text ends; None where it ends in none."""
    beginnings, ends = list(_BEGINNING.finditer(text)), list(_END.finditer(text))
    if not beginnings or (ends and ends[-1].start() > beginnings[-1].start()):
        return None
    return beginnings[-1][0]
