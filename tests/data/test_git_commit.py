"""A commit's files match its id, or the commit is refused; each failure is one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_files import commit, git

from medsum_core.data import git_commit
from medsum_core.data.git_commit import commit_files
from medsum_core.errors import InputError

FILES = {"a/1.xml": b"one\r\n", "a/b/2.xml": b"", "a/3.txt": b"three", "4.xml": b"four\nblob 5\n"}
REPOSITORY = "owner/Some-Name"


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a commit that a later one follows, in a repository that stands in for GitHub's; an empty cache."""
    monkeypatch.setattr(git_commit, "SOURCE", (tmp_path / "git").as_uri() + "/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = commit(tmp_path / "git" / REPOSITORY, FILES)
    commit(tmp_path / "git" / REPOSITORY, {"a/1.xml": b"changed later"})
    return first


def cached(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "medsum" / "some-name").iterdir()]


def test_a_commit_is_fetched_once_and_then_read_offline(pinned: str, tmp_path: Path) -> None:
    wanted = {path: FILES[path] for path in ("a/1.xml", "a/b/2.xml")}
    assert commit_files(REPOSITORY, pinned, ["a/*.xml"]) == wanted
    assert cached(tmp_path) == [f"{pinned[:12]}.git"]
    (tmp_path / "git").rename(tmp_path / "gone")
    assert commit_files(REPOSITORY, pinned, ["a/*.xml"], offline=True) == wanted
    assert commit_files(REPOSITORY, pinned, ["4.*"], offline=True) == {"4.xml": FILES["4.xml"]}


def test_symbolic_links_are_left_out(pinned: str, tmp_path: Path) -> None:
    folder = tmp_path / "git" / REPOSITORY
    (folder / "a" / "link.xml").symlink_to("1.xml")
    assert "a/link.xml" not in commit_files(REPOSITORY, commit(folder, {"5.xml": b""}), ["*.xml"])


def test_git_variables_of_the_environment_are_ignored(
    pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere"))
    assert len(commit_files(REPOSITORY, pinned, ["*.xml"])) == 3
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("damage", ["truncated", "replaced", "deleted"])
def test_a_damaged_cached_commit_is_replaced_or_offline_refused(pinned: str, tmp_path: Path, damage: str) -> None:
    whole = commit_files(REPOSITORY, pinned, ["*.xml"])
    cache = tmp_path / "cache" / "medsum" / "some-name" / f"{pinned[:12]}.git"
    ids = [git(cache, "rev-parse", f"{pinned}:{path}").strip() for path in ("a/1.xml", "4.xml")]
    target, other = (cache / "objects" / id[:2] / id[2:] for id in ids)
    if damage == "deleted":
        target.unlink()
    else:
        target.chmod(0o600)
        target.write_bytes(target.read_bytes()[:-9] if damage == "truncated" else other.read_bytes())
    with pytest.raises(InputError, match=r"damaged.*without --offline"):
        commit_files(REPOSITORY, pinned, ["*.xml"], offline=True)
    assert commit_files(REPOSITORY, pinned, ["*.xml"]) == whole


def test_each_failure_to_fetch_is_one_message(pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"not in the cache.*without --offline"):
        commit_files(REPOSITORY, pinned, ["*.xml"], offline=True)
    with pytest.raises(InputError, match=r"git cannot fetch commit 0000.*by hand: git init"):
        commit_files(REPOSITORY, "0" * 40, ["*.xml"])
    with pytest.raises(InputError, match=r"git cannot fetch commit"):
        commit_files("owner/none", pinned, ["*.xml"])
    assert cached(tmp_path) == []
    with pytest.raises(InputError, match=r"holds no file \*.wav"):
        commit_files(REPOSITORY, pinned, ["*.wav"])
    monkeypatch.setenv("PATH", str(tmp_path / "git" / "owner"))
    with pytest.raises(InputError, match="git is needed"):
        commit_files(REPOSITORY, pinned, ["*.xml"])
