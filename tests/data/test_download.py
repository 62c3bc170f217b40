"""Fetched data is the pinned data or nothing; failures are one message."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from medsum_core.data import download as hub_data
from medsum_core.data.download import MTS_FILES, mts_dialog_file
from medsum_core.data.records import read_records
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
    records = read_records(path)
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
