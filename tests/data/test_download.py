"""Fetched data is the pinned data or nothing; no copy of a hub data set stays behind; failures are one message."""

from __future__ import annotations

import hashlib
import re
import socket
import tempfile
from pathlib import Path

import pytest

from medsum_core.data import download as hub_data
from medsum_core.data.download import MTS_FILES, hub_warning, load_hub_records, mts_dialog_file
from medsum_core.errors import InputError

CANARY = "CANARYTEXT"
CONTENT = f"ID,section_header,section_text,dialogue\r\n0,CC,None,Doctor: {CANARY}\r\n1,ROS,N/A,Doctor: x\r\n".encode()
REAL = Path(__file__).parents[3] / "shared" / "data" / "mts-dialog"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the repository, holding a `train` file with the pinned hash; an empty cache."""
    folder = tmp_path / "source"
    folder.mkdir()
    name = MTS_FILES["train"][0]
    (folder / name).write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_data, "MTS_SOURCE", folder.as_uri() + "/")
    monkeypatch.setitem(hub_data.MTS_FILES, "train", (name, hashlib.sha256(CONTENT).hexdigest()))
    return folder


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_download_once_then_offline(source: Path, tmp_path: Path) -> None:
    path = mts_dialog_file("train")
    assert path.read_bytes() == CONTENT
    assert cached_files(tmp_path) == [path]
    (source / path.name).unlink()
    assert mts_dialog_file("train", offline=True) == path
    records = load_hub_records("mts-dialog", "train", offline=True)
    assert [record.note for record in records] == ["None", "N/A"]


def test_damaged_cache_is_replaced_or_refused(source: Path) -> None:
    path = mts_dialog_file("train")
    path.write_bytes(CONTENT[:-5])
    with pytest.raises(InputError, match=r"damaged.*without --offline"):
        mts_dialog_file("train", offline=True)
    assert mts_dialog_file("train").read_bytes() == CONTENT


def test_wrong_download_is_not_kept(source: Path, tmp_path: Path) -> None:
    (source / MTS_FILES["train"][0]).write_bytes(CONTENT + b"2,CC,a,b\r\n")
    with pytest.raises(InputError, match="not the pinned file"):
        mts_dialog_file("train")
    assert cached_files(tmp_path) == []


def test_endless_download_is_cut(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_data, "MAX_FILE_BYTES", 20)
    with pytest.raises(InputError, match="MiB came"):
        mts_dialog_file("train")
    assert cached_files(tmp_path) == []


def test_absent_offline_unreachable_and_unknown(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not in the cache.*without --offline"):
        mts_dialog_file("train", offline=True)
    (source / MTS_FILES["train"][0]).unlink()
    with pytest.raises(InputError, match="cannot be reached"):
        mts_dialog_file("train")
    with pytest.raises(InputError, match=r"no split 'dev'.*test2"):
        mts_dialog_file("dev")
    assert cached_files(tmp_path) == []


def test_cache_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"the cache folder can't be made .*XDG_CACHE_HOME"):
        mts_dialog_file("train")


def test_pinned_source() -> None:
    assert re.fullmatch(
        r"https://raw\.githubusercontent\.com/abachaa/MTS-Dialog/[0-9a-f]{40}/Main-Dataset/", hub_data.MTS_SOURCE
    )
    assert set(MTS_FILES) == {"train", "valid", "test1", "test2"}


@pytest.mark.skipif(not REAL.is_dir(), reason="MTS-Dialog is not beside the checkout (../shared/data)")
@pytest.mark.parametrize("split", ["train", "valid"])
def test_pinned_hashes_are_those_of_the_official_files(split: str) -> None:
    name, sha256 = MTS_FILES[split]
    assert hashlib.sha256((REAL / name).read_bytes()).hexdigest() == sha256


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the hub's layout, and a temporary folder of the test's own to look for leftovers in."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.csv").write_bytes(CONTENT)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


def files_with_canary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_hub_rows_are_text_and_leave_no_copy(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: made.append(mkdtemp(**options)) or made[-1])
    records = load_hub_records(str(hub_folder), "train", offline=True)
    assert [(record.id, record.note) for record in records] == [("0", "None"), ("1", "N/A")]
    assert made and not any(Path(folder).exists() for folder in made)
    assert files_with_canary(tmp_path) == [hub_folder / "train.csv"]


def test_hub_failures_are_one_message_without_text(hub_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'dev': it has train"):
        load_hub_records(str(hub_folder), "dev")
    (hub_folder / "train.csv").write_bytes(CONTENT + f'2,CC,a,"{CANARY}\r\n3,"x"{CANARY},,,,,\r\n'.encode())
    with pytest.raises(InputError, match=r"cannot be loaded \(\w+\)") as caught:
        load_hub_records(str(hub_folder), "train")
    assert CANARY not in str(caught.value)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_hub_rows_are_checked_like_a_file(hub_folder: Path) -> None:
    (hub_folder / "train.csv").write_bytes(CONTENT + f"0,CC,{CANARY},\r\n".encode())
    with pytest.raises(InputError, match=r"(?s)row 3, column 'dialogue': empty.*the same id as row 1") as caught:
        load_hub_records(str(hub_folder), "train")
    assert CANARY not in str(caught.value)


def test_offline_hub_name_never_opens_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(InputError, match=r"--offline forbids.*--train_file"):
        load_hub_records("some-owner/some-data", "train", offline=True)


def test_warning_for_the_rewritten_mirror() -> None:
    warning = hub_warning("har1/MTS_Dialogue-Clinical_Note")
    assert warning and "rewritten" in warning and "validation rows" in warning
    assert hub_warning("mts-dialog") is None
