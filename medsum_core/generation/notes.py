"""Generate notes for records with the prompt budget of training, and find the records that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from medsum_core.data.disclosure import show_ids
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.truncation import Prompt, prompt_within, why_too_long
from medsum_core.errors import InputError
from medsum_core.generation.generate import Decoder, generate
from medsum_core.generation.grounded_rules import Grounding
from medsum_core.generation.made_from import row_sha256
from medsum_core.generation.note_rows import GeneratedNote
from medsum_core.generation.part_file import PartFile
from medsum_core.generation.search import Generation
from medsum_core.grounding.check import unsupported_spans
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """How many tokens a prompt and its note may have."""

    max_prompt_tokens: int  # as in training
    max_new_tokens: int
    num_positions: int | None  # of the model; None where its configuration has no limit


@dataclass(frozen=True, kw_only=True)
class FittedRows:
    """The prompts of the rows that fit, and why the others are set aside; all by the rows' keys."""

    prompts: dict[str, list[int]]
    truncated: tuple[str, ...]  # rows whose source text lost turns or paragraphs
    set_aside: dict[str, str]  # row -> reason

    def lines(self, rows: Mapping[str, Record]) -> list[str]:
        """Notices with row ids about truncation and rows set aside; empty if every row fits."""
        reasons: dict[str, list[str]] = {}
        for row, reason in self.set_aside.items():
            reasons.setdefault(reason, []).append(rows[row].id)
        lines = [
            f"{len(ids)} of {len(rows)} rows set aside (ids {show_ids(ids)}): {reason}"
            for reason, ids in reasons.items()
        ]
        if self.truncated:
            ids = [rows[row].id for row in self.truncated]
            lines.append(f"{len(ids)} source texts lost turns or paragraphs to fit the prompt: ids {show_ids(ids)}")
        return lines


def fit_rows(rows: Mapping[str, Record], renderer: PromptRenderer, budget: TokenBudget) -> FittedRows:
    """Each row's prompt, truncated as in training. Rows that can't be used are set aside with a reason."""
    prompts, truncated, set_aside = {}, [], {}
    for row, record in rows.items():
        if record.fault:
            set_aside[row] = record.fault
            continue
        prompt = prompt_within(record, renderer, max_prompt_tokens=budget.max_prompt_tokens)
        if reason := _misfit(prompt, budget, renderer.task):
            set_aside[row] = reason
            continue
        prompts[row] = prompt.ids
        if prompt.num_turns_dropped:
            truncated.append(row)
    return FittedRows(prompts=prompts, truncated=tuple(truncated), set_aside=set_aside)


def _misfit(prompt: Prompt, budget: TokenBudget, task: Task) -> str | None:
    if not prompt.has_dialogue or len(prompt.ids) > budget.max_prompt_tokens:
        return (
            f"{why_too_long(task)} a prompt of {budget.max_prompt_tokens} tokens; shorten or split it, or train with a "
            "greater --max_length"
        )
    if budget.num_positions is not None and len(prompt.ids) + budget.max_new_tokens > budget.num_positions:
        return (
            f"prompt and note could exceed the {budget.num_positions} tokens that this model has room for; lower "
            "--max_new_tokens, or shorten the source text"
        )
    return None


def generated_note(id: str, generation: Generation, renderer: PromptRenderer) -> GeneratedNote:
    """The note of the row `id` from its tokens."""
    return GeneratedNote(
        id=id,
        note=renderer.decode(list(generation.token_ids)),
        num_tokens=len(generation.token_ids),
        hit_limit=generation.hit_limit,
        left_out=generation.left_out,
    )


def grounding_in(records: Sequence[Record], renderer: PromptRenderer) -> Grounding:
    """A verifier for each record, which refuses facts that its text does not support (`grounding/check.py`).

    Raises InputError for a task without a text to check facts against.
    """
    name = renderer.task.facts_from
    if name is None:
        raise InputError(f"--grounded: the task {renderer.task.name} gives no text that facts could be looked up in")
    last = renderer.text_ids("it.")[-1]
    return Grounding(
        verifiers=[partial(unsupported_spans, dialogue=record.parts[name]) for record in records],
        decode=renderer.decode,
        full_stops=frozenset({last} if renderer.decode([last]) == "." else ()),
    )


def generate_notes(
    model: Any,
    renderer: PromptRenderer,
    records: Sequence[Record],
    *,
    max_length: int,
    max_new_tokens: int,
    no_repeat_ngram_size: int = 0,
    batch_size: int = 16,
    label: str = "notes",
    show_progress: bool = True,
    decoder: Decoder | None = None,
    part: PartFile | None = None,
    grounded: bool = False,
) -> list[GeneratedNote]:
    """A note for each record, in order, decoded greedily with the prompt budget of training.

    The prompt gets `max_length - max_new_tokens` tokens, as in training; a dialogue that does not fit loses whole
    turns. Restores each module's training or evaluation mode. Notes in `part` are not generated again; the others are
    appended to it as they end; raises OSError if that fails.
    `grounded`: no note has a fact that its dialogue does not support (`grounded.py`).
    """
    rows, budget = [row_sha256(record) for record in records], max_length - max_new_tokens
    notes = {} if part is None else dict(part.notes)
    todo = [index for index, row in enumerate(rows) if row not in notes]
    num_found = len(rows) - len(todo)
    with tqdm(total=len(rows), initial=num_found, desc=label, unit="note", disable=not show_progress) as bar:

        def keep(place: int, generation: Generation) -> None:
            index = todo[place]
            note = notes[rows[index]] = generated_note(records[index].id, generation, renderer)
            if part is not None:
                part.add(rows[index], note)
            bar.update()

        rows_todo = [records[index] for index in todo]
        generate(
            model,
            [prompt_within(record, renderer, max_prompt_tokens=budget).ids for record in rows_todo],
            stop_token_ids=renderer.stop_token_ids,
            max_new_tokens=max_new_tokens,
            no_repeat_ngram_size=no_repeat_ngram_size,
            batch_size=batch_size,
            decoder=decoder,
            on_finished=keep,
            grounding=grounding_in(rows_todo, renderer) if grounded else None,
        )
    return [notes[row] for row in rows]
