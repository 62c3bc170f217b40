"""Several files as one set of rows: ids are made unique, rows and shared dialogues are counted by file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import section_record

from medsum_core.data.columns import Columns
from medsum_core.data.records import Record, SourceRows, number_doubled, read_records
from medsum_core.data.sources import describe_sources, join_sources, read_sources
from medsum_core.errors import InputError

NAMES = ("ID", "section_header", "section_text", "dialogue")


def write(path: Path, *rows: Sequence[str], names: Sequence[str] = NAMES) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def row(id: str, *, section: str = "CC", dialogue: str = "") -> tuple[str, ...]:
    return id, section, "A note.", dialogue or f"Doctor: {id}"


def source(name: str, *ids: str, dialogues: Sequence[str] = ()) -> SourceRows:
    texts = dialogues or [f"{name} {id}" for id in ids]
    records = [
        section_record(id=id, section_header="CC", dialogue=text, note="n") for id, text in zip(ids, texts, strict=True)
    ]
    return SourceRows(name=name, records=records, notices=())


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


def test_ids_that_are_unique_over_all_files_are_unchanged() -> None:
    records, notices = join_sources([source("a.csv", "1", "2"), source("b.csv", "3")])
    assert ids(records) == ["1", "2", "3"] and notices == []
    assert join_sources([]) == ([], [])


def test_ids_that_occur_in_several_files_get_the_file_name_as_prefix() -> None:
    records, (notice,) = join_sources([source("x/a.csv", "1", "2"), source("y/b.v2.csv.gz", "2", "3")])
    assert ids(records) == ["a:1", "a:2", "b:2", "b:3"]
    assert notice == "1 ids occur in several files, so all have their file's name in front: a:ID, b:ID"


@pytest.mark.parametrize("name", ["x/a.csv", "anna zebrafinch.csv", "=cmd.csv", f"{'x' * 30}.csv", ".csv"])
def test_a_file_name_that_cannot_be_a_prefix_becomes_a_number(name: str) -> None:
    records, (notice,) = join_sources([source("y/a.csv", "1"), source(name, "1")])
    assert ids(records) == ["file1:1", "file2:1"] and notice.endswith("file1:ID, file2:ID")


def test_rows_are_counted_by_file_and_shared_dialogues_by_pair_of_files() -> None:
    first = source("a.csv", "1", "2", "3", dialogues=["x", "y", "z"])
    second = source("b.csv", "4", "5", dialogues=["y", "new"])
    held_out = source("v.csv", "1", "2", dialogues=["x  ", "new"])
    assert describe_sources([first, second], [held_out]) == [
        "training rows by file: 3 of a.csv, 2 of b.csv",
        "validation rows by file: 2 of v.csv",
        "1 source texts of b.csv are in a.csv too",
        "1 source texts of v.csv are in a.csv too",
        "1 source texts of v.csv are in b.csv too",
    ]
    assert describe_sources([first], [held_out]) == []


def test_the_faults_of_all_files_are_in_one_message(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.csv", row("")), write(tmp_path / "b.csv", row("1")), tmp_path / "c.csv"]
    with pytest.raises(InputError, match=r"(?s)2 problems.*a\.csv: row 1 .*c\.csv: no such file"):
        read_sources(paths)


def test_number_rows_numbers_the_rows_that_share_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", row("V7"), row("V8"), row("V7", section="ROS"))
    with pytest.raises(InputError, match=r"row 3 .*the same id as row 1 \(--number_rows tells them apart\)"):
        read_records(path)
    assert ids(read_records(path, columns=Columns(number_rows=True))) == ["V7#1", "V8", "V7#2"]
    clash = write(tmp_path / "f.csv", row("V7"), row("V7#1"), row("V7"))
    with pytest.raises(InputError, match=r"row 2 .*the same id as row 1"):
        read_records(clash, columns=Columns(number_rows=True))


@given(st.lists(st.sampled_from(["a", "b", "c", ""])))
def test_numbering_changes_duplicate_ids_only_and_is_idempotent(given_ids: list[str]) -> None:
    once = number_doubled(given_ids)
    assert number_doubled(once) == once
    assert [new.partition("#")[0] for new in once] == given_ids
    assert [new for new, old in zip(once, given_ids, strict=True) if given_ids.count(old) == 1 or not old] == [
        old for old in given_ids if given_ids.count(old) == 1 or not old
    ]
    assert len({new for new in once if new}) == sum(bool(old) for old in given_ids)


def test_a_section_for_all_rows_replaces_the_column(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", ("1", "a", "b"), names=("ID", "dialogue", "section_text"))
    (record,) = read_records(path, columns=Columns(section=" GENHX "))
    assert record.section_header == "GENHX"
    path = write(tmp_path / "f.csv", row("1", section="=formula"))  # not read, so not refused
    assert read_records(path, columns=Columns(section="PLAN"))[0].section_header == "PLAN"
    for section in ("", " ", "=1+1"):
        with pytest.raises(InputError, match="--section: "):
            Columns(section=section)
