"""Stand-ins for the public repositories of named data sets: fictional files in a folder, pinned in the place of theirs."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from medsum_core.data import download, git_commit
from medsum_core.data.named.registry import named_datasets


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Let the data set `name` have these files, by path, whatever way it fetches them; the cache is empty."""
    dataset = named_datasets()[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    if dataset.sha256:
        place = folder / "raw" / dataset.repository
        monkeypatch.setattr(download, "HUB" if dataset.is_on_hub else "SOURCE", (folder / "raw").as_uri() + "/")
        write(place / "resolve" / dataset.commit if dataset.is_on_hub else place / dataset.commit, files)
        pins = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        changed = replace(dataset, sha256=pins)
    else:
        monkeypatch.setattr(git_commit, "SOURCE", (folder / "git").as_uri() + "/")
        changed = replace(dataset, commit=commit(folder / "git" / dataset.repository, files))
    monkeypatch.setitem(named_datasets(), name, changed)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files, by path, below a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def commit(folder: Path, files: Mapping[str, bytes]) -> str:
    """The id of a commit of these files in a repository of a folder, from which any commit may be fetched by its id."""
    write(folder, files)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=n", "-c", "user.email=e@x.org", "commit", "--quiet", "--message=m")
    return git(folder, "rev-parse", "HEAD").strip()


def git(folder: Path, *arguments: str) -> str:
    """What git prints in a folder."""
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout
