"""Atomic writes of files and folders, reads with retries, and the folder in which this project caches downloads.

Every write goes to a draft (a temporary file beside the target), is flushed to disk and then renamed to the target's
name: after a crash at any instant there is either the former content or the new one. A sealed folder (a checkpoint)
also holds `manifest.json` with the size and sha256 of each file, which reveals damage and incomplete copies; it is no
signature.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from medsum_core.errors import InputError, MedsumError

PUBLIC_MODE = 0o644
PRIVATE_MODE = 0o600  # for the files that hold patient text
PRIVATE_FOLDER_MODE = 0o700
MANIFEST = "manifest.json"
DRAFT_PREFIX = ".tmp-"
DRAFT_TOKEN_BYTES = 4
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
PART_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # of `write_bytes_atomic`
READ_PAUSES = (0.1, 0.3, 1.0)  # seconds between attempts to read: a disk or network may have recovered by then
# Errors that another attempt would not change: the path does not exist, or is a file where a folder was expected.
WRONG_KIND = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Likewise: no permission, a pipe or a device, a link where O_NOFOLLOW allows none, an impossible name.
REFUSED = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG)
NOT_A_FILE = "a pipe or a device, not a file"
RUST_ERROR = re.compile(r"\(os error (\d+)\)")

Value = TypeVar("Value")


class SaveError(MedsumError):
    """A folder could not be written (disk full, no permission); its draft is removed, older ones are untouched."""


class DamagedError(Exception):
    """A sealed folder is not as it was written; the message names the file and the difference."""


class ReadFailedError(InputError):
    """The system failed several times in a row to read a file; nothing is known about its content."""


def with_retries(read: Callable[[], Value]) -> Value:
    """What `read` returns; after an OSError it is called again, after each of READ_PAUSES.

    Raises the last OSError, and at once one that another attempt would not change (`WRONG_KIND`, `REFUSED`).
    """
    for pause in READ_PAUSES:
        try:
            return read()
        except WRONG_KIND:
            raise
        except OSError as error:
            if error.errno in REFUSED:
                raise
            time.sleep(pause)
    return read()


def read_with_retries(path: Path, read: Callable[[], Value]) -> Value:
    """`with_retries` that raises ReadFailedError, naming `path`, so that a failed read is not taken for damage.

    `WRONG_KIND`, and a link where none is allowed, are still raised as the system's own error.
    """
    try:
        return with_retries(read)
    except WRONG_KIND:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        raise ReadFailedError(f"{path} cannot be read: {error.strerror or error}") from error


def write_bytes_atomic(path: str | Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Write `data` to `path` so that a crash leaves the former file or the new one, never a part of it.

    The file has `mode`, restricted by the process's umask, from the start. Raises OSError after removing the draft, and
    for a pipe or a device: renaming over /dev/null would take it away from the whole system.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, NOT_A_FILE, str(path))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(DRAFT_TOKEN_BYTES)}.part")
    try:
        _write_file(draft, data, mode=mode)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text_atomic(path: str | Path, text: str, *, mode: int = PUBLIC_MODE) -> None:
    """`write_bytes_atomic` for text: UTF-8, newlines as they are in `text`."""
    write_bytes_atomic(path, text.encode("utf-8"), mode=mode)


def drafts_of(path: Path) -> list[Path]:
    """The drafts of `path`, left by killed processes or in use by a running one: hold its lock to delete them."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * DRAFT_TOKEN_BYTES}.part"))


def write_sealed(target: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `target` (mode 0700, files 0600) with `files` and their manifest, flushed to disk on return.

    Raises SaveError after removing the draft, also where `target` exists already.
    """
    draft = target.parent / f"{DRAFT_PREFIX}{target.name}-{os.getpid()}"
    try:
        target.parent.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        if target.exists():
            raise FileExistsError(f"{target} exists already")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=PRIVATE_FOLDER_MODE)
        for name, data in files.items():
            _write_file(draft / name, data, mode=PRIVATE_MODE)
        _write_file(draft / MANIFEST, _manifest_bytes(files), mode=PRIVATE_MODE)
        sync_folder(draft)
        os.rename(draft, target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(f"could not write {target}: {error.strerror or error}") from error


def read_sealed(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The bytes of `names`, each verified; the manifest must list exactly these, as regular files in the folder itself.

    No other file of the folder is opened. Raises DamagedError naming the file at fault, and ReadFailedError when the
    system fails to read it.
    """
    entries = _read_manifest(folder, names)
    return {name: _read_verified(folder / name, entries[name]) for name in names}


def looks_complete(folder: Path, names: Collection[str]) -> bool:
    """Whether the manifest is valid and each file has the size it states: a quick check that reads no other file.

    Raises ReadFailedError when the system fails to read.
    """
    try:
        entries = _read_manifest(folder, names)
        return all(_size_of_plain_file(folder / name) == entries[name]["size"] for name in names)
    except DamagedError:
        return False


def remove_folder(folder: Path) -> None:
    """Rename a folder to a draft, then delete it: a crash in between leaves a draft, not half a folder."""
    doomed = folder.parent / f"{DRAFT_PREFIX}removed-{folder.name}-{os.getpid()}"
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path, name: re.Pattern[str]) -> None:
    """Delete drafts that killed processes left in `folder`: the files and folders whose whole name matches `name`.

    Call it only while holding the folder's lock: drafts of a running process would be deleted as well.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if name.fullmatch(path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The user's cache folder for this project, `$XDG_CACHE_HOME/medsum` or `~/.cache/medsum`; it may not exist yet.

    Raises InputError where the user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "medsum"
    except RuntimeError:
        raise InputError("no home folder to cache files in: set HOME, or XDG_CACHE_HOME to a folder") from None


def make_cache_folder(folder: Path) -> None:
    """Make a folder below `cache_folder()`. Raises InputError where the system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: the cache folder can't be made ({error.strerror}); set XDG_CACHE_HOME to a writable folder"
        ) from None


def read_plain_file(path: str | Path) -> bytes:
    """The bytes of a regular file, or of a link to one, read `with_retries`. Raises OSError.

    A pipe or a device such as /dev/zero, which could block or never end, is refused at once (OSError, EINVAL).
    """

    def read() -> bytes:
        with _open_plain_file(path) as file:
            return file.read()

    return with_retries(read)


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file, read in blocks of BLOCK_BYTES. Raises OSError as `read_plain_file` does."""

    def read() -> str:
        digest = hashlib.sha256()
        with _open_plain_file(path) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    return with_retries(read)


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise OSError for the exception types by which safetensors and tokenizers report an error of the system.

    Both are written in Rust, whose messages end in `(os error 28)`; tokenizers raises a bare Exception.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if (found := RUST_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _open_plain_file(path: str | Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    raise OSError(errno.EINVAL, NOT_A_FILE, str(path))


def _write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Create `path`, which must not exist, and flush it to disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # Windows would translate newlines
    descriptor = os.open(path, flags, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system allows opening a folder (Linux, macOS)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest_bytes(files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    return _canonical(entries)


def _canonical(entries: dict[str, Any]) -> bytes:
    return (json.dumps({"files": entries, "format": MANIFEST_FORMAT}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    if not stat.S_ISDIR(_lstat(folder).st_mode):
        raise DamagedError(f"{folder.name} is not a plain folder")
    if _size_of_plain_file(folder / MANIFEST) > MAX_MANIFEST_BYTES:
        raise DamagedError(f"{MANIFEST} is too long")
    data = _read_plain_file(folder / MANIFEST)
    try:
        manifest = json.loads(data)
        entries = manifest["files"]
        valid = set(entries) == set(names) and data == _canonical(entries)
        valid = valid and all(set(entry) == {"sha256", "size"} for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise DamagedError(f"{MANIFEST} is damaged or of another format")
    return entries


def _read_verified(path: Path, entry: dict[str, Any]) -> bytes:
    if _size_of_plain_file(path) != entry["size"]:
        raise DamagedError(f"{path.name} does not have the size that it was written with")
    data = _read_plain_file(path)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise DamagedError(f"{path.name} has other bytes than were written")
    return data


def _read_plain_file(path: Path) -> bytes:
    def read() -> bytes:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    try:
        return read_with_retries(path, read)
    except OSError as error:
        raise DamagedError(f"{path.name} is not a plain file: {error.strerror}") from error


def _size_of_plain_file(path: Path) -> int:
    status = _lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{path.name} is not a plain file")
    return status.st_size


def _lstat(path: Path) -> os.stat_result:
    try:
        return read_with_retries(path, lambda: os.lstat(path))
    except OSError as error:
        raise DamagedError(f"{path.name} is missing") from error
