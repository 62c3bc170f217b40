"""The grounding check of a file of notes: rates with intervals, facts and omissions per row, tables. No note text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsum_core.data.artefacts import describe_artefacts
from medsum_core.data.columns import DEFAULT_COLUMNS, Columns, find_first
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import dialogue_of, number_doubled
from medsum_core.data.rows import Table, formula_problems, not_text_problem, raise_problems
from medsum_core.data.tables import load_table
from medsum_core.errors import InputError
from medsum_core.grounding.check import Fact, check_note, count_checked, count_unsupported
from medsum_core.grounding.kinds import CHECKED_KINDS, UNCHECKED
from medsum_core.grounding.omissions import Omissions, check_omissions
from medsum_core.score.bootstrap import rate_estimate

WRITTEN_ID = ("id", "TestID")  # in the two formats of infer.py, whatever the run's own column is called


@dataclass(frozen=True, kw_only=True)
class CheckedNote:
    """The facts of one row's note and, if requested, its omissions."""

    id: str
    facts: tuple[Fact, ...]
    omissions: Omissions | None = None

    @property
    def num_unsupported(self) -> int:
        """The number of facts that are not_found or contradicted."""
        return count_unsupported(self.facts)


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """The checked notes of a file; `notices`: how it was read and what looks wrong, without its text."""

    notes: list[CheckedNote]
    notices: tuple[str, ...]


def check_file(
    notes: str | Path,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    dialogues: str | Path | None = None,
    lexicon: str | None = None,
    with_omissions: bool = False,
) -> CheckedFile:
    """Check the notes of a file against its own dialogues or, without these, those of `dialogues`, joined by id.

    The dialogue is the part that the task names as `facts_from`, as in the report.

    `lexicon`: a file with more findings (`findings.lexicon`). Raises InputError for an unreadable file, absent columns,
    cells that are not text, repeated ids, ids without a source text, and a task whose answers can't be checked.
    """
    names, facts_from = columns.candidates(), columns.task.facts_from
    if facts_from is None or "note" not in names:
        raise InputError(f"--task {columns.task.name}: its answers have no text, or none to look their facts up in")
    table = load_table(notes)
    note_name = _column(table, names["note"])
    raise_problems(table.source, [problem for row in table.rows if (problem := not_text_problem(row, note_name))])
    ids = _ids(table, columns, or_else=WRITTEN_ID)
    own = find_first(table, names[facts_from])
    if own is not None:
        texts = _dialogues(table, own)
    elif dialogues is None:
        raise InputError(
            f"{table.source}: no column {_either(names[facts_from])}; name it with --dialogue_column, or give "
            "the source texts' file with --dialogues F.csv"
        )
    else:
        texts = _joined(table.source, ids, dialogues, columns, facts_from)
    rows = zip(ids, table.rows, texts, strict=True)
    artefacts = describe_artefacts(table.rows, {"note": note_name} | ({facts_from: own} if own else {}))
    return CheckedFile(
        notes=[
            _checked(id_, row.cells[note_name], text, lexicon=lexicon, with_omissions=with_omissions)
            for id_, row, text in rows
        ],
        notices=tuple(f"{table.source}: {line}" for line in (*table.notices, *artefacts)),
    )


def _checked(id: str, note: str, dialogue: str, *, lexicon: str | None, with_omissions: bool) -> CheckedNote:
    omissions = check_omissions(note, dialogue, lexicon=lexicon) if with_omissions else None
    return CheckedNote(id=id, facts=tuple(check_note(note, dialogue, lexicon=lexicon)), omissions=omissions)


def _joined(source: str, ids: Sequence[str], dialogues: str | Path, columns: Columns, facts_from: str) -> list[str]:
    table = load_table(dialogues)
    texts = _dialogues(table, _column(table, columns.candidates()[facts_from]))
    by_id = dict(zip(_ids(table, columns), texts, strict=True))
    absent = [id_ for id_ in ids if id_ not in by_id]
    if absent:
        raise InputError(f"{source}: {len(absent)} ids have no source text in {table.source}: {show_ids(absent)}")
    return [by_id[id_] for id_ in ids]


def _dialogues(table: Table, column: str) -> list[str]:
    """The dialogues as in the file; a list of turns becomes lines. Raises InputError for other values."""
    texts, problems = [], []
    for row in table.rows:
        is_list = row.not_text.get(column) == "list"
        problem = None if is_list else not_text_problem(row, column)
        text, wrong = dialogue_of(row, column) if is_list else (row.cells[column], [problem] if problem else [])
        texts.append(text)
        problems += wrong
    raise_problems(table.source, problems)
    return texts


def _column(table: Table, names: Sequence[str]) -> str:
    found = find_first(table, names)
    if found is None:
        raise InputError(f"{table.source}: no column {_either(names)}; {table.describe_columns()}")
    return found


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _ids(table: Table, columns: Columns, *, or_else: tuple[str, ...] = ()) -> list[str]:
    """The ids, or row numbers from 1 without an id column. Raises InputError for repeated and unsafe ones."""
    names = (*columns.candidates()["id"], *or_else)
    name = find_first(table, names) if columns.id is None else _column(table, names)
    ids = [row.cells[name].strip() if name else str(row.number) for row in table.rows]
    ids = number_doubled(ids) if columns.number_rows else ids
    doubled = [id_ for id_, count in Counter(ids).items() if count > 1]
    if doubled:
        raise InputError(
            f"{table.source}: {len(doubled)} ids occur in several rows: {show_ids(doubled)} (--number_rows tells them "
            "apart)"
        )
    raise_problems(table.source, formula_problems(table.rows, [name]))
    return ids


def to_json(notes: Sequence[CheckedNote]) -> dict[str, Any]:
    """The result as plain data: `facts, unsupported, unsupported_rate`, its interval, and every row's facts.

    `not_checked`: facts of texts that are not English; `facts` and the rate exclude them. If no note has a fact, the
    rate is 0 and the interval None. With omissions also `omissions, stated, omission_rate`, its interval, and in
    each row `omitted` (offsets into the dialogue) and `stated`.
    """
    facts = [count_checked(note.facts) for note in notes]
    unsupported = [note.num_unsupported for note in notes]
    rate = rate_estimate(unsupported, facts)
    return {
        "facts": sum(facts),
        "not_checked": sum(len(note.facts) for note in notes) - sum(facts),
        "unsupported": sum(unsupported),
        "unsupported_rate": rate.value if sum(facts) else 0.0,
        "unsupported_rate_interval": [rate.low, rate.high] if sum(facts) else None,
        **_omission_rate([note.omissions for note in notes if note.omissions is not None]),
        "count": len(notes),
        "rows": [_row(note) for note in notes],
    }


def _omission_rate(rows: Sequence[Omissions]) -> dict[str, Any]:
    if not rows:
        return {}
    omitted, stated = [len(row.omitted) for row in rows], [row.stated for row in rows]
    rate = rate_estimate(omitted, stated)
    return {
        "omissions": sum(omitted),
        "stated": sum(stated),
        "omission_rate": rate.value if sum(stated) else 0.0,
        "omission_rate_interval": [rate.low, rate.high] if sum(stated) else None,
    }


def _row(note: CheckedNote) -> dict[str, Any]:
    row: dict[str, Any] = {"id": note.id, "facts": [_fact(fact) for fact in note.facts]}
    if note.omissions is not None:
        row |= {"stated": note.omissions.stated, "omitted": [asdict(one) for one in note.omissions.omitted]}
    return row


def _fact(fact: Fact) -> Mapping[str, Any]:
    return {"start": fact.start, "end": fact.end, "kind": fact.kind, "verdict": fact.verdict}


def table_lines(notes: Sequence[CheckedNote], result: Mapping[str, Any]) -> list[str]:
    """The lines to print: a table by kind, and the rates with their intervals."""
    counts = Counter((fact.kind, fact.verdict) for note in notes for fact in note.facts)
    lines = [f"{'kind':<12}{'facts':>8}{'supported':>11}{'not found':>11}{'contradicted':>14}{'unsupported':>13}"]
    for kind in sorted({kind for kind, _ in counts}):
        good, absent, wrong = (counts[kind, verdict] for verdict in ("supported", "not_found", "contradicted"))
        total = good + absent + wrong
        if not total:
            continue
        lines.append(f"{kind:<12}{total:>8}{good:>11}{absent:>11}{wrong:>14}{(absent + wrong) / total:>13.1%}")
    rows = sum(note.num_unsupported > 0 for note in notes)
    lines.append(
        f"{result['unsupported']} of {result['facts']} facts are not supported: "
        f"{_rate(result, 'unsupported_rate')}; in {rows} of {len(notes)} notes"
    )
    if result["not_checked"]:
        lines.append(f"{result['not_checked']} facts are not checked: their note or source text is not English")
    return [*lines, *_omission_lines(notes, result), f"Checked: {CHECKED_KINDS}. Not checked: {UNCHECKED}."]


def _omission_lines(notes: Sequence[CheckedNote], result: Mapping[str, Any]) -> list[str]:
    """How many of the stated facts are omitted, and of which kinds; no line if omissions were not requested."""
    if "omissions" not in result:
        return []
    kinds = Counter(one.kind for note in notes if note.omissions for one in note.omissions.omitted)
    by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    rows = sum(bool(note.omissions and note.omissions.omitted) for note in notes)
    return [
        f"{result['omissions']} of {result['stated']} facts that the source texts state are not in the notes: "
        f"{_rate(result, 'omission_rate')}; in {rows} of {len(notes)} notes" + (f" ({by_kind})" if by_kind else "")
    ]


def _rate(result: Mapping[str, Any], name: str) -> str:
    interval = result[f"{name}_interval"]
    return f"{result[name]:.1%}" + (f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval else "")
