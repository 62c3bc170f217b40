"""A model's chat template: rendering, arguments from the user, and templates that a new run may not use."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from medsum_core.data.disclosure import escape
from medsum_core.data.time_limit import time_limit
from medsum_core.errors import InputError

FLAG = "--chat_template_kwargs"
TEMPLATE_SECONDS = 20.0  # the first use compiles it; milliseconds on a quiet machine
MAX_REASON = 200  # characters of a template's own error
_FIXED_DATE = "26 Jul 2024"  # for Llama 3's template, which else writes today's date: prompts must not depend on it
_DATE_NAME = re.compile(r"\b(?!strftime_now\b)\w*(?:date|day|time)\w*\b")  # of a variable that may hold a date
_DAYS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2022, 11, 14, 17, 38, 49))  # differ in every part of a date

# The tags around a thinking block: XML-like in most families, others in Gemma 4, Command A, Magistral and Kimi.
_TAG = "(?:[a-z_]+:)?(?:think|thinking|thoughts?|reason|reasoning)>"
_OWN_NAMES = (
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
_BEGINNING = re.compile("|".join([f"<{_TAG}", *(re.escape(beginning) for beginning, _ in _OWN_NAMES)]))
_END = re.compile("|".join([f"</{_TAG}", *(re.escape(end) for _, end in _OWN_NAMES)]))


@dataclass(frozen=True, kw_only=True)
class PromptFault:
    """Why a new run may not use a prompt, and what to do. A run that has one already may continue."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"

    @property
    def notice(self) -> str:
        """The notice for a run that was started with such a prompt."""
        return f"{self.what}; this run was started with such a prompt, and keeps it"


def template_text(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template of a tokenizer; None where it has none. Raises InputError for several without a default."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            names = escape(", ".join(map(str, template)))[:MAX_REASON]
            raise InputError(
                f"this model has chat templates by name ({names}) and no `default` among them: use --prompt_style "
                "plain, or name one of them `default` in its tokenizer_config.json"
            )
        template = template["default"]
    return None if template is None else str(template)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    template_kwargs: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> str:
    """The messages as the template renders them. Raises InputError if it fails or takes over TEMPLATE_SECONDS."""
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
    """Raise InputError for an argument that does not change the prompt of these messages."""
    reserved = set(inspect.signature(tokenizer.apply_chat_template).parameters)
    if taken := sorted(reserved.intersection(template_kwargs)):
        raise InputError(f"{FLAG}: {', '.join(taken)}: an argument of apply_chat_template, not of a template")
    prompt = render(tokenizer, messages, template_kwargs=template_kwargs, add_generation_prompt=True)
    idle = []
    for name in template_kwargs:
        others = {other: value for other, value in template_kwargs.items() if other != name}
        with suppress(InputError):  # a template that fails without the argument uses it
            if render(tokenizer, messages, template_kwargs=others, add_generation_prompt=True) == prompt:
                idle.append(name)
    if idle:
        raise InputError(
            f"{FLAG}: {escape(', '.join(idle))}: changes nothing in this model's prompt (its template does not read "
            "that name, or does the same without it): leave it out"
        )


def day_fault(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], template_kwargs: Mapping[str, Any]
) -> PromptFault | None:
    """The fault of a template that reads the date: the prompt of these messages differs between two days; else None."""

    def is_fixed(variables: Mapping[str, Any]) -> bool:
        prompts = set()
        for day in _DAYS:
            with _clock_at(day), suppress(InputError):
                prompts.add(render(tokenizer, messages, template_kwargs=variables, add_generation_prompt=True))
        return len(prompts) == 1

    if is_fixed(template_kwargs):
        return None
    names = sorted(set(_DATE_NAME.findall(template_text(tokenizer) or "")))
    fixed = next((dated for name in names if is_fixed(dated := {**template_kwargs, name: _FIXED_DATE})), None)
    plain = "--prompt_style plain"
    return PromptFault(
        what="this model's chat template writes today's date, so that tomorrow's prompt would not be the one of today",
        remedy=f"give {FLAG} '{json.dumps(fixed)}', or {plain}" if fixed else f"use {plain}",
    )


@contextmanager
def _clock_at(day: datetime) -> Iterator[None]:
    """Templates read the time only by `strftime_now`, which uses `datetime` of this module of transformers."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return day

    names = vars(chat_template_utils)
    own = names["datetime"]
    names["datetime"] = Stopped
    try:
        yield
    finally:
        names["datetime"] = own


def thinking_names(text: str) -> set[str]:
    """The thinking tags in a text."""
    return {match[0] for pattern in (_BEGINNING, _END) for match in pattern.finditer(text)}


def open_thinking(text: str) -> str | None:
    """The tag of the thinking block that is still open at the end of a text; None if there is none."""
    beginnings, ends = list(_BEGINNING.finditer(text)), list(_END.finditer(text))
    if not beginnings or (ends and ends[-1].start() > beginnings[-1].start()):
        return None
    return beginnings[-1][0]
