"""Truncation: a dialogue that does not fit loses whole turns, the same in training and in decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.turns import read_turns
from medsum_core.tasks.task import Task

GAP = "[...]"  # replaces dropped turns: a question must not seem answered by a later turn


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A record's prompt as ids, and how much of its source was dropped: turns of a dialogue, or paragraphs."""

    ids: list[int]
    num_turns_dropped: int
    num_tokens_dropped: int
    has_dialogue: bool  # False: no turn of the dialogue fits; even the prompt without any may be too long


def prompt_within(record: Record, renderer: PromptRenderer, *, max_prompt_tokens: int) -> Prompt:
    """The prompt of a record, its source truncated to at most `max_prompt_tokens` (see `truncate_source`).

    Training and decoding build every prompt with this function. Raises InputError for an empty section header.
    """
    text, num_dropped = truncate_source(record.parts, renderer, max_prompt_tokens=max_prompt_tokens)
    ids = renderer.prompt_ids({**record.parts, renderer.task.source: text})
    num_tokens = len(renderer.prompt_ids(record.parts)) - len(ids) if num_dropped else 0
    return Prompt(ids=ids, num_turns_dropped=num_dropped, num_tokens_dropped=num_tokens, has_dialogue=bool(text))


def split_turns(dialogue: str) -> list[str]:
    """The turns of `read_turns` as text, without empty lines."""
    pieces = [dialogue[turn.start : turn.end].split("\n") for turn in read_turns(dialogue)]
    return ["\n".join(line.rstrip() for line in lines if line.strip()) for lines in pieces]


def truncate_source(parts: Mapping[str, str], renderer: PromptRenderer, *, max_prompt_tokens: int) -> tuple[str, int]:
    """Drop whole turns (or paragraphs) of the task's source until the prompt has at most `max_prompt_tokens`.

    Returns the text and how many were dropped. The first and the last turns are kept, taken alternately from both ends
    while they fit; a line `[...]` replaces the turns dropped in between. A source that fits, or that the task never
    truncates, is returned unchanged; the text is "" when no turn fits. The prompt may still be too long: the caller
    must check.
    """
    name, rule = renderer.task.source, renderer.task.truncate
    excess = len(renderer.prompt_ids(parts)) - max_prompt_tokens
    if excess <= 0 or rule is None:
        return parts[name], 0
    turns = split_turns(parts[name]) if rule.unit == "turns" else _lines(parts[name])
    lengths = [len(renderer.text_ids(f"{turn}\n")) for turn in turns]  # an estimate for the joined text
    budget = max_prompt_tokens - len(renderer.prompt_ids({**parts, name: ""})) - len(renderer.text_ids(GAP))
    while True:
        head, tail = _keep_ends(lengths, budget)
        if head + tail == 0:
            return "", len(turns)
        dropped = len(turns) - head - tail
        text = "\n".join([*turns[:head], *([GAP] if dropped else []), *turns[head + dropped :]])
        excess = len(renderer.prompt_ids({**parts, name: text})) - max_prompt_tokens
        if excess <= 0:
            return text, dropped
        budget -= excess


def why_too_long(task: Task) -> str:
    """A clause that says why a row can't be shortened to fit; what it does not fit follows."""
    if task.truncate is None:
        return f"the {task.source}, which this task never truncates, does not fit"
    return f"no {task.truncate.unit.removesuffix('s')} of the {task.source} fits"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def _keep_ends(lengths: Sequence[int], budget: int) -> tuple[int, int]:
    """How many turns to keep at the beginning and at the end: alternately one more at each, while it fits."""
    kept, open_ends, end = [0, 0], [True, True], 0
    while any(open_ends) and sum(kept) < len(lengths):
        length = lengths[kept[0]] if end == 0 else lengths[len(lengths) - 1 - kept[1]]
        open_ends[end] = length <= budget  # once closed, an end stays closed: the budget only shrinks
        kept[end] += open_ends[end]
        budget -= length if open_ends[end] else 0
        end = 1 - end
    return kept[0], kept[1]
