"""A downloaded file has the pinned hash or is refused; each failure is one message."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from medsum_core.data import download
from medsum_core.data.download import PinnedFile, pinned_file
from medsum_core.data.named.registry import named_datasets
from medsum_core.errors import InputError

CONTENT = b"ID,section_header,section_text,dialogue\r\n0,CC,None,Doctor: x\r\n"
PIN = PinnedFile(
    repository="owner/Some-Name",
    commit="0123456789" * 4,
    path="folder/f.csv",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)
REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pinned file in a folder that stands in for the source; an empty cache."""
    file = tmp_path / "source" / PIN.repository / PIN.commit / PIN.path
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "SOURCE", (tmp_path / "source").as_uri() + "/")
    return file


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once_and_then_read_offline(served: Path, tmp_path: Path) -> None:
    path = pinned_file(PIN)
    assert path.read_bytes() == CONTENT
    assert cached_files(tmp_path) == [path]
    assert path == tmp_path / "cache" / "medsum" / "some-name" / "012345678901" / "f.csv"
    served.unlink()
    assert pinned_file(PIN, offline=True) == path


def test_a_file_saved_by_hand_where_the_message_says_is_read(served: Path) -> None:
    with pytest.raises(InputError) as caught:
        pinned_file(PIN, offline=True)
    found = re.search(r"or save (file://\S+) as (\S+)$", str(caught.value))
    assert found is not None and found[1] == served.as_uri()
    path = Path(found[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert pinned_file(PIN, offline=True) == path


def test_a_damaged_cached_file_is_replaced_or_offline_refused(served: Path) -> None:
    path = pinned_file(PIN)
    path.write_bytes(CONTENT[:-5])
    with pytest.raises(InputError, match=r"damaged.*without --offline"):
        pinned_file(PIN, offline=True)
    assert pinned_file(PIN).read_bytes() == CONTENT


def test_a_download_with_another_hash_is_refused_and_not_cached(served: Path, tmp_path: Path) -> None:
    served.write_bytes(CONTENT + b"2,CC,a,b\r\n")
    with pytest.raises(InputError, match="not the pinned file"):
        pinned_file(PIN)
    assert cached_files(tmp_path) == []


def test_a_download_beyond_the_size_limit_is_refused(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 20)
    with pytest.raises(InputError, match="MiB came"):
        pinned_file(PIN)
    assert cached_files(tmp_path) == []


def test_a_file_that_is_not_cached_or_not_reachable_is_refused(served: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not in the cache.*without --offline"):
        pinned_file(PIN, offline=True)
    served.unlink()
    with pytest.raises(InputError, match="cannot be reached"):
        pinned_file(PIN)
    assert cached_files(tmp_path) == []


def test_a_cache_folder_that_cannot_be_written_is_refused(served: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"the cache folder can't be made .*XDG_CACHE_HOME"):
        pinned_file(PIN)


@pytest.mark.parametrize("name", sorted(named_datasets()))
def test_every_split_consists_of_pinned_files(name: str) -> None:
    dataset = named_datasets()[name]
    assert re.fullmatch(r"[\w-]+/[\w-]+", dataset.repository) and re.fullmatch(r"[0-9a-f]{40}", dataset.commit)
    paths = {path for splits in dataset.configs.values() for split in splits.values() for path in split}
    if dataset.sha256:
        assert paths == set(dataset.sha256)
        assert len({Path(path).name for path in paths}) == len(
            paths
        )  # all files of a data set are cached in one folder
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in dataset.sha256.values())
    assert all(dataset.validation_split in splits and "train" in splits for splits in dataset.configs.values())


@pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not beside the checkout (../shared/data)")
def test_pinned_hashes_are_those_of_the_official_files() -> None:
    files = {path.name: path for path in REAL.rglob("*.csv")}
    pins = {Path(path).name: pin for set in named_datasets().values() for path, pin in set.sha256.items()}
    both = sorted(files.keys() & pins.keys())
    assert [hashlib.sha256(files[name].read_bytes()).hexdigest() for name in both] == [pins[name] for name in both]
    assert len(both) == 5  # training and validation of MTS-Dialog and of ACI-Bench, one augmented file
