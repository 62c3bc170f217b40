"""Combine several files to the rows of one run: unique ids, counts by file, shared dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from medsum_core.data.columns import DEFAULT_COLUMNS, Columns
from medsum_core.data.disclosure import runs_in_spreadsheet
from medsum_core.data.records import Record, SourceRows, dialogue_key, read_source
from medsum_core.errors import InputError, raise_all

MAX_LABEL = 24


def read_sources(
    paths: Sequence[str | Path], *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True
) -> list[SourceRows]:
    """`read_source` of each file. Raises InputError with the problems of all of them."""
    sources, problems = [], []
    for path in paths:
        try:
            sources.append(read_source(path, columns=columns, require_note=require_note))
        except InputError as error:
            problems.append(str(error))
    raise_all(problems)
    return sources


def join_sources(sources: Sequence[SourceRows]) -> tuple[list[Record], list[str]]:
    """The records of all files in order, and notices about changed ids.

    If an id occurs in several files (rows of files without ids are numbered from 1 in each), every id gets its file's
    name in front: `clinic_a:1`.
    """
    counts = Counter(record.id for source in sources for record in source.records)
    if len(counts) == sum(counts.values()):
        return [record for source in sources for record in source.records], []
    labels = _labels([source.name for source in sources])
    records = [
        replace(record, id=label + ":" + record.id)
        for label, source in zip(labels, sources, strict=True)
        for record in source.records
    ]
    doubled = sum(count > 1 for count in counts.values())
    shown = ", ".join(f"{label}:ID" for label in labels)
    return records, [f"{doubled} ids occur in several files, so all have their file's name in front: {shown}"]


def describe_sources(train: Sequence[SourceRows], validation: Sequence[SourceRows]) -> list[str]:
    """Lines with the rows by file and the number of source texts that two files share; none for single files."""
    if len(train) < 2 and len(validation) < 2:
        return []
    lines = [
        f"{purpose} rows by file: " + ", ".join(f"{len(source.records)} of {source.name}" for source in sources)
        for purpose, sources in (("training", train), ("validation", validation))
        if sources
    ]
    keys = [(source.name, {dialogue_key(record.source_text) for record in source.records}) for source in train]
    keys += [(source.name, {dialogue_key(record.source_text) for record in source.records}) for source in validation]
    shared = [(one, other, len(mine & theirs)) for (one, mine), (other, theirs) in combinations(keys, 2)]
    return lines + [f"{count} source texts of {other} are in {one} too" for one, other, count in shared if count]


def _labels(names: Sequence[str]) -> list[str]:
    """A short name for each file: its name up to the first dot, or `file1, file2` if one of those is unsuitable."""
    stems = [Path(name).name.partition(".")[0] for name in names]
    fits = all(
        stem and len(stem) <= MAX_LABEL and not runs_in_spreadsheet(stem) and not any(map(str.isspace, stem))
        for stem in stems
    )
    if fits and len(set(stems)) == len(stems):
        return stems
    return [f"file{number}" for number, _ in enumerate(names, start=1)]
