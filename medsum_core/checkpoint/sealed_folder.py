"""A folder that is there whole or not at all, and in which every later change of a byte is noticed.

Protocol: files into a hidden folder beside the target, each flushed to disk; then `manifest.json` with the size and
sha256 of each; then the folder itself flushed, renamed to its name, and its parent flushed. A crash at any instant
leaves either the folder complete or a hidden draft that nobody reads and the next save sweeps away.
The manifest proves that a folder is as written, against decay and half-done copies; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medsum_core.errors import MedsumError

MANIFEST = "manifest.json"
DRAFT_PREFIX = ".tmp-"
FOLDER_MODE = 0o700
FILE_MODE = 0o600
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20


class SaveError(MedsumError):
    """A folder could not be written (disk full, not writable); its draft is removed, older ones are untouched."""


class DamagedError(Exception):
    """A sealed folder is not as it was written; says which file and how."""


def write_sealed(target: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `target` (mode 0700, files 0600) with `files` and their manifest, durably and at once.

    Raises SaveError when the system refuses, after removing the draft. `target` must not exist.
    """
    draft = target.parent / f"{DRAFT_PREFIX}{target.name}-{os.getpid()}"
    try:
        target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if target.exists():
            raise FileExistsError(f"{target} is there already")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=FOLDER_MODE)
        for name, data in files.items():
            _write_file(draft / name, data)
        _write_file(draft / MANIFEST, _manifest_bytes(files))
        sync_folder(draft)
        os.rename(draft, target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(f"could not write {target}: {error.strerror or error}") from error


def read_sealed(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The bytes of `names`, each verified; exactly those must be in the manifest, as plain files in the folder itself.

    Nothing else in the folder is opened, whatever it is called. Raises DamagedError naming the file at fault.
    """
    entries = _read_manifest(folder, names)
    return {name: _read_verified(folder / name, entries[name]) for name in names}


def looks_complete(folder: Path, names: Collection[str]) -> bool:
    """Whether the manifest is sound and each file has its size: the quick check, without reading the files."""
    try:
        entries = _read_manifest(folder, names)
        return all(_size_of_plain_file(folder / name) == entries[name]["size"] for name in names)
    except (DamagedError, OSError):
        return False


def remove_folder(folder: Path) -> None:
    """Delete a folder that has left its name first, so that a crash in the middle leaves a draft and no ruin."""
    doomed = folder.parent / f"{DRAFT_PREFIX}removed-{folder.name}-{os.getpid()}"
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def sweep_drafts(parent: Path) -> None:
    """Delete what crashed saves and deletions left in `parent`. A run folder has one writer: all drafts are stale."""
    for path in parent.glob(f"{DRAFT_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be opened (Linux, macOS)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest_bytes(files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    return _canonical(entries)


def _canonical(entries: dict[str, Any]) -> bytes:
    return (json.dumps({"files": entries, "format": FORMAT}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    if not stat.S_ISDIR(_lstat(folder).st_mode):
        raise DamagedError(f"{folder.name} is not a plain folder")
    if _size_of_plain_file(folder / MANIFEST) > MAX_MANIFEST_BYTES:
        raise DamagedError(f"{MANIFEST} is too long")
    data = _read_plain_file(folder / MANIFEST)
    try:
        manifest = json.loads(data)
        entries = manifest["files"]
        sound = set(entries) == set(names) and data == _canonical(entries)
        sound = sound and all(set(entry) == {"sha256", "size"} for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(f"{MANIFEST} is damaged or of another format")
    return entries


def _read_verified(path: Path, entry: dict[str, Any]) -> bytes:
    if _size_of_plain_file(path) != entry["size"]:
        raise DamagedError(f"{path.name} has not the size that it was written with")
    data = _read_plain_file(path)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise DamagedError(f"{path.name} has other bytes than were written")
    return data


def _read_plain_file(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error


def _size_of_plain_file(path: Path) -> int:
    status = _lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{path.name} is not a plain file")
    return status.st_size


def _lstat(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error
