"""The rows of OUT: columns and cells by task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medsum_core.data.records import Record, by_visit, join_records
from medsum_core.errors import InputError
from medsum_core.grounding.check import check_record, count_checked, merge_unsupported
from medsum_core.grounding.evidence import evidence
from medsum_core.grounding.omissions import has_statements, omissions_of_record
from medsum_core.tasks.section_names import section_code
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class GeneratedNote:
    """A note that a model wrote. The text is left out of `repr`, and so out of logs and tracebacks."""

    id: str
    note: str = field(repr=False)  # the whole answer, its choice included
    num_tokens: int  # without the stop token
    hit_limit: bool  # True: it was cut off at max_new_tokens, without a stop token
    left_out: int = 0  # how often grounded decoding left a fact out
    choice: str = ""  # the likeliest option, for a task with `by_likelihood`


@dataclass(frozen=True, kw_only=True)
class WrittenRow:
    """A row with its note, or why it has none."""

    record: Record
    note: GeneratedNote
    set_aside: str = ""


def check_format(output_format: str, task: Task) -> None:
    """Raise InputError for `mediqa` with a task that has no such submission format."""
    if output_format == "mediqa" and not (task.divide or task.section_part or task.names_section):
        raise InputError(f"--output_format mediqa: the task {task.name} has no such submission; use csv")


def can_go_on(task: Task) -> bool:
    """Whether the notes can be read back from a finished OUT: not if divisions are joined or a choice is separate."""
    return not task.divide and task.answer.choice is None


def note_rows(
    rows: Sequence[WrittenRow], task: Task, *, output_format: str, with_evidence: bool, grounded: bool
) -> list[dict[str, Any]]:
    """The cells of OUT by column. The divisions of a visit become one row."""
    rows = _visits(rows, task) if task.divide else rows
    if output_format == "mediqa":
        return [_mediqa_row(row, task) for row in rows]
    return [
        _csv_row(row, task, with_evidence=with_evidence, grounded=grounded) | {"set_aside": row.set_aside}
        for row in rows
    ]


def whole_notes(
    records: Sequence[Record], notes: Sequence[GeneratedNote], task: Task
) -> tuple[list[Record], list[GeneratedNote]]:
    """Records and answers for reading and scoring: the divisions of each visit joined to one note."""
    if not task.divide:
        return list(records), list(notes)
    visits, texts = join_records(records, [note.note for note in notes])
    joined = []
    for visit, text, parts in zip(visits, texts, by_visit(notes), strict=True):
        joined.append(
            GeneratedNote(
                id=visit.id,
                note=text,
                num_tokens=sum(part.num_tokens for part in parts),
                hit_limit=any(part.hit_limit for part in parts),
                left_out=sum(part.left_out for part in parts),
            )
        )
    return visits, joined


def _visits(rows: Sequence[WrittenRow], task: Task) -> list[WrittenRow]:
    records, notes = whole_notes([row.record for row in rows], [row.note for row in rows], task)
    reasons = by_visit([row.set_aside for row in rows])
    return [
        WrittenRow(record=record, note=note, set_aside="; ".join(dict.fromkeys(filter(None, why))))
        for record, note, why in zip(records, notes, reasons, strict=True)
    ]


def _mediqa_row(row: WrittenRow, task: Task) -> dict[str, Any]:
    """The submission of MEDIQA-Chat 2023: Task A names header and text, Tasks B and C the whole note."""
    if task.divide:
        return {"TestID": row.record.id, "SystemOutput": row.note.note}
    choice, text = task.answer.split(row.note.note)
    header = section_code(choice) if task.names_section else row.record.section_header
    return {"TestID": row.record.id, "SystemOutput1": header, "SystemOutput2": text}


def _csv_row(row: WrittenRow, task: Task, *, with_evidence: bool, grounded: bool) -> dict[str, Any]:
    choice, text = task.answer.split(row.note.note)
    cells: dict[str, Any] = {"encounter_id" if task.divide else "id": row.record.id}
    if task.section_part is not None:
        cells["section_header"] = row.record.section_header
    if task.names_section:
        cells["section_header"] = section_code(choice)
    elif task.answer.choice is not None:
        cells |= {"answer": row.note.choice or choice, "generated_answer": choice}
    cells["long_answer" if "answer" in cells else "note"] = text
    cells |= {"num_tokens": row.note.num_tokens, "hit_limit": "true" if row.note.hit_limit else "false"}
    if task.facts_from is not None:
        facts = check_record(text, row.record, task)
        cells |= {"unsupported": json.dumps(merge_unsupported(facts)), "checked": count_checked(facts)}
    if has_statements(task):
        has_note = bool(text) or not row.set_aside  # without a note nothing counts as omitted
        omitted = omissions_of_record(text, row.record, task).omitted if has_note else ()
        cells["omitted"] = json.dumps([asdict(one) for one in omitted])
    if with_evidence:
        looked_up_in = row.record.parts[task.facts_from or task.source]
        cells["evidence"] = json.dumps([asdict(support) for support in evidence(text, looked_up_in)])
    if grounded:
        cells["left_out"] = row.note.left_out
    return cells
