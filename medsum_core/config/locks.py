"""Files and folders that a command writes: checked against its inputs, and locked, so that one process writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, drafts_of, with_retries

if TYPE_CHECKING:  # the start of a script must stay quick
    from filelock import BaseFileLock


def check_output(path: Path, *, inputs: Iterable[Path | None], flag: str) -> None:
    """Raise InputError where `path`, which `flag` names, can't be a file, or is one of the command's `inputs`."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{flag} {path}: not a file in a folder that exists")
    if any(other and other.resolve() == path.resolve() for other in inputs):
        raise InputError(f"{flag} {path}: this is one of the input files")


def take_lock(path: Path, *, name: str, wait: bool = False) -> BaseFileLock:
    """Create and lock the lock file `path` (mode 0600); `release_lock` deletes it.

    `name` stands for what is locked, with its flag. Raises InputError when another process has the lock, unless told to
    `wait` for it, and when the system refuses.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=PRIVATE_MODE)
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise InputError(f"{name}: another process is writing it; wait until it has ended, or name another") from error
    except OSError as error:
        raise InputError(f"{name}: can't be locked ({error.strerror})") from error
    return lock


def release_lock(lock: BaseFileLock) -> None:
    """Release the lock and delete its file."""
    with suppress(OSError):  # Windows deletes no open file; filelock does it there on release
        # Before the release: a process that waits for this file then finds it deleted, and makes another.
        with_retries(Path(lock.lock_file).unlink)
    lock.release()


@contextmanager
def locked_file(path: Path, *more: Path, flag: str) -> Iterator[None]:
    """While the block runs, keep other processes from writing `path`, which `flag` names, and the files in `more`.

    Deletes drafts of these files that killed processes left, and finally its own lock file. Raises InputError when
    another process is writing them, and when locking fails.
    """
    lock = take_lock(path.with_name(f".{path.name}.lock"), name=f"{flag} {path}")
    try:
        for draft in (draft for one in (path, *more) for draft in drafts_of(one)):
            draft.unlink(missing_ok=True)
        yield
    finally:
        release_lock(lock)
