"""The same table in different formats gives the same records; a refusal names the true cause."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import section_record

from medsum_core.data import tables
from medsum_core.data.columns import Columns
from medsum_core.data.csv_tables import find_separator
from medsum_core.data.records import read_records, read_source
from medsum_core.data.tables import load_table
from medsum_core.errors import InputError
from medsum_core.tasks.find import find_task

NAMES = ["ID", "section_header", "section_text", "dialogue"]
ROW = ["1", "GENHX", "A cough, dry; for 3 days.", "Doctor: Since when?\nPatient: Three days, maybe four."]
RECORD = section_record(id="1", section_header="GENHX", note=ROW[2], dialogue=ROW[3])
CANARY = "CANARYTEXT"


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def as_csv(rows: list[list[str]], separator: str = ",") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert CANARY not in str(caught.value)
    return str(caught.value)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), min_size=1).filter(
    lambda text: any(char.isprintable() and not char.isspace() for char in text)
)


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), extra=st.tuples(TEXT, TEXT))
def test_the_same_table_in_every_form_gives_equal_records(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], extra: tuple[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    names = [*NAMES, f"x{extra[0]}"]
    rows = [[str(number), "CC", *pair, extra[1]] for number, pair in enumerate(cells)]
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    lines = "\n".join(map(json.dumps, objects))
    forms: dict[str, str | bytes] = {
        "comma.csv": as_csv([names, *rows]),
        "semicolon.csv": as_csv([names, *rows], ";"),
        "tab.csv": as_csv([names, *rows], "\t"),
        "tab.tsv": as_csv([names, *rows], "\t"),
        "lines.jsonl": lines,
        "lines.ndjson": lines,
        "lines.json": lines,
        "array.json": json.dumps(objects),
        "array.jsonl": json.dumps(objects, indent=1),
        "data.json": json.dumps({"version": "1", "data": objects}),
        "several.jsonl": "\n".join(json.dumps(entry, indent=2) for entry in objects),
        "UPPER.JSONL": lines,
    }
    forms |= {f"{name}.gz": gzip.compress(text.encode()) for name, text in forms.items() if isinstance(text, str)}
    read = {name: read_records(write(folder / name, data)) for name, data in forms.items()}
    assert [name for name, records in read.items() if records != read["comma.csv"]] == []
    assert [record.id for record in read["comma.csv"]] == [row[0] for row in rows]


@pytest.mark.parametrize("separator,word", [(";", "semicolons"), ("\t", "tabs")])
def test_a_separator_other_than_the_comma_is_reported(tmp_path: Path, separator: str, word: str) -> None:
    source = read_source(write(tmp_path / "f.csv", as_csv([NAMES, ROW], separator)))
    assert source.records == [RECORD]
    assert source.notices == (f"{tmp_path / 'f.csv'}: columns are separated by {word}",)
    assert read_source(write(tmp_path / "g.csv", as_csv([NAMES, ROW]))).notices == ()


@pytest.mark.parametrize(
    "line,separator",
    [("ID;a,b,c,d;dialogue", ";"), ("a,b;c", ","), ("note", ","), ("", ","), ("Export, new\nID;dialogue;note", ";")],
)
def test_the_separator_that_gives_known_column_names_wins_over_the_most_frequent(line: str, separator: str) -> None:
    assert find_separator(line + "\nx,y,z;u") == separator


TITLES = [
    "Clinic export 2024",
    "Clinic export 2024;;;",
    "Clinic export 2024,,,",
    "Clinic export 2024\n\n",
    "From,to\n,",
]


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("separator", [",", ";"])
def test_a_title_line_above_the_column_names_is_refused_as_such(tmp_path: Path, title: str, separator: str) -> None:
    message = refusal(write(tmp_path / "f.csv", f"{title}\n{as_csv([NAMES, ROW], separator)}"))
    assert "line 1 does not look like column names, line " in message and "delete the title" in message
    assert "problems" not in message and "2024" not in message


def test_blank_rows_are_left_out_at_the_end_and_refused_in_between(tmp_path: Path) -> None:
    text = as_csv([NAMES, ROW])
    source = read_source(write(tmp_path / "f.csv", text + ",,,\r\n , ,,\r\n,,\r\n"))
    assert source.records == [RECORD] and "3 blank rows at its end (from line 4) were left out" in source.notices[0]
    message = refusal(write(tmp_path / "f.csv", text + ",,,\r\n" + as_csv([["2", *ROW[1:]]])))
    assert message.endswith("row 2 (line 4): no cell has any text; delete the row")


def test_quotes_after_a_space_are_not_part_of_the_cell(tmp_path: Path) -> None:
    header = "ID, section_header, section_text, dialogue\n"
    spaced = '1, GENHX, "A cough, dry; for 3 days.", "Doctor: Since when?\nPatient: Three days, maybe four."\n'
    for text in (header + spaced, header.replace(" ", "") + spaced):
        source = read_source(write(tmp_path / "f.csv", text))
        assert source.records == [RECORD] and "quotes" in source.notices[0]
    quoted = write(tmp_path / "f.csv", header + '1,CC,"He said, ""no"", ""yes"".",Doctor: hi\n2,CC, "No" he said.,x\n')
    source = read_source(quoted)  # quotes within a cell are text
    assert [record.note for record in source.records] == ['He said, "no", "yes".', '"No" he said.']
    assert source.notices == ()


def test_columns_without_a_name_are_ignored(tmp_path: Path) -> None:
    text = as_csv([["", "", *NAMES], ["0", "0", *ROW]])
    assert read_records(write(tmp_path / "f.csv", text)) == [RECORD]
    assert "columns 5" in refusal(write(tmp_path / "f.csv", as_csv([[*NAMES, "id"], [*ROW, "1"]])))


@pytest.mark.parametrize("names", [["Id", "Section Header", "SECTION_TEXT", "Dialogue"], ["id", *NAMES[1:]]])
def test_column_names_may_have_any_case_and_spaces_for_underscores(tmp_path: Path, names: list[str]) -> None:
    assert read_records(write(tmp_path / "f.csv", as_csv([names, ROW]))) == [RECORD]
    both = as_csv([[*NAMES, "section header"], [*ROW, "ROS"]])
    assert read_records(write(tmp_path / "f.csv", both)) == [RECORD]  # the exact spelling takes precedence


XLSX = b"PK\x03\x04" + bytes(40)
CAUSES: dict[str, tuple[str, str | bytes, list[str]]] = {
    "pipes": ("f.csv", f"ID|section_header|section_text|dialogue\n1|CC|{CANARY}|b\n", ["separated by |"]),
    "one column": ("f.csv", f"note\n{CANARY}, {CANARY}\n", ["2 fields where there are 1 columns", "no comma"]),
    "backslashes": ("f.csv", f'ID,section_text\n1,"Says \\"{CANARY}\\"."\n', ["quotes inside of a cell", '""']),
    "JSON lines in a CSV": ("f.csv", json.dumps({"ID": CANARY}), ["JSON, not CSV", ".jsonl"]),
    "array in a CSV": ("f.csv", json.dumps([{"ID": CANARY}]), ["JSON, not CSV"]),
    "workbook": ("f.csv", XLSX, ["Excel workbook", "CSV UTF-8"]),
    "workbook by its name": ("f.xlsx", XLSX, ["cannot tell the format", "Excel workbook"]),
    "parquet": ("f.parquet", b"PAR1" + bytes(9), ["cannot tell the format", "--dataset_name"]),
    "lines in a text file": ("f.txt", json.dumps({"ID": CANARY}) + "\n", ["name it .jsonl"]),
    "array in a text file": ("f.txt", json.dumps([{"ID": CANARY}]), ["name it .json"]),
    "tabs in a text file": ("f.txt", f"ID\tnote\n1\t{CANARY}\n", ["name it .tsv"]),
    "semicolons in a data file": ("f.dat", f"ID;note\n1;{CANARY}\n", ["name it .csv"]),
    "unknown format": ("f.txt", CANARY, [".csv, .tsv, .jsonl, .ndjson or .json"]),
    "gzip without .gz": ("f.csv", gzip.compress(b"ID\n"), ["compressed by gzip", "end in .gz"]),
    ".gz without gzip": ("f.csv.gz", f"ID\n{CANARY}\n", ["not compressed", "leave .gz out"]),
    "truncated gzip": ("f.csv.gz", gzip.compress(CANARY.encode() * 99)[:-9], ["damaged or cut short"]),
    "workbook in gzip": ("f.csv.gz", gzip.compress(XLSX), ["Excel workbook"]),
    "UTF-16": ("f.csv", f"ID\n{CANARY}\n".encode("utf-16"), ["UTF-16", "save the file as UTF-8"]),
    "Windows-1252": ("f.csv", f"ID\n{CANARY} – “no”\n".encode("cp1252"), ["line 2", "Windows-1252"]),
    "Latin-1": ("f.csv", f"ID\n{CANARY} café\n".encode("latin-1"), ["line 2", "Latin-1"]),
    "unknown encoding": ("f.csv", b"ID\n\x81\xe9\n", ["line 2: not UTF-8 (byte 3); save"]),
    "two faulty rows": ("f.csv", 'ID,note\n1\n2,"x"y\n', ["row 1 (line 2): 1 fields", "row 2 (starts on line 3)"]),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_refusal_names_the_true_cause(tmp_path: Path, case: str) -> None:
    name, data, expected = CAUSES[case]
    message = refusal(write(tmp_path / name, data))
    assert [words for words in expected if words not in message] == [], message


def test_long_cells_are_read_and_too_long_ones_refused_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = csv.field_size_limit()
    long = "x " * limit
    table = write(tmp_path / "f.csv", as_csv([["ID", "note"], ["1", long]]))
    assert load_table(table).rows[0].cells["note"] == long
    monkeypatch.setattr(tables, "MAX_CELL_CHARACTERS", 1000)
    for path in (table, write(tmp_path / "f.json", json.dumps([{"ID": "1", "note": long}]))):
        with pytest.raises(
            InputError, match=rf"row 1.*, column 2: a cell of {2 * limit:,} characters.* 1,000 are read"
        ):
            load_table(path)
    assert csv.field_size_limit() == limit


def test_a_gzip_file_beyond_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsum_core.data.text_files.MAX_UNPACKED_BYTES", 1 << 20)
    path = write(tmp_path / "f.csv.gz", gzip.compress(bytes(2 << 20)))
    assert "unpacks to more than 1 MiB" in refusal(path)


def test_a_refusal_of_unknown_column_names_names_the_flags(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "number,talk,summary\n1,a,b\n")
    message = refusal(path)
    assert "--dialogue_column NAME, --note_column NAME, --section_column NAME (or one section" in message
    columns = Columns(id="number", dialogue="talk", note="summary", section="PLAN")
    assert read_records(path, columns=columns) == [
        section_record(id="1", section_header="PLAN", dialogue="a", note="b")
    ]


@pytest.mark.parametrize("again", [NAMES, ["\ufeffID", *NAMES[1:]], ["ID ", *NAMES[1:]]])
def test_column_names_within_joined_files_are_no_row(tmp_path: Path, again: list[str]) -> None:
    path = write(tmp_path / "f.csv", as_csv([NAMES, ROW, again, ["2", *ROW[1:]]]))
    assert refusal(path) == f"{path}: row 2 (line 4): the column names once more, as where files were joined: delete it"


def test_byte_order_marks_of_joined_files_are_no_part_of_a_column_name(tmp_path: Path) -> None:
    """Else the ids' column is not found, and the rows are numbered."""
    text = as_csv([NAMES, ["V7", *ROW[1:]]])
    assert [record.id for record in read_records(write(tmp_path / "f.csv", "\ufeff\ufeff" + text))] == ["V7"]


@pytest.mark.parametrize("column", [1, 2, 3])
def test_a_cell_of_invisible_characters_is_empty(tmp_path: Path, column: int) -> None:
    row = [*ROW[:column], "\u200b\n\u2060\0", *ROW[column + 1 :]]
    path = write(tmp_path / "f.csv", as_csv([NAMES, row]))
    assert refusal(path) == f"{path}: row 1 (line 2), column {NAMES[column]!r}: empty"


def test_a_speaker_that_is_a_number_is_named_as_the_fault(tmp_path: Path) -> None:
    turns = [{"speaker": 0, "text": CANARY}]
    path = write(tmp_path / "f.json", json.dumps([dict(zip(NAMES, [*ROW[:3], turns], strict=True))]))
    assert "turn 1 names its speaker by int; write a name, such as Doctor" in refusal(path)


@pytest.mark.parametrize(
    ("task", "columns", "which"),
    [
        ("section", {"note": "dialogue"}, "dialogue"),
        ("section", {"dialogue": "section_text"}, "dialogue"),
        ("section", {"note": "section_header"}, "section_header"),
        ("pubmedqa", {"dialogue": "final_decision"}, "context"),
    ],
)
def test_the_answer_is_not_read_from_a_column_of_the_prompt(
    tmp_path: Path, task: str, columns: dict[str, str], which: str
) -> None:
    path = write(tmp_path / "f.csv", as_csv([[*NAMES, "question", "final_decision"], [*ROW, "Why?", "yes"]]))
    with pytest.raises(InputError, match=f"the answer's column is also that of the prompt's {which}, so that"):
        read_records(path, columns=Columns(task=find_task(task), **columns))
    assert read_records(path, columns=Columns(task=find_task(task), **columns), require_note=False)


def test_rows_whose_answer_is_the_choice_alone_are_counted(tmp_path: Path) -> None:
    """A misspelt column of texts would else train on headers alone, without a word."""
    columns = Columns(task=find_task("section-with-header"))
    path = write(tmp_path / "f.csv", as_csv([NAMES, ROW, ["2", "CC", "", "Doctor: Hi."]]))
    said = "1 of 2 rows have no 'section_text', so their answer is the choice alone: row 2 (line 4)"
    assert read_source(path, columns=columns).notices == (f"{path}: {said}",)
    assert read_source(path, columns=columns, require_note=False).notices == ()
    path = write(tmp_path / "f.csv", as_csv([[*NAMES[:2], "section_txt", "dialogue"], ROW]))
    (notice,) = read_source(path, columns=columns).notices
    assert "1 of 1 rows have no 'section_text'" in notice
