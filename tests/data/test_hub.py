"""Data sets of the hub, by name or folder: configurations, splits, no copies left behind; each failure is one message."""

from __future__ import annotations

import json
import socket
import tempfile
from datetime import date
from pathlib import Path

import pytest

from medsum_core.data.columns import Columns
from medsum_core.data.hub import NO_SPLIT, hub_warning, load_hub
from medsum_core.errors import InputError
from medsum_core.tasks.find import find_task

CANARY = "CANARYTEXT"
CONTENT = f"ID,section_header,section_text,dialogue\r\n0,CC,None,Doctor: {CANARY}\r\n1,ROS,N/A,Doctor: x\r\n".encode()


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the hub's layout, and a temporary folder of its own, to find leftovers."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.csv").write_bytes(CONTENT)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


def files_with_canary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_hub_rows_stay_text_and_leave_no_temporary_copy(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: made.append(mkdtemp(**options)) or made[-1])
    records = load_hub(str(hub_folder), offline=True).train.records
    assert [(record.id, record.note) for record in records] == [("0", "None"), ("1", "N/A")]
    assert made and not any(Path(folder).exists() for folder in made)
    assert files_with_canary(tmp_path) == [hub_folder / "train.csv"]


def test_hub_failures_are_one_message_without_text(hub_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'dev': it has train"):
        load_hub(str(hub_folder), train_split="dev")
    (hub_folder / "train.csv").write_bytes(CONTENT + f'2,CC,a,"{CANARY}\r\n3,"x"{CANARY},,,,,\r\n'.encode())
    with pytest.raises(InputError, match=r"cannot be loaded \(\w+\)") as caught:
        load_hub(str(hub_folder))
    assert CANARY not in str(caught.value)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_hub_rows_are_checked_like_a_file(hub_folder: Path) -> None:
    (hub_folder / "train.csv").write_bytes(CONTENT + f"0,CC,{CANARY},\r\n".encode())
    with pytest.raises(InputError, match=r"(?s)row 3, column 'dialogue': empty.*the same id as row 1") as caught:
        load_hub(str(hub_folder))
    assert CANARY not in str(caught.value)


def test_a_hub_name_with_offline_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(InputError, match=r"--offline forbids.*--train_file"):
        load_hub("some-owner/some-data", offline=True)


def test_the_rewritten_mirror_of_mts_dialog_is_warned_of() -> None:
    warning = hub_warning("har1/MTS_Dialogue-Clinical_Note")
    assert warning and "rewritten" in warning and "validation rows" in warning
    assert hub_warning("mts-dialog") is None


def write_split(path: Path, *numbers: int) -> Path:
    """JSON lines with these ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"section_header": "CC", "section_text": "A cough.", "dialogue": "Doctor: Hi."}
    path.write_text("".join(json.dumps({"ID": str(number), **row}) + "\n" for number in numbers))
    return path


def ids(source: object) -> list[str]:
    return [record.id for record in source.records]  # type: ignore[attr-defined]


def test_the_data_sets_own_validation_split_is_used_and_reported(tmp_path: Path) -> None:
    write_split(tmp_path / "train.jsonl", 1, 2)
    write_split(tmp_path / "validation.jsonl", 3)
    rows = load_hub(str(tmp_path))
    assert rows.validation is not None
    assert (ids(rows.train), ids(rows.validation)) == (["1", "2"], ["3"])
    assert "trained on split train, validated on split validation" in rows.notices[0]
    assert load_hub(str(tmp_path), validation_split=NO_SPLIT).validation is None
    other = load_hub(str(tmp_path), train_split="validation", validation_split="train")
    assert other.validation is not None and (ids(other.train), ids(other.validation)) == (["3"], ["1", "2"])
    with pytest.raises(InputError, match="both 'train'"):
        load_hub(str(tmp_path), validation_split="train")


def test_without_a_validation_split_the_notice_names_the_splits(tmp_path: Path) -> None:
    write_split(tmp_path / "train.jsonl", 1)
    write_split(tmp_path / "test.jsonl", 2)
    rows = load_hub(str(tmp_path))
    assert rows.validation is None
    assert "no validation split (of train, test): nothing to evaluate on" in rows.notices[0]
    assert "--validation_split" in rows.notices[0]
    chosen = load_hub(str(tmp_path), validation_split="test").validation
    assert chosen is not None and ids(chosen) == ["2"]
    with pytest.raises(InputError, match=r"--validation_split: .* no split 'dev': it has train, test"):
        load_hub(str(tmp_path), validation_split="dev")


def test_one_of_several_configurations_must_be_chosen(tmp_path: Path) -> None:
    write_split(tmp_path / "one.jsonl", 1)
    write_split(tmp_path / "two.jsonl", 2)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.jsonl\n" for name in ("one", "two")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in (None, "three"):
        with pytest.raises(InputError, match=r"--dataset_config_name: .* 2 configurations, choose one: one, two"):
            load_hub(str(tmp_path), config_name=name)
    assert ids(load_hub(str(tmp_path), config_name="two").train) == ["2"]


def test_columns_of_images_and_dates_are_ignored(tmp_path: Path) -> None:
    import datasets

    row = {"ID": "1", "section_header": "CC", "section_text": "A cough.", "dialogue": "Doctor: Hi."}
    others = {"image": {"bytes": b"\x89PNG", "path": None}, "day": date(2026, 11, 29)}
    features = {
        **dict.fromkeys(row, datasets.Value("string")),
        "image": datasets.Image(),
        "day": datasets.Value("date32"),
    }
    datasets.Dataset.from_list([row | others], features=datasets.Features(features)).save_to_disk(str(tmp_path / "one"))
    (record,) = load_hub(str(tmp_path / "one"), offline=True).train.records
    assert (record.id, record.note) == ("1", "A cough.")


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    import datasets

    row = {"ID": "1", "section_header": "CC", "section_text": "A cough.", "dialogue": "Doctor: Hi."}
    part = datasets.Dataset.from_list([row])
    part.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "both"))
    assert ids(load_hub(str(tmp_path / "one"), offline=True).train) == ["1"]
    assert load_hub(str(tmp_path / "both"), offline=True).validation is not None
    with pytest.raises(InputError, match=r"--dataset_config_name: .*saved to disk"):
        load_hub(str(tmp_path / "both"), config_name="a")


def labelled(folder: Path, column: str, names: list[str], numbers: list[int | None]) -> str:
    """A saved data set of abstracts whose column holds these numbers of class labels."""
    import datasets

    rows = [
        {"ID": str(number), "question": "Why?", "context": "A trial.", "final_decision": "no", column: label}
        for number, label in enumerate(numbers)
    ]
    features = {**dict.fromkeys(rows[0], datasets.Value("string")), column: datasets.ClassLabel(names=names)}
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(str(folder / column))
    return str(folder / column)


def test_class_labels_are_read_by_their_names(tmp_path: Path) -> None:
    columns = Columns(task=find_task("pubmedqa"))
    choices = load_hub(
        labelled(tmp_path, "final_decision", ["no", "Yes", "maybe"], [1, 0]), columns=columns
    ).train.records
    assert [record.choice for record in choices] == ["yes", "no"]
    (text,) = load_hub(labelled(tmp_path, "context", ["In one.", "In two."], [1]), columns=columns).train.records
    assert text.parts["context"] == "In two."


@pytest.mark.parametrize(
    ("names", "number", "expected"),
    [
        (["yes", "no"], -1, "empty"),  # as splits without labels have them
        (["yes", "no"], None, "empty"),
        (["yes", CANARY], 1, "none of the 3 options"),
        (["0", "1"], 1, "int, not text"),  # `ClassLabel(num_classes=2)`
    ],
)
def test_a_class_label_without_a_fitting_name_is_refused(
    tmp_path: Path, names: list[str], number: int | None, expected: str
) -> None:
    folder = labelled(tmp_path, "final_decision", names, [number])
    with pytest.raises(InputError, match=f"row 1, column 'final_decision': .*{expected}") as caught:
        load_hub(folder, columns=Columns(task=find_task("pubmedqa")))
    assert CANARY not in str(caught.value)
