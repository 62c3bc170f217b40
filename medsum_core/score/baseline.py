"""Another system's notes of the validation rows (`--baseline_file`), to be compared with ours in the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsum_core.data.columns import Columns
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import Record, whole_records
from medsum_core.errors import InputError
from medsum_core.score.files import read_predictions
from medsum_core.tasks.task import Task


def read_baseline(path: str | Path, records: Sequence[Record], task: Task) -> dict[str, str]:
    """The file's notes by the id of their row or visit; other rows of the file are skipped.

    Raises InputError for an unreadable file, and if a row has no note in it.
    """
    ids = [record.id for record in whole_records(records, task)]
    notes = {record.id: record.note for record in read_predictions(Path(path), columns=Columns(task=task)).records}
    if missing := [id for id in ids if id not in notes]:
        raise InputError(
            f"--baseline_file {path}: no note for {len(missing)} validation rows (ids {show_ids(missing)})"
        )
    return {id: notes[id] for id in ids}
