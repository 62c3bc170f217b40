"""How a run can end: its errors and signals, and the function that turns them into exit codes.

0 done; 1 unexpected; 2 bad input (one message, nothing written); 3 stopped on non-finite or empty windows;
4 the final save failed; 5 out of memory; 75 (EX_TEMPFAIL of sysexits.h) stopped by a signal: resume it. Where there is
nothing to resume the signal itself ends the process (130 in a shell after Ctrl-C, 143 after SIGTERM), drafts removed.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

# From people and schedulers, from a terminal that is closed, from clusters that warn before they take a machine back.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
MAX_REASON = 120  # characters of a library's own words
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
# What the system says when it is not the program's fault: a failed or full disk, a network folder that has gone.
FAILED_DEVICE = tuple(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EROFS", "ESTALE", "ENODEV", "ETIMEDOUT", "EREMOTEIO")
    if hasattr(errno, name)
)
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


class OutOfMemory(MedsumError):  # noqa: N818 - as Python's and torch's own
    """The memory of the GPU or of the machine has run out; the message names what lowers the need. No half saves."""

    exit_code = 5


class StoppedBySignal(MedsumError):  # noqa: N818 - not an error: the run was asked to stop and can be resumed
    """A signal stopped the run between two windows or tokens; what was finished is saved, and resuming goes on."""

    exit_code = 75


def raise_all(problems: list[str]) -> None:
    """Raise one `InputError` that lists every problem, so that all can be corrected at once; none: return."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def differing_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names, sorted, whose values differ between two records; one that a record lacks counts as None there."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or one of CUDA's libraries says so."""
    first_line = str(error).partition("\n")[0]
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in first_line for words in OUT_OF_MEMORY))


def reason(error: BaseException, *, folder: str = "") -> str:
    """A library's own words in one line of at most MAX_REASON characters, with the error's name where it says more.

    `folder`: a path that the reader knows already, which would take the place of what is wrong.
    """
    words = " ".join(str(error).split())
    words = words.replace(f"{folder}/", "").replace(folder, "it") if folder else words
    text = (
        words if isinstance(error, OSError | ValueError | ImportError) and words else f"{type(error).__name__}: {words}"
    )
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."


@contextmanager
def explain_out_of_memory(remedy: str) -> Iterator[None]:
    """Raise `OutOfMemory` for the errors by which Python, torch and CUDA's libraries say so. `remedy`: what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise OutOfMemory(f"out of memory ({first_line[:MAX_REASON] or 'on this machine'}): {remedy}") from error


@contextmanager
def explain_failed_device() -> Iterator[None]:
    """Raise `InputError` for a disk or a network that failed where nothing closer has said what that means."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAILED_DEVICE:
            raise
        where = "a file" if error.filename is None else error.filename
        raise InputError(f"{where}: {error.strerror}; try again once the disk or the network is back") from error


def print_any_text() -> None:
    """Write what a terminal's encoding lacks as an escape: a note must not end a command after its work is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_as_script(main: Callable[[], object], *, memory_remedy: str = "use a smaller model or shorter rows") -> int:
    """Run `main`, print a `MedsumError` as one message on stderr and return its exit code (0 without an error).

    An error by which memory has run out becomes `OutOfMemory` with `memory_remedy`, one of a failed disk `InputError`.
    What a terminal can't show is printed as an escape. The first of `STOP_SIGNALS` reaches `main` as a
    KeyboardInterrupt, if `main` has no handlers of its own; if it comes out again, that signal ends the process,
    without a traceback. So does SIGPIPE where the reader of stdout has gone away (`| head`); messages that nobody can
    read any more are dropped. Raises ValueError outside the main thread, as Python's `signal` does.
    """
    print_any_text()
    with redirect_stderr(_Messages(sys.stderr)):  # type: ignore[type-var]
        try:
            with interrupt_on_signals():
                return _exit_code(main, memory_remedy)
        except KeyboardInterrupt as interrupt:
            number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
            print(f"\nstopped by {number.name}", file=sys.stderr)
            _end_by(number)
        except BrokenPipeError:
            if not _reader_has_gone(sys.stdout):
                raise
            _end_by(signal.SIGPIPE)


def _exit_code(main: Callable[[], object], memory_remedy: str) -> int:
    try:
        with explain_out_of_memory(memory_remedy), explain_failed_device():
            main()
        sys.stdout.flush()  # here a pipe without a reader is still told from other errors
    except MedsumError as error:
        message = f"{'error' if error.exit_code != 75 else 'stopped'}: {error}"
        print("".join(map(_harmless, message)), file=sys.stderr)
        return error.exit_code
    return 0


class Interrupted(KeyboardInterrupt):
    """One of `STOP_SIGNALS`, as Python raises Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """While the block runs, the first of `STOP_SIGNALS` raises `Interrupted`; a second one ends the process at once.

    A signal that is ignored stays so: `nohup` ignores SIGHUP. The handlers found are put back at the end.
    """

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        restore_defaults()
        raise Interrupted(signal.Signals(number))

    with handled_signals(interrupt):
        yield


@contextmanager
def handled_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """While the block runs, `handler` gets those of `STOP_SIGNALS` that are not ignored; then the former ones do."""
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, handler_found in former.items():
            signal.signal(number, handler_found if handler_found is not None else signal.SIG_DFL)


def restore_defaults() -> None:
    """Let the next of `STOP_SIGNALS` end the process: that needs no Python to run, so it works in a long operation."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class _Messages:
    """stderr; what a closed terminal or a pipe without a reader does not take is dropped.

    Ctrl-C ends `tee` too, and a closed terminal sends SIGHUP: the progress bar must not fail before a run is saved.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of a text stream."""
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """As of a text stream."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Value]) -> Value:
        try:
            return action()
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)
            return action()


def _reader_has_gone(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file behind it, or closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_by(number: signal.Signals) -> NoReturn:
    """End as if nothing had handled the signal: a shell's loop stops at a command that Ctrl-C ended, as it should."""
    with suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # where the signal is blocked


def _harmless(character: str) -> str:
    """A control character as its Python escape: names of files and flags may hold what a terminal would obey."""
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


def value_or_exit(function: Callable[[], Value]) -> Value:
    """What `function` returns; a `MedsumError` is printed as one message and ends the process with its exit code."""
    values: list[Value] = []
    if code := run_as_script(lambda: values.append(function())):
        raise SystemExit(code)
    return values[0]
