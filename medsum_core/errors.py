"""The ways a run ends, and the one place that turns them into exit codes.

0 done; 1 unexpected; 2 bad input (one message, nothing written); 3 stopped on non-finite or empty windows;
4 the final save failed; 75 (EX_TEMPFAIL of sysexits.h) stopped by a signal: resume it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class MedsumError(Exception):
    """An end that is explained to the person in one message, without a traceback. Carries no patient text."""

    exit_code = 1


class InputError(MedsumError):
    """Bad input: says what was wrong, where (file, row, column, flag) and what to do. Nothing was written."""

    exit_code = 2


class DivergedError(MedsumError):
    """Several windows in a row had no target or a non-finite loss or gradient; nothing was updated by them."""

    exit_code = 3


class FinalSaveError(MedsumError):
    """Training finished but its last save did not."""

    exit_code = 4


class StoppedBySignal(MedsumError):  # noqa: N818 - not an error: the run was asked to stop and can be resumed
    """A signal stopped the run after a whole window; its checkpoint continues it bit for bit."""

    exit_code = 75


def raise_all(problems: list[str]) -> None:
    """Raise one `InputError` that lists every problem, so that a person mends them in one go; none: return."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def run_as_script(main: Callable[[], object]) -> int:
    """Run `main`, print a `MedsumError` as one message on stderr and return the exit code that stands for it."""
    try:
        main()
    except MedsumError as error:
        print(f"{'error' if error.exit_code != 75 else 'stopped'}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def value_or_exit(function: Callable[[], Value]) -> Value:
    """What `function` returns; a `MedsumError` is printed as one message and ends the process with its exit code."""
    values: list[Value] = []
    if code := run_as_script(lambda: values.append(function())):
        raise SystemExit(code)
    return values[0]
