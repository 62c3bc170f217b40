"""Every fault of an input file is named by row and column, without its text; every accepted cell is unchanged."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import section_record

from medsum_core.data.csv_tables import csv_text
from medsum_core.data.records import (
    Columns,
    Record,
    find_repeats,
    find_shared,
    normalise_dialogue,
    normalise_text,
    read_records,
    records_fingerprint,
)
from medsum_core.data.rows import MAX_PROBLEMS_SHOWN
from medsum_core.data.tables import read_table
from medsum_core.errors import InputError
from medsum_core.tasks.section_names import SECTION_NAMES, section_name

HEAD = "ID,section_header,section_text,dialogue\n"
CANARY = "CANARYTEXT"
REAL = Path(__file__).parents[3] / "shared" / "data" / "mts-dialog"


def write(folder: Path, text: str | bytes, name: str = "f.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert str(path) in message
    assert CANARY not in message
    return message


BAD_CSV = {
    "extra field": (HEAD + f'0,CC,a,"Doctor: {CANARY}",x\n', ["row 1 (line 2)", "5 fields", "4 columns"]),
    "short row": (HEAD + f"0,CC,a,b\n1,CC,{CANARY}\n", ["row 2 (line 3)", "3 fields"]),
    "text after quote": (HEAD + f'0,CC,"a"{CANARY},b\n', ["row 1", "line 2", "bad CSV"]),
    "open quote": (HEAD + f'0,CC,a,b\n1,CC,"{CANARY},b\n', ["row 2", "line 3", "quote"]),
    "latin-1": ((HEAD + "0,CC,a,b\n1,CC,caf\xe9,b\n").encode("latin-1"), ["line 3", "UTF-8"]),
    "utf-16": ((HEAD + "0,CC,a,b\n").encode("utf-16"), ["UTF-8"]),
    "empty": (b"", ["empty"]),
    "blank": ("\ufeff \r\n", ["empty"]),
    "header only": (HEAD, ["no rows"]),
    "empty note": (HEAD + f"0,CC, ,{CANARY}\n", ["row 1 (line 2)", "'section_text'", "empty"]),
    "empty dialogue": (HEAD + f"0,CC,{CANARY},\n", ["'dialogue'", "empty"]),
    "empty header": (HEAD + f"0,,{CANARY},b\n", ["'section_header'", "empty"]),
    "empty id": (HEAD + f",CC,{CANARY},b\n", ["'ID'", "empty"]),
    "doubled id": (HEAD + f"{CANARY},CC,a,b\n1,CC,a,c\n{CANARY},CC,a,d\n", ["row 3 (line 4)", "'ID'", "row 1"]),
    "doubled column": (f"ID,section_header,section_text,dialogue,id\n0,CC,{CANARY},b,1\n", ["columns 5"]),
    "no dialogue column": (
        f"ID,section_header,section_text,talk\n0,CC,a,{CANARY}\n",
        ["'dialogue'", "4 columns", "section_text"],
    ),
    "no column names": (
        f"0,GENHX,The patient has {CANARY},Doctor: hello there\n1,a,b,c\n",
        ["'dialogue'", "first row"],
    ),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_is_refused_by_row_line_and_column(tmp_path: Path, case: str) -> None:
    content, expected = BAD_CSV[case]
    message = refusal(write(tmp_path, content))
    assert [words for words in expected if words not in message] == [], message


BAD_JSON = {
    "null": ({"section_text": None}, ["'section_text'", "empty"]),
    "list": ({"section_text": [CANARY]}, ["'section_text'", "list, not text"]),
    "number": ({"dialogue": 5}, ["'dialogue'", "int, not text"]),
    "bool id": ({"ID": True}, ["'ID'", "bool, not text"]),
    "surrogate": ({"dialogue": f"{CANARY} \ud83d"}, ["'dialogue'", "surrogate"]),
}


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_bad_json_values_are_refused(tmp_path: Path, case: str, suffix: str) -> None:
    change, expected = BAD_JSON[case]
    good = {"ID": "0", "section_header": "CC", "section_text": "a", "dialogue": "b"}
    rows = [good, {**good, "ID": "1", **change}]
    text = "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows)
    message = refusal(write(tmp_path, text, "f" + suffix))
    assert [words for words in ["row 2", *expected] if words not in message] == [], message


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("f.jsonl", '{"ID": "0"\n', "row 1 (line 1)"),
        ("f.jsonl", '{"a": "1", "A": "2"}\n', "twice"),
        ("f.jsonl", '{"dialogue": "1"}\n\n[]\n', "row 2 (line 3)"),
        ("f.jsonl", '["a"]\n', "not a JSON object"),
        ("f.json", '"a"', "not an array"),
        ("f.json", '{"a": {"0": "1"}}', "array of rows"),
        ("f.json", "[]", "no rows"),
        ("f.json", "[\n{]", "line 2"),
        ("f.jsonl", "[" * 100_000, "nested too deeply"),
        ("f.xml", "a", "format"),
    ],
)
def test_bad_json_files_are_refused(tmp_path: Path, name: str, text: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, text, name))


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.csv")


def test_all_problems_of_a_file_are_in_one_message_up_to_a_limit(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, HEAD + "0,,a,b\n0,CC,,b\n2,CC,a,\n"))
    assert message.startswith("4 problems")
    message = refusal(write(tmp_path, HEAD + "".join(f"{n},,a,b\n" for n in range(50))))
    assert message.count("row ") == MAX_PROBLEMS_SHOWN
    assert "and 30 more problems" in message


@pytest.mark.parametrize("word", ["None", "N/A", "null", "nan", "NA", "", "0012", "TRUE", "=1+1"])
def test_cells_are_never_converted(tmp_path: Path, word: str) -> None:
    path = write(tmp_path, HEAD + f"007,CC,{word},Doctor: hi\n")
    (record,) = read_records(path, require_note=bool(word))
    assert (record.id, record.note) == ("007", word)


def test_crlf_bom_and_lf_copies_give_the_same_records(tmp_path: Path) -> None:
    text = (
        HEAD
        + '0,CC,"a\nb","Doctor: Hi\n Patient : Yo \n\nGuest_clinican: x\nGest_family:y\nDocotr_2: z\nGuest_family2: w"\n'
    )
    copies = [
        text.encode(),
        text.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(),
    ]
    read = [read_records(write(tmp_path, copy, f"{number}.csv")) for number, copy in enumerate(copies)]
    assert all(records == read[0] for records in read)
    assert len({records_fingerprint(records) for records in read}) == 1
    assert read[0][0].source_text.split("\n") == [
        "Doctor: Hi",
        "Patient: Yo",
        "Guest_clinician: x",
        "Guest_family: y",
        "Doctor_2: z",
        "Guest_family_2: w",
    ]
    assert read[0][0].note == "a\nb"


def test_unknown_speaker_tags_and_other_colons_are_unchanged() -> None:
    text = "Dr. Smith : Take two: one now.\nDoctor's office: open\nPATIENT: ok  then\nThe Doctor: no"
    assert normalise_dialogue(text) == text


def test_byte_order_marks_inside_a_file_are_removed(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "\ufeff7,\ufeffCC,\ufeffNone.,\ufeffDoctor: hi\n")
    assert read_records(path) == [section_record(id="7", section_header="CC", dialogue="Doctor: hi", note="None.")]


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_dialogue(text)
    assert normalise_dialogue(once) == once
    assert normalise_text(normalise_text(text)) == normalise_text(text)


CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), min_size=1).filter(
    lambda text: bool(text.strip())
)


@settings(max_examples=50)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_every_cell_survives_csv_and_jsonl(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("first column", "second column"), *cells])
    expected = [{"first column": a, "second column": b} for a, b in cells]
    lines = "\n".join(map(json.dumps, expected))
    assert read_table(write(folder, out.getvalue())) == expected
    assert read_table(write(folder, csv_text(("first column", "second column"), cells))) == expected
    assert read_table(write(folder, lines, "f.jsonl")) == expected
    assert read_table(write(folder, json.dumps(expected), "f.json")) == expected


@pytest.mark.parametrize("cell", ["a\rb", "a\r\nb", '"\r', "\r", "a\nb", 'say "a", b'])
def test_no_character_of_a_cell_ends_its_row(cell: str) -> None:
    """Before 3.13 Python's own writer left a lone carriage return without quotes."""
    rows = [["1", cell], ["2", "plain"]]
    assert list(csv.reader(io.StringIO(csv_text(("id", "note"), rows), newline=""))) == [["id", "note"], *rows]
    assert csv_text(("id", "note"), rows[1:]) == "id,note\n2,plain\n"


def test_column_names_ignore_case_and_can_be_chosen_and_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path, "Dialogue,SECTION_HEADER,Section_Text\nDoctor: hi,CC,a\n\nDoctor: ho,ROS,b\n")
    assert [record.id for record in read_records(path)] == ["1", "2"]
    path = write(tmp_path, "talk,part,key\nDoctor: hi,CC,k1\n")
    columns = Columns(id="Key", dialogue="TALK", section_header="Part")
    expected = section_record(id="k1", section_header="CC", dialogue="Doctor: hi", note="")
    assert read_records(path, columns=columns, require_note=False) == [expected]
    assert "'section_text'" in refusal(path, columns=columns)
    assert "'uid'" in refusal(path, columns=Columns(id="uid", dialogue="talk", section_header="part", note="talk"))


def test_json_ids_may_be_numbers(tmp_path: Path) -> None:
    row = {"id": 7, "section_header": "CC", "section_text": "a", "dialogue": "b", "turns": [1, None]}
    (record,) = read_records(write(tmp_path, json.dumps(row), "f.jsonl"))
    assert record.id == "7"


def test_a_section_code_becomes_its_name_and_other_headers_stay() -> None:
    assert len(SECTION_NAMES) == 20
    assert section_name(" genhx ") == "History of present illness"
    assert section_name("CHIEF complaint") == "Chief complaint"
    assert section_name("Wound care") == "Wound care"


def record(number: int, dialogue: str, **changes: str) -> Record:
    return section_record(**{"id": str(number), "section_header": "CC", "dialogue": dialogue, "note": "n", **changes})


def test_repeated_and_shared_dialogues_are_found_despite_other_white_space() -> None:
    train = [record(0, "Doctor: a  b\nPatient: c"), record(1, "Doctor: x"), record(2, "Doctor: a b Patient: c")]
    assert find_repeats(train) == ["2"]
    assert find_shared(train, [record(8, "Doctor: y"), record(9, "Doctor:  x")]) == ["9"]


def test_the_fingerprint_depends_on_every_field_and_on_the_order() -> None:
    base = [record(0, "a"), record(1, "b")]
    others = [
        base[::-1],
        base[:1],
        [record(0, "ab"), record(1, "")],
        [record(0, "a", note="m"), base[1]],
        [record(0, "a", section_header="ROS"), base[1]],
        [record(5, "a"), base[1]],
    ]
    prints = {records_fingerprint(records) for records in [base, *others]}
    assert len(prints) == len(others) + 1
    assert records_fingerprint(base) == records_fingerprint(list(base))


@pytest.mark.skipif(not REAL.is_dir(), reason="MTS-Dialog is not beside the checkout (../shared/data)")
def test_counts_and_repeats_of_the_official_files() -> None:
    train, valid = (read_records(REAL / f"MTS-Dialog-{name}Set.csv") for name in ("Training", "Validation"))
    assert (len(train), len(valid)) == (1201, 100)
    assert {row.section_header for row in train} == set(SECTION_NAMES)
    assert len(find_repeats(train)) == 2
    assert find_shared(train, valid) == ["4", "58"]
    assert not any("\r" in row.source_text + row.note for row in [*train, *valid])
    tags = {line.split(":")[0] for row in [*train, *valid] for line in row.source_text.split("\n") if ":" in line[:20]}
    known = {"Doctor", "Patient", "Guest_family", "Guest_clinician", "Doctor_2", "Guest_family_1", "Guest_family_2"}
    assert tags == known


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert "a pipe or a device, not a file" in refusal(tmp_path / "pipe.csv")


def test_a_number_of_too_many_digits_is_refused_as_such(tmp_path: Path) -> None:
    path = write(tmp_path, '{"ID": 1' + "0" * 5000 + "}", "f.jsonl")
    assert "row 1 (line 1): not a JSON object (a number of too many digits)" in refusal(path)


def test_values_of_any_depth_are_read_or_refused(tmp_path: Path) -> None:
    """json.loads and json.dumps reach their recursion limits at depths that differ by one; neither error may escape."""
    for depth in range(900, 1010):
        path = write(tmp_path, '{"ID": 1, "x": ' + "[" * depth + "]" * depth + "}", "f.jsonl")
        with contextlib.suppress(InputError):
            read_table(path)
