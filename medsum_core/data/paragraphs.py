"""A text that a file holds as a list of its paragraphs, as PubMedQA's official JSON has its contexts."""

from __future__ import annotations

import json
from dataclasses import replace

from medsum_core.data.rows import Table, raise_problems
from medsum_core.data.turns import TurnError

OFFICIAL_COLUMN = "CONTEXTS"
CONTEXT_COLUMN = "context"


def join_paragraphs(value: str) -> str:
    """A JSON list of strings as text, a line each; newlines inside become spaces. Raises TurnError for others."""
    parts = json.loads(value)
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise TurnError("a list of more than texts")
    return "\n".join(" ".join(line.strip() for line in part.splitlines()) for part in parts)


def with_context(table: Table) -> Table:
    """The table with the column `context`, joined from PubMedQA's `CONTEXTS`; as it is where it has no such column.

    Raises InputError for rows without a list of texts there.
    """
    name = table.find_column(OFFICIAL_COLUMN)
    if name is None or table.find_column(CONTEXT_COLUMN):
        return table
    rows, problems = [], []
    for row in table.rows:
        try:
            if row.not_text.get(name) != "list":
                raise TurnError("no list of texts")
            rows.append(replace(row, cells={**row.cells, CONTEXT_COLUMN: join_paragraphs(row.cells[name])}))
        except TurnError as error:
            problems.append(f"{row.place}, column {name!r}: {error}")
    raise_problems(table.source, problems)
    return replace(table, columns=(*table.columns, CONTEXT_COLUMN), rows=tuple(rows))
