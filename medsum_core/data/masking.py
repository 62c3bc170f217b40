"""Records to token ids and targets. The note is never truncated: a dialogue that does not fit loses whole turns.

Targets are shifted here and nowhere else: `targets[t]` is the token that the model should predict from position t.

    input_ids   <bos>  prompt ...  last of prompt   note_1   ...   note_n   <stop>
    targets      -100   -100 ...       note_1       note_2   ...   <stop>    -100
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsum_core.data.build_report import BuildReport, SetAside
from medsum_core.data.disclosure import show_id
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.truncation import prompt_within, why_too_long
from medsum_core.errors import InputError

IGNORE_INDEX = -100

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row as token ids: prompt, note and stop token, and the targets that are trained on."""

    id: str
    input_ids: tuple[int, ...]
    targets: tuple[int, ...]  # as long as input_ids, already shifted; the last is always IGNORE_INDEX
    num_prompt_tokens: int
    num_turns_dropped: int
    num_tokens_dropped: int = 0  # of the prompt, by truncation
    beyond_reserve: bool = False  # its prompt is not that of decoding, as its note is longer than the reserve

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt, from which decoding starts."""
        return self.input_ids[: self.num_prompt_tokens]

    @property
    def note_ids(self) -> tuple[int, ...]:
        """The whole note, including tokens left out of the loss, and the stop token."""
        return self.input_ids[self.num_prompt_tokens :]

    @property
    def num_targets(self) -> int:
        """Number of tokens trained on: those of the note and the stop token, without ignored spans."""
        return sum(target != IGNORE_INDEX for target in self.targets)

    @property
    def num_tokens(self) -> int:
        """Prompt, note and stop token."""
        return len(self.input_ids)


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
    reserve is truncated further. `ignored_spans`: characters `[start, end)` of the note whose tokens are left out of
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
    """All rows that fit, in order, and a report on all rows. `ignored_spans` is keyed by row id.

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
    notes = {record.id: record.answer.strip() for record in records}
    report = BuildReport(
        num_rows=len(records),
        num_used=len(examples),
        num_turns_dropped={row.id: row.num_turns_dropped for row in examples if row.num_turns_dropped},
        num_tokens_dropped={row.id: row.num_tokens_dropped for row in examples if row.num_turns_dropped},
        max_new_tokens=max_new_tokens,
        num_note_tokens={record.id: len(renderer.note_ids(record.answer)) for record in records},
        beyond_reserve=tuple(row.id for row in examples if row.beyond_reserve),
        set_aside=tuple(row for row in built if isinstance(row, SetAside)),
        inexact=tuple(row.id for row in examples if renderer.decode(row.note_ids) != notes[row.id]),
    )
    if not examples:
        needed = min((row.num_tokens_needed for row in report.set_aside), default=0)
        remedy = f"the shortest needs --max_length {needed}" if needed else "there are none"
        raise InputError(f"none of the {len(records)} rows fits --max_length {max_length}: {remedy}")
    return examples, report


def _build(
    record: Record, renderer: PromptRenderer, *, max_length: int, max_new_tokens: int, ignored_spans: Sequence[Span]
) -> Example | SetAside:
    note_ids = renderer.note_ids(record.answer)
    if len(note_ids) == 1:
        raise InputError(f"row id {show_id(record.id)} has no note to train on")
    prompt = in_decoding = prompt_within(record, renderer, max_prompt_tokens=max_length - max_new_tokens)
    if len(prompt.ids) + len(note_ids) > max_length:
        prompt = prompt_within(record, renderer, max_prompt_tokens=max_length - len(note_ids))
    if not prompt.has_dialogue or len(prompt.ids) + len(note_ids) > max_length:
        reserve = max(len(note_ids), max_new_tokens)
        is_note_alone = renderer.task.truncate is not None and len(prompt.ids) + len(note_ids) > max_length
        return SetAside(
            id=record.id,
            num_note_tokens=len(note_ids) - 1,
            num_tokens_needed=len(renderer.prompt_ids(record.parts)) + reserve,
            reason="its note alone does not fit" if is_note_alone else f"{why_too_long(renderer.task)} with its note",
        )
    targets = [IGNORE_INDEX] * (len(prompt.ids) - 1) + note_ids + [IGNORE_INDEX]
    before = len(record.answer) - len(record.note)  # spans are relative to the note, which follows a choice
    spans = [(start + before, end + before) for start, end in ignored_spans]
    for index in _overlapping(renderer, record.answer, spans):
        targets[len(prompt.ids) - 1 + index] = IGNORE_INDEX
    return Example(
        id=record.id,
        input_ids=tuple(prompt.ids + note_ids),
        targets=tuple(targets),
        num_prompt_tokens=len(prompt.ids),
        num_turns_dropped=prompt.num_turns_dropped,
        num_tokens_dropped=prompt.num_tokens_dropped,
        beyond_reserve=prompt.ids != in_decoding.ids,  # as many turns may be dropped, but others
    )


def _overlapping(renderer: PromptRenderer, note: str, spans: Sequence[Span]) -> list[int]:
    """Indices of the note's tokens that share a character with a span; empty spans share none."""
    spans = [(begin, stop) for begin, stop in spans if begin < stop]
    if not spans:
        return []
    offsets = renderer.note_offsets(note)
    return [i for i, (start, end) in enumerate(offsets) if any(start < stop and end > begin for begin, stop in spans)]
