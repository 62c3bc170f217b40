"""One process at a time: locks on what a command writes, held for as long as it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, drafts_of, with_retries

if TYPE_CHECKING:  # the start of a script must stay quick
    from filelock import BaseFileLock


def take_lock(path: Path, *, name: str, wait: bool = False) -> BaseFileLock:
    """Lock the file `path`, made for that and for its owner only; `release_lock` deletes it.

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
    """Let others lock it, and leave no lock file behind."""
    with suppress(OSError):  # Windows deletes no open file; filelock does it there on release
        # Before the release: whoever waits for this file finds it gone, and makes another.
        with_retries(Path(lock.lock_file).unlink)
    lock.release()


@contextmanager
def locked_file(path: Path, *more: Path, flag: str) -> Iterator[None]:
    """Keep other processes from writing the file `path`, which `flag` names, and those that go with it, meanwhile.

    Deletes the drafts that killed processes left of them, and in the end its own lock file. Raises InputError when
    another process is writing it, and when the system refuses.
    """
    lock = take_lock(path.with_name(f".{path.name}.lock"), name=f"{flag} {path}")
    try:
        for draft in (draft for one in (path, *more) for draft in drafts_of(one)):
            draft.unlink(missing_ok=True)
        yield
    finally:
        release_lock(lock)
