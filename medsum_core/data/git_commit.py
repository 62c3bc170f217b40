"""Many files of a public repository at one commit, fetched by git and checked against the commit's own hash.

A commit id is a hash over every byte of its files, and git names each object that it receives by the hash of its
content: a commit that was fetched by its id is the pinned one, whichever server delivered it. GitHub does not promise
stable bytes of its archives (.tar.gz), so a hash of those may refuse good data one day. Nothing is checked out, so
audio and other files in Git LFS are not downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from medsum_core.data.download import commit_folder
from medsum_core.errors import InputError
from medsum_core.files import make_cache_folder

SOURCE = "https://github.com/"
TIMEOUT_SECONDS = 900
REGULAR_FILE = "100"  # git's modes of files: 100644 and 100755; a link is 120000
# Environment variables by which a caller, such as a git hook, makes git use another repository.
OWN_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE",
)  # fmt: skip


def commit_files(repository: str, commit: str, patterns: Sequence[str], *, offline: bool = False) -> dict[str, bytes]:
    """The files of `owner/name` on GitHub at a commit (40 hex digits) whose path matches a pattern, by path, sorted.

    Cached as a bare repository of that commit alone; a damaged one is fetched again. `*` in a pattern also matches `/`.
    Raises InputError where git or the network is needed and absent, and for a commit without such files.
    """
    folder = commit_folder(repository, commit).with_suffix(".git")
    if folder.is_dir() and (files := _read(folder, commit, patterns)):
        return files
    if offline:
        state = "damaged" if folder.is_dir() else "not in the cache"
        raise InputError(
            f"{repository} at {commit[:12]} is {state} ({folder}) and --offline forbids the download: run once with a "
            "network and without --offline"
        )
    _fetch(repository, commit, folder)
    files = _read(folder, commit, patterns)
    if not files:
        raise InputError(f"{SOURCE}{repository}: commit {commit} holds no file {', '.join(patterns)}")
    return files


def _fetch(repository: str, commit: str, folder: Path) -> None:
    """Fetch the commit into `folder`, replacing it atomically."""
    make_cache_folder(folder.parent)
    url = SOURCE + repository
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        _git(draft, "init", "--quiet", "--bare")
        fetched = _git(draft, "fetch", "--quiet", "--depth=1", "--no-tags", url, commit)
        if fetched.returncode or _git(draft, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
            raise InputError(
                f"{url}: git cannot fetch commit {commit} (status {fetched.returncode}): check the network and the "
                f"proxy; by hand: git init x && git -C x fetch --depth=1 {url} {commit}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _read(folder: Path, commit: str, patterns: Sequence[str]) -> dict[str, bytes]:
    """The matching files, each checked against its hash in the commit; empty if the repository is damaged."""
    listing = _git(folder, "ls-tree", "-r", "-z", "--full-tree", commit)
    if listing.returncode:
        return {}
    entries = [line.split("\t", 1) for line in listing.stdout.decode("utf-8", "replace").split("\0") if line]
    blobs = {
        path: about.split()[2]
        for about, path in entries
        if about.startswith(REGULAR_FILE) and any(fnmatchcase(path, pattern) for pattern in patterns)
    }
    batch = _git(folder, "cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs.values()).encode())
    files: dict[str, bytes] = {}
    position = 0
    for path, blob in blobs.items():
        start = batch.stdout.find(b"\n", position) + 1  # behind "HASH blob SIZE"
        head = batch.stdout[position : start - 1].split()
        if len(head) != 3:
            return {}
        data = batch.stdout[start : start + int(head[2])]
        if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != blob:
            return {}
        files[path] = data
        position = start + len(data) + 1
    return dict(sorted(files.items()))


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in a bare repository without password prompts. Raises InputError where there is no git."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_REPOSITORY}
    command = ["git", "--no-replace-objects", f"--git-dir={folder}", "-c", "gc.auto=0", *arguments]
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            env={**environment, "GIT_TERMINAL_PROMPT": "0"},
            timeout=TIMEOUT_SECONDS,
        )
    except OSError as error:
        raise InputError(f"git is needed for this data set and cannot be run ({error.strerror}): install it") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"git took more than {TIMEOUT_SECONDS} s: check the network and the proxy") from None
