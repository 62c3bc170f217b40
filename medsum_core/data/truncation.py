"""Truncation: a dialogue that does not fit loses whole turns, the same ones in training and in decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.turns import read_turns

GAP = "[...]"  # replaces dropped turns: a question must not seem answered by a later turn


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A record's prompt as ids, and what its dialogue lost to fit."""

    ids: list[int]
    num_turns_dropped: int
    has_dialogue: bool  # False: no turn of the dialogue fits; the prompt without any may then still be too long


def prompt_within(record: Record, renderer: PromptRenderer, *, max_prompt_tokens: int) -> Prompt:
    """The prompt of a record, its dialogue truncated to at most `max_prompt_tokens` (see `truncate_dialogue`).

    Training and decoding build every prompt with this function. Raises InputError for an empty section header.
    """
    dialogue, num_dropped = truncate_dialogue(
        record.dialogue, record.section_header, renderer, max_prompt_tokens=max_prompt_tokens
    )
    ids = renderer.prompt_ids(dialogue, record.section_header)
    return Prompt(ids=ids, num_turns_dropped=num_dropped, has_dialogue=bool(dialogue))


def split_turns(dialogue: str) -> list[str]:
    """The turns of `read_turns` as text, without empty lines."""
    pieces = [dialogue[turn.start : turn.end].split("\n") for turn in read_turns(dialogue)]
    return ["\n".join(line.rstrip() for line in lines if line.strip()) for lines in pieces]


def truncate_dialogue(
    dialogue: str, section_header: str, renderer: PromptRenderer, *, max_prompt_tokens: int
) -> tuple[str, int]:
    """Drop whole turns until the prompt has at most `max_prompt_tokens`; returns the text and how many were dropped.

    The first and the last turns are kept, taken alternately from both ends while they fit; a line `[...]` replaces the
    turns dropped in between. A dialogue that fits is returned unchanged. The text is "" when no turn fits; the prompt
    may then still be too long: the caller must check.
    """
    excess = len(renderer.prompt_ids(dialogue, section_header)) - max_prompt_tokens
    if excess <= 0:
        return dialogue, 0
    turns = split_turns(dialogue)
    lengths = [len(renderer.text_ids(f"{turn}\n")) for turn in turns]  # an estimate for the joined text
    budget = max_prompt_tokens - len(renderer.prompt_ids("", section_header)) - len(renderer.text_ids(GAP))
    while True:
        head, tail = _keep_ends(lengths, budget)
        if head + tail == 0:
            return "", len(turns)
        dropped = len(turns) - head - tail
        text = "\n".join([*turns[:head], *([GAP] if dropped else []), *turns[head + dropped :]])
        excess = len(renderer.prompt_ids(text, section_header)) - max_prompt_tokens
        if excess <= 0:
            return text, dropped
        budget -= excess


def _keep_ends(lengths: Sequence[int], budget: int) -> tuple[int, int]:
    """How many turns to keep at the beginning and at the end: alternately one more at each, while it fits."""
    kept, open_ends, end = [0, 0], [True, True], 0
    while any(open_ends) and sum(kept) < len(lengths):
        if open_ends[end]:
            length = lengths[kept[0]] if end == 0 else lengths[len(lengths) - 1 - kept[1]]
            open_ends[end] = length <= budget
            kept[end] += open_ends[end]
            budget -= length if open_ends[end] else 0
        end = 1 - end
    return kept[0], kept[1]
