"""How a run can end: its errors, and the function that turns them into exit codes.

0 done; 1 unexpected; 2 bad input (one message, nothing written); 3 stopped on non-finite or empty windows;
4 the final save failed; 75 (EX_TEMPFAIL of sysexits.h) stopped by a signal: resume it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


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


class StoppedBySignal(MedsumError):  # noqa: N818 - not an error: the run was asked to stop and can be resumed
    """A signal stopped the run after a whole window; resuming from its checkpoint gives the same bits."""

    exit_code = 75


def raise_all(problems: list[str]) -> None:
    """Raise one `InputError` that lists every problem, so that all can be corrected at once; none: return."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def run_as_script(main: Callable[[], object]) -> int:
    """Run `main`, print a `MedsumError` as one message on stderr and return its exit code (0 without an error)."""
    try:
        main()
    except MedsumError as error:
        message = f"{'error' if error.exit_code != 75 else 'stopped'}: {error}"
        print("".join(map(_harmless, message)), file=sys.stderr)
        return error.exit_code
    return 0


def _harmless(character: str) -> str:
    """A control character as its Python escape: names of files and flags may hold what a terminal would obey."""
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


def value_or_exit(function: Callable[[], Value]) -> Value:
    """What `function` returns; a `MedsumError` is printed as one message and ends the process with its exit code."""
    values: list[Value] = []
    if code := run_as_script(lambda: values.append(function())):
        raise SystemExit(code)
    return values[0]
