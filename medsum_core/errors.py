"""The errors by which a command can end, and their exit codes, which `process.run_as_script` returns.

0 done; 1 unexpected; 2 bad input (one message, nothing written); 3 stopped on non-finite or empty windows;
4 the final save failed; 5 out of memory; 75 (EX_TEMPFAIL of sysexits.h) stopped by a signal: resume it. Where there is
nothing to resume the signal itself ends the process (130 in a shell after Ctrl-C, 143 after SIGTERM); temporary files
are removed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

MAX_REASON = 120  # characters of a library's own error message
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
# Error numbers of a failed or full disk or of a lost network folder: no fault of the program.
FAILED_DEVICE = tuple(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EROFS", "ESTALE", "ENODEV", "ETIMEDOUT", "EREMOTEIO")
    if hasattr(errno, name)
)


class MedsumError(Exception):
    """An error that the user sees as one message without a traceback. It never holds patient text."""

    exit_code = 1


class InputError(MedsumError):
    """Bad input: the message says what was wrong, where (file, row, flag) and what to do; nothing was written."""

    exit_code = 2


class DivergedError(MedsumError):
    """Several consecutive windows had no target or a non-finite loss or gradient; they updated nothing."""

    exit_code = 3


class FinalSaveError(MedsumError):
    """Training finished, but its last save failed."""

    exit_code = 4


class OutOfMemory(MedsumError):  # noqa: N818 - as Python's and torch's own
    """GPU or main memory has run out; the message names what needs less. Nothing is left half-saved."""

    exit_code = 5


class StoppedBySignal(MedsumError):  # noqa: N818 - not an error: the run was asked to stop and can be resumed
    """A signal stopped the run between two windows or tokens; what was finished is saved and can be resumed."""

    exit_code = 75


def raise_all(problems: list[str]) -> None:
    """Raise one `InputError` that lists every problem, so that all can be fixed at once; return if there is none."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def differing_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names, sorted, whose values differ between two mappings; a name that one of them lacks counts as None."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a CUDA library reports with this error that memory has run out.

    Memory that runs out while a CUDA graph is recorded ends in another error of CUDA's, with the first as its context.
    """
    cause = error.__context__
    if type(error).__name__ == "AcceleratorError" and cause is not None and is_out_of_memory(cause):
        return True
    first_line = str(error).partition("\n")[0]
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in first_line for words in OUT_OF_MEMORY))


def reason(error: BaseException, *, folder: str = "") -> str:
    """A library's error message in one line of at most MAX_REASON characters, with the error's type where it helps.

    `folder`: a path that the reader knows already; it is left out, so that the limit does not cut off the cause.
    """
    words = " ".join(str(error).split())
    words = words.replace(f"{folder}/", "").replace(folder, "it") if folder else words
    text = (
        words if isinstance(error, OSError | ValueError | ImportError) and words else f"{type(error).__name__}: {words}"
    )
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."


@contextmanager
def explain_out_of_memory(remedy: str | Callable[[], str]) -> Iterator[None]:
    """Raise `OutOfMemory` for the errors by which Python, torch and CUDA libraries report it.

    `remedy`: what to do, or a function that is called for it when the error occurs.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        advice = remedy if isinstance(remedy, str) else remedy()
        raise OutOfMemory(f"out of memory ({first_line[:MAX_REASON] or 'on this machine'}): {advice}") from error


@contextmanager
def explain_failed_device() -> Iterator[None]:
    """Raise `InputError` for a failed disk or network that no caller closer to it has handled."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAILED_DEVICE:
            raise
        where = "a file" if error.filename is None else error.filename
        raise InputError(f"{where}: {error.strerror}; try again once the disk or the network is back") from error
