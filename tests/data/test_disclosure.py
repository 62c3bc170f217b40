"""Messages name rows and columns without repeating their text; no cell that is written runs as a spreadsheet formula."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medsum_core.data.disclosure import (
    MAX_CHARACTERS,
    MAX_IDS,
    describe_columns,
    escape,
    runs_in_spreadsheet,
    show_column,
    show_id,
    show_ids,
)
from medsum_core.data.records import read_records
from medsum_core.errors import InputError
from medsum_core.grounding.report import check_file
from medsum_core.process import run_as_script
from medsum_core.score.files import read_predictions

NAME = "Anna Zebrafinch"


@pytest.mark.parametrize("id", ["0", "D2N001", "train-1:a/b.c#7", "Ä9", "x" * MAX_CHARACTERS])
def test_an_id_without_free_text_is_shown_unchanged(id: str) -> None:
    assert show_id(id) == id


@pytest.mark.parametrize("id", [NAME, "Doctor: Hi\nPatient: Hello", "x" * (MAX_CHARACTERS + 1), "a\u2028b", ""])
def test_an_id_that_may_be_text_is_shown_by_its_length_only(id: str) -> None:
    assert show_id(id) == f"<id of {len(id)} characters>"


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x00", "\x7f", "\x9b", "\u202e", "\u200b", "\ud800"])
def test_no_control_or_invisible_character_reaches_a_terminal(character: str) -> None:
    for shown in (show_id(f"a{character}b"), escape(f"a{character}b")):
        assert shown.isprintable() and shown.startswith("a\\") and shown.endswith("b")


def test_the_first_ids_are_shown_and_the_others_counted() -> None:
    assert show_ids([]) == "none"
    assert show_ids(["1", NAME]) == "1, <id of 15 characters>"
    assert show_ids(map(str, range(MAX_IDS + 3))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"


def test_columns_are_counted_and_only_known_names_shown() -> None:
    assert describe_columns(["Id", NAME, "DIALOGUE"]) == "the file has 3 columns, of which known here: Id, DIALOGUE"
    for header in ([NAME], ["Zebrafinch", "Anna", "cough"]):
        message = describe_columns(header)
        assert f"{len(header)} column" in message and "first row" in message
        assert not any(name in message for name in header)


def test_a_column_whose_name_may_be_text_is_shown_by_its_number(tmp_path: Path) -> None:
    assert [show_column(name, 3) for name in ("Dialogue", "Section Text", NAME)] == [
        "'Dialogue'",
        "'Section Text'",
        "3",
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"ID": "1", NAME: "half a character: \ud83d"}))
    with pytest.raises(InputError, match=r"row 1 \(line 1\): column 2 holds half a character"):
        read_records(path)


FORMULAS = ["=1", "=cmd|' /C calc'!A0", "+1", "@SUM(A1)", "-1+1", "-x", "\t=1", "\tx", "\r=1", "  =1", "＝1", "－x"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_formulas_are_recognised(cell: str) -> None:
    assert runs_in_spreadsheet(cell)


@pytest.mark.parametrize("cell", ["", "-", "-1", "-1.5", "-2,000", "1=1", "a@b", "CC", "x+y"])
def test_other_cells_are_not_taken_for_formulas(cell: str) -> None:
    assert not runs_in_spreadsheet(cell)


def read_for_scoring(path: Path) -> None:
    read_predictions(path)


def read_for_grounding(path: Path) -> None:
    check_file(path)


@pytest.mark.parametrize("read", [read_records, read_for_scoring, read_for_grounding])
def test_an_id_that_a_spreadsheet_would_run_is_refused_naming_the_row(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("ID,section_header,section_text,dialogue\n1,CC,=note,=talk\n@x,CC,a,b\n-3,CC,a,b\n")
    with pytest.raises(InputError, match=r"row 2 \(line 3\), column 'ID': begins like a formula") as caught:
        read(path)
    assert "row 1" not in str(caught.value) and "row 3" not in str(
        caught.value
    )  # formulas in notes and negative numbers are allowed


@pytest.mark.parametrize("read", [read_records, read_for_scoring])
def test_a_header_that_a_spreadsheet_would_run_is_refused_naming_the_row(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('ID,section_header,section_text,dialogue\n1,CC,a,b\n2,"=HYPERLINK(1)",a,b\n')
    with pytest.raises(InputError, match=r"row 2 \(line 3\), column 'section_header': begins like a formula"):
        read(path)


def test_the_text_of_notes_and_dialogues_is_untouched(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("ID,section_header,section_text,dialogue\n1,CC,=2+2,@all: hi\n")
    [record] = read_records(path)
    assert (record.note, record.source_text) == ("=2+2", "@all: hi")


def test_a_message_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise InputError("no such file: a\x1b[31mb\rc\nand more")

    assert run_as_script(fail) == 2
    assert capsys.readouterr().err == "error: no such file: a\\x1b[31mb\\rc\nand more\n"


ROOT = Path(__file__).parents[2]
SHOWN_SAFELY = {"show_id", "show_ids", "id_list", "len"}


def unescaped_ids(node: ast.AST) -> list[ast.AST]:
    """The expressions under `node` that read a row's id outside a call of one of SHOWN_SAFELY."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SHOWN_SAFELY:
        return []
    is_id = (isinstance(node, ast.Attribute) and node.attr in ("id", "ids")) or (
        isinstance(node, ast.Name) and node.id in ("id", "id_", "ids")
    )
    return [node] * is_id + [found for child in ast.iter_child_nodes(node) for found in unescaped_ids(child)]


def test_no_message_formats_an_id_without_escaping() -> None:
    sources = [ROOT / "train_loop.py", ROOT / "infer.py", *(ROOT / "medsum_core").rglob("*.py")]
    formatted = [
        (path.name, value.lineno)
        for path in sources
        for value in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(value, ast.FormattedValue) and unescaped_ids(value)
    ]
    assert len(sources) > 50 and formatted == []
    probe = ast.parse('f"rows {row.id} and {show_id(row.id)}"')
    assert len(unescaped_ids(probe)) == 1
