"""Forms of JSON: wrong suffixes, keys that only some rows have, dialogues and messages as lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import section_record

from medsum_core.data.columns import Columns
from medsum_core.data.records import read_records, read_source
from medsum_core.data.tables import table_from_objects
from medsum_core.data.turns import join_turns
from medsum_core.errors import InputError
from medsum_core.tasks.find import find_task

ROW = {"ID": "1", "section_header": "GENHX", "section_text": "A cough.", "dialogue": "Doctor: Hi.\nPatient: Cough."}
RECORD = section_record(id="1", section_header="GENHX", note="A cough.", dialogue=ROW["dialogue"])
CANARY = "CANARYTEXT"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(path: Path, columns: Columns = Columns()) -> str:  # noqa: B008 - frozen
    with pytest.raises(InputError) as caught:
        read_records(path, columns=columns)
    assert CANARY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name,text,notice",
    [
        ("f.json", json.dumps(ROW) + "\n" + json.dumps({**ROW, "ID": "2"}), "read as JSON lines"),
        ("f.jsonl", json.dumps([ROW, {**ROW, "ID": "2"}], indent=2), "read as one JSON value"),
        ("f.jsonl", json.dumps({"data": [ROW, {**ROW, "ID": "2"}]}), "read as one JSON value"),
        ("f.jsonl", json.dumps(ROW, indent=2) + json.dumps({**ROW, "ID": "2"}, indent=2), "several lines each"),
    ],
)
def test_a_file_with_the_suffix_of_another_form_is_read_and_reported(
    tmp_path: Path, name: str, text: str, notice: str
) -> None:
    (tmp_path / name).write_text(text)
    source = read_source(tmp_path / name)
    assert [record.id for record in source.records] == ["1", "2"]
    assert len(source.notices) == 1 and notice in source.notices[0]


def test_messages_name_the_line_on_which_an_object_begins(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(ROW, indent=1) + "\n\n" + json.dumps({**ROW, "dialogue": 5}, indent=1))
    assert "row 2 (line 8), column 'dialogue': int, not text" in refusal(tmp_path / "f.jsonl")


def test_two_spellings_of_one_key_in_a_row_are_refused() -> None:
    with pytest.raises(InputError, match="row 2: a key occurs twice"):
        table_from_objects("x", [{"ID": "1"}, {"ID": "1", "id": "2"}])


def test_an_object_of_columns_is_refused_with_the_remedy(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "f.json", {name: {"0": f"{CANARY} {text}"} for name, text in ROW.items()}))
    assert "one object of columns" in message and 'to_json(orient="records")' in message


def test_the_keys_of_an_object_of_rows_are_their_ids(tmp_path: Path) -> None:
    rest = {name: text for name, text in ROW.items() if name != "ID"}
    path = write(tmp_path / "f.json", {"V2": rest, "V1": rest})
    assert [record.id for record in read_records(path)] == ["V2", "V1"]
    message = refusal(write(tmp_path / "f.json", {"V2": rest, "V1": {**ROW, "section_text": CANARY}}))
    assert message.endswith("row 2: has a key 'id' of its own beside the one that it stands under")


def test_the_contexts_of_pubmedqas_official_file_are_joined_as_paragraphs(tmp_path: Path) -> None:
    row = {"QUESTION": "Is it?", "CONTEXTS": ["One\n part.", "Two: parts."], "LABELS": ["AIM", "RESULT"]}
    columns = Columns(task=find_task("pubmedqa"))
    rows = {"10001": {**row, "LONG_ANSWER": "So.", "final_decision": "no"}, "10002": {**row, "final_decision": "yes"}}
    first, second = read_records(write(tmp_path / "f.json", rows), columns=columns)
    assert (first.id, first.choice, first.note) == ("10001", "no", "So.") and (second.id, second.note) == ("10002", "")
    assert first.parts == {"question": "Is it?", "context": "One part.\nTwo: parts."}
    for contexts in ([CANARY, 5], [{"said": CANARY}], 7):
        with pytest.raises(InputError, match=r"row 1, column 'CONTEXTS': ") as caught:
            bad = {"1": {**row, "CONTEXTS": contexts, "final_decision": "no"}}
            read_records(write(tmp_path / "f.json", bad), columns=columns)
        assert CANARY not in str(caught.value)


def test_aci_benchs_json_is_read_with_column_flags(tmp_path: Path) -> None:
    row = {"src": "[doctor] hi\n[patient] hello", "tgt": "A note.", "file": "D2N001-virtassist"}
    columns = Columns(id="file", dialogue="src", note="tgt", section="Visit note")
    (record,) = read_records(write(tmp_path / "f.json", {"data": [row]}), columns=columns)
    assert record == section_record(id=row["file"], section_header="Visit note", dialogue=row["src"], note="A note.")


def test_unused_keys_may_be_absent_and_used_ones_may_not(tmp_path: Path) -> None:
    site = {"site": "A", **ROW, "ID": "2"}
    assert [record.id for record in read_records(write(tmp_path / "f.jsonl", ROW, site))] == ["1", "2"]
    short = {name: text for name, text in site.items() if name != "dialogue"}
    message = refusal(write(tmp_path / "f.jsonl", ROW, short))
    assert message.endswith("row 2 (line 2): no key 'dialogue', which other rows have")
    upper = {name.upper(): text for name, text in site.items()}
    assert len(read_records(write(tmp_path / "f.jsonl", ROW, upper))) == 2  # one key, two spellings
    no_note = {name: text for name, text in site.items() if name != "section_text"}
    path = write(tmp_path / "f.jsonl", ROW, no_note)
    assert [record.note for record in read_records(path, require_note=False)] == ["A cough.", ""]


TURN_FORMS: list[list[Any]] = [
    ["Doctor: Hi.", "Patient: Cough."],
    [{"speaker": "Doctor", "text": "Hi."}, {"speaker": "Patient", "text": "Cough."}],
    [{"role": "doctor", "content": "Hi."}, {"role": "patient", "content": "Cough."}],
    ["Doctor: Hi.", {"from": "patient", "value": "Cough.", "start": 1.5}],
    [{"speaker": None, "text": "Doctor: Hi."}, {"utterance": "Patient: Cough."}],
]


@pytest.mark.parametrize("turns", TURN_FORMS)
def test_a_list_of_turns_is_a_dialogue(tmp_path: Path, turns: list[Any]) -> None:
    assert read_records(write(tmp_path / "f.jsonl", {**ROW, "dialogue": turns})) == [RECORD]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1))
def test_each_turn_is_one_line(turns: list[str]) -> None:
    lines = [" ".join(part.strip() for part in turn.splitlines()) for turn in turns]
    assert join_turns(json.dumps(turns)).split("\n") == lines
    spoken = [{"speaker": "nurse", "text": turn} for turn in turns]
    assert join_turns(json.dumps(spoken)).split("\n") == [f"Nurse: {line}" for line in lines]


@pytest.mark.parametrize("turn", [5, None, [CANARY], {"speaker": CANARY}, {"text": 5}, {"speaker": 5, "text": CANARY}])
def test_a_value_that_is_not_a_turn_is_named_by_its_number(tmp_path: Path, turn: Any) -> None:
    message = refusal(write(tmp_path / "f.jsonl", ROW, {**ROW, "ID": "2", "dialogue": ["Hi.", turn]}))
    assert "row 2 (line 2), column 'dialogue': turn 2 " in message


USER, ASSISTANT = {"role": "user", "content": ROW["dialogue"]}, {"role": "assistant", "content": "A cough."}
SYSTEM = {"role": "system", "content": "Write."}
HUMAN, GPT = {"from": "human", "value": ROW["dialogue"]}, {"from": "gpt", "value": "A cough."}
CHAT_FORMS: dict[str, tuple[Any, str]] = {
    "messages": ({"messages": [USER, ASSISTANT]}, "the user's is the dialogue"),
    "with a system turn": ({"messages": [SYSTEM, USER, ASSISTANT]}, "system messages are left out"),
    "conversations": ({"conversations": [HUMAN, GPT]}, "the human's turn is the dialogue"),
    "prompt, completion": ({"prompt": ROW["dialogue"], "completion": "A cough."}, "the completion the note"),
    "prompt, completion as messages": (
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        "the completion the note",
    ),
    "instruction": ({"instruction": "Write.", "input": ROW["dialogue"], "output": "A cough."}, "the instruction is"),
    "messages as text": ({"messages": json.dumps([USER, ASSISTANT])}, "the user's is the dialogue"),
}


@pytest.mark.parametrize("case", CHAT_FORMS)
def test_chat_training_formats_are_read_and_reported(tmp_path: Path, case: str) -> None:
    row, notice = CHAT_FORMS[case]
    source = read_source(write(tmp_path / "f.jsonl", row), columns=Columns(section="GENHX"))
    assert source.records == [RECORD] and len(source.notices) == 1 and notice in source.notices[0]
    with_section = write(tmp_path / "f.jsonl", {**row, "id": "7", "section_header": "ROS"})
    assert [(record.id, record.section_header) for record in read_records(with_section)] == [("7", "ROS")]
    assert "no column 'section_header'" in refusal(write(tmp_path / "f.jsonl", row))


NOT_ONE_PAIR: list[Any] = [
    {"messages": [USER]},
    {"messages": [USER, ASSISTANT, USER, ASSISTANT]},
    {"messages": [ASSISTANT, USER]},
    {"messages": [CANARY, CANARY]},
    {"messages": {"role": CANARY}},
    {"messages": [{"role": "user", "content": [CANARY]}, ASSISTANT]},
    {"messages": f"[{{'role': '{CANARY}'}}]"},
    {"prompt": 5, "completion": CANARY},
    {"instruction": CANARY, "input": [USER], "output": CANARY},
]


@pytest.mark.parametrize("row", NOT_ONE_PAIR)
def test_messages_that_are_not_one_pair_are_refused_by_row_with_the_remedy(tmp_path: Path, row: Any) -> None:
    message = refusal(write(tmp_path / "f.jsonl", row), Columns(section="GENHX"))
    assert "row 1 (line 1): " in message
    assert message.endswith("write the dialogue and the note into columns of their own (dialogue, section_text)")


def test_dialogue_columns_take_precedence_over_messages(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {**ROW, "messages": [USER]})
    assert read_records(path) == [RECORD] and read_source(path).notices == ()
    assert "no column 'talk'" in refusal(write(tmp_path / "f.jsonl", {"messages": [USER]}), Columns(dialogue="talk"))


def test_a_refusal_counts_the_columns_of_the_file_not_those_made_of_messages(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "f.jsonl", {"messages": [USER, ASSISTANT]}))
    assert "no column 'section_header'; the file has 1 column, of which known here: messages." in message
