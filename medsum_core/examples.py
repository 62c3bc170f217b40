"""Record -> token ids and targets. The note is never cut: a dialogue that does not fit loses whole turns.

Targets are shifted here and nowhere else: `targets[t]` is the token that the model should predict at position t.

    input_ids   <bos>  prompt ...  last of prompt   note_1   ...   note_n   <stop>
    targets      -100   -100 ...       note_1       note_2   ...   <stop>    -100
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsum_core.errors import InputError
from medsum_core.prompt import PromptRenderer
from medsum_core.records import Record

IGNORE_INDEX = -100
GAP = "[...]"  # stands where turns were dropped, so that a question is not read with another one's answer
_SPEAKER_TAG = re.compile(r"\s*[^\W\d][\w .'/&()-]{0,40}:")

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One document for the model: prompt, note and stop token, with what is trained on. Ids only, no text."""

    id: str
    input_ids: tuple[int, ...]
    targets: tuple[int, ...]  # as long as input_ids, already shifted; the last is always IGNORE_INDEX
    num_prompt_tokens: int
    num_turns_dropped: int
    beyond_reserve: bool = False  # lost more turns than in decoding, because its note is longer than the reserve

    @property
    def num_targets(self) -> int:
        """Tokens trained on: the note's and the stop token, without those left out."""
        return sum(target != IGNORE_INDEX for target in self.targets)

    @property
    def num_tokens(self) -> int:
        """Prompt, note and stop token."""
        return len(self.input_ids)


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A row that is not trained on, and why: its note alone does not fit, or no turn of its dialogue fits beside it."""

    id: str
    num_note_tokens: int  # without the stop token
    num_tokens_needed: int  # the --max_length that needs no shortening
    note_alone: bool  # the note alone (with prompt and stop token, without any dialogue) is too long


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What became of the rows: `num_rows == num_used + len(set_aside)`. Ids and counts, never text."""

    num_rows: int
    num_used: int
    num_turns_dropped: dict[str, int]  # by row id, shortened rows only
    beyond_reserve: tuple[str, ...]  # of these, the rows with a shorter prompt than they get in decoding
    set_aside: tuple[SetAside, ...]

    def lines(self) -> list[str]:
        """The report for a person; empty when every row was used whole."""
        lines = []
        if self.num_turns_dropped:
            lines.append(
                f"{len(self.num_turns_dropped)} dialogues lost whole turns: ids {_names(self.num_turns_dropped)}"
            )
        if self.beyond_reserve:
            lines.append(
                f"of these, {len(self.beyond_reserve)} are shorter than in decoding, for the sake of a note "
                f"longer than --max_new_tokens: ids {_names(self.beyond_reserve)}"
            )
        for row in self.set_aside:
            reason = "its note alone does not fit" if row.note_alone else "no turn of its dialogue fits beside its note"
            lines.append(
                f"row id {row.id} is set aside: {reason} ({row.num_note_tokens} tokens); "
                f"--max_length {row.num_tokens_needed} would use it whole"
            )
        return lines


def split_turns(dialogue: str) -> list[str]:
    """The turns. Each begins at a line with a speaker's tag (`Doctor: ...`); where no line has one, at each line."""
    lines = [line.rstrip() for line in dialogue.split("\n") if line.strip()]
    tagged = [i for i, line in enumerate(lines) if _SPEAKER_TAG.match(line)]
    starts = sorted({0, *tagged}) if tagged else list(range(len(lines)))
    return ["\n".join(lines[start:end]) for start, end in zip(starts, [*starts[1:], len(lines)], strict=False)]


def shorten_dialogue(
    dialogue: str, section_header: str, renderer: PromptRenderer, *, max_prompt_tokens: int
) -> tuple[str, int]:
    """Drop whole turns until the prompt has at most `max_prompt_tokens`; returns the text and how many were dropped.

    Kept are the first and the last turns, taken by turns from both ends while they fit; what is dropped is one run in
    between, where a line `[...]` stands. A dialogue that fits is returned as it is. The text is "" when no turn fits;
    the prompt may then still be too long: the caller counts. Training and decoding shorten alike, with this function.
    """
    excess = len(renderer.prompt_ids(dialogue, section_header)) - max_prompt_tokens
    if excess <= 0:
        return dialogue, 0
    turns = split_turns(dialogue)
    lengths = [len(renderer.text_ids(f"{turn}\n")) for turn in turns]  # once each; exact for the joint text, or close
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


def build_example(
    record: Record,
    renderer: PromptRenderer,
    *,
    max_length: int,
    max_new_tokens: int,
    ignored_spans: Sequence[Span] = (),
) -> Example | None:
    """The row as ids and targets, at most `max_length` tokens; None if its note does not fit (see `build_examples`).

    The prompt gets `max_length - max_new_tokens`, in training as in decoding; only a row whose note is longer than the
    reserve is shortened further. `ignored_spans`: characters `[start, end)` of the note whose tokens are left out of
    the loss; the stop token is always trained on. Raises InputError for a row without a note.
    """
    settings = {"max_length": max_length, "max_new_tokens": max_new_tokens}
    built = _build(record, renderer, **settings, ignored_spans=ignored_spans)
    return built if isinstance(built, Example) else None


def build_examples(
    records: Sequence[Record],
    renderer: PromptRenderer,
    *,
    max_length: int,
    max_new_tokens: int,
    ignored_spans: Mapping[str, Sequence[Span]] | None = None,
) -> tuple[list[Example], BuildReport]:
    """All rows that fit, in order, and what became of the others. `ignored_spans` goes by row id.

    Raises InputError when no row is left, or when `max_new_tokens` leaves no room for a prompt.
    """
    if max_new_tokens >= max_length:
        raise InputError(
            f"--max_new_tokens {max_new_tokens} leaves no prompt within --max_length {max_length}: lower it"
        )
    spans = ignored_spans or {}
    settings = {"max_length": max_length, "max_new_tokens": max_new_tokens}
    built = [_build(record, renderer, **settings, ignored_spans=spans.get(record.id, ())) for record in records]
    examples = [row for row in built if isinstance(row, Example)]
    report = BuildReport(
        num_rows=len(records),
        num_used=len(examples),
        num_turns_dropped={row.id: row.num_turns_dropped for row in examples if row.num_turns_dropped},
        beyond_reserve=tuple(row.id for row in examples if row.beyond_reserve),
        set_aside=tuple(row for row in built if isinstance(row, SetAside)),
    )
    if not examples:
        needed = min((row.num_tokens_needed for row in report.set_aside), default=0)
        remedy = f"the shortest needs --max_length {needed}" if needed else "there are none"
        raise InputError(f"none of the {len(records)} rows fits --max_length {max_length}: {remedy}")
    return examples, report


def _build(
    record: Record, renderer: PromptRenderer, *, max_length: int, max_new_tokens: int, ignored_spans: Sequence[Span]
) -> Example | SetAside:
    note_ids = renderer.note_ids(record.note)
    if len(note_ids) == 1:
        raise InputError(f"row id {record.id} has no note to train on")
    decoding_budget = max_length - max_new_tokens
    text, dropped = shorten_dialogue(
        record.dialogue, record.section_header, renderer, max_prompt_tokens=decoding_budget
    )
    prompt_ids = renderer.prompt_ids(text, record.section_header)
    decoding_dropped = dropped
    if len(prompt_ids) + len(note_ids) > max_length:
        room = max_length - len(note_ids)
        text, dropped = shorten_dialogue(record.dialogue, record.section_header, renderer, max_prompt_tokens=room)
        prompt_ids = renderer.prompt_ids(text, record.section_header)
    if len(prompt_ids) + len(note_ids) > max_length or not text:
        reserve = max(len(note_ids), max_new_tokens)
        return SetAside(
            id=record.id,
            num_note_tokens=len(note_ids) - 1,
            num_tokens_needed=len(renderer.prompt_ids(record.dialogue, record.section_header)) + reserve,
            note_alone=len(prompt_ids) + len(note_ids) > max_length,
        )
    targets = [IGNORE_INDEX] * (len(prompt_ids) - 1) + note_ids + [IGNORE_INDEX]
    for index in _overlapping(renderer, record.note, ignored_spans):
        targets[len(prompt_ids) - 1 + index] = IGNORE_INDEX
    return Example(
        id=record.id,
        input_ids=tuple(prompt_ids + note_ids),
        targets=tuple(targets),
        num_prompt_tokens=len(prompt_ids),
        num_turns_dropped=dropped,
        beyond_reserve=dropped > decoding_dropped,
    )


def _keep_ends(lengths: Sequence[int], budget: int) -> tuple[int, int]:
    """How many turns to keep at the beginning and at the end: one more at either end by turns, while they fit."""
    kept, open_ends, end = [0, 0], [True, True], 0
    while any(open_ends) and sum(kept) < len(lengths):
        if open_ends[end]:
            length = lengths[kept[0]] if end == 0 else lengths[len(lengths) - 1 - kept[1]]
            open_ends[end] = length <= budget
            kept[end] += open_ends[end]
            budget -= length if open_ends[end] else 0
        end = 1 - end
    return kept[0], kept[1]


def _overlapping(renderer: PromptRenderer, note: str, spans: Sequence[Span]) -> list[int]:
    """Positions, among the note's tokens, of those that share a character with one of the spans."""
    if not spans:
        return []
    offsets = renderer.note_offsets(note)
    return [i for i, (start, end) in enumerate(offsets) if any(start < stop and end > begin for begin, stop in spans)]


def _names(ids: Sequence[str] | Mapping[str, int]) -> str:
    return ", ".join(ids)
