"""How a script's process begins and ends: its settings, its signals, its exit code.

Scripts call these; importing or calling a library changes nothing of the process.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from medsum_core.errors import InputError, MedsumError, explain_failed_device, explain_out_of_memory
from medsum_core.files import cache_folder

if TYPE_CHECKING:  # the start of a script must stay quick: torch is imported where it is used
    from medsum_core.device import Device

# From people and schedulers, from a terminal that is closed, from clusters that warn before they take a machine back.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
Value = TypeVar("Value")


def start_script() -> None:
    """Settings that must be made before the libraries are imported; Ctrl-C during an import prints no traceback."""
    open_closed_streams()
    disable_hub_telemetry()
    set_numba_cache()
    let_idle_threads_sleep()
    use_expandable_segments()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_closed_streams() -> None:
    """Open /dev/null for each standard stream that is closed (`2>&-`), where Python has None and printing fails.

    A file takes the lowest free number: the next one opened would get the stream's, and what is written to that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def keep_files_private() -> None:
    """Make all files that this process creates readable by their owner only: they may hold patients' data."""
    os.umask(0o077)


def set_numba_cache() -> None:
    """Have numba cache compiled code in the user's own cache folder, unless NUMBA_CACHE_DIR names another.

    numba's default is beside the source: in a clone shared by a group, one user's compiled code would run for all, or
    the folder is not writable. numba reads the variable when it is imported.
    """
    with suppress(InputError):  # a user without a home: numba looks for a place by itself
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))


def disable_hub_telemetry() -> None:
    """Turn off telemetry and the update check of huggingface_hub, which reads these variables when it is imported."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[name] = "1"


def let_idle_threads_sleep() -> None:
    """Have OpenMP's idle threads sleep instead of spin, unless OMP_WAIT_POLICY is set.

    Spinning threads slow down the computing ones as soon as anything else runs on the machine (benchmarks/LOG.md,
    2026-11-28). OpenMP reads the variable when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_expandable_segments() -> None:
    """Have torch extend its segments of GPU memory in place, unless the environment configures its allocator.

    Micro-batches and prompts differ in length: the gaps that one leaves in segments of fixed size are too small for the
    next. torch reads this, or the variable's former name, when it first asks for GPU memory.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def set_tf32(device: Device, *, precision: str) -> None:
    """Set TF32 for matrix products and convolutions by `uses_tf32`; called by every script that loads a model.

    torch's default is TF32 in convolutions, also of a vision tower, and fp32 in matrix products.
    """
    if device.kind != "cuda":
        return
    import torch

    has_tf32 = uses_tf32(device, precision=precision)
    torch.set_float32_matmul_precision("high" if has_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = has_tf32


def set_arithmetic(device: Device, *, precision: str) -> None:
    """For training on a GPU: `set_tf32`, and deterministic algorithms. Does nothing on a CPU.

    Sums in a fixed order make a resumed run bit-identical to an uninterrupted one; by default attention's backward pass
    adds to a query's gradient in the order in which its blocks finish. cuBLAS is reproducible with workspaces of a
    fixed size (its manual, "Results reproducibility"); a size in the environment is kept. Uninitialised memory is not
    filled, as nothing here reads it.
    """
    if device.kind != "cuda":
        return
    import torch

    set_tf32(device, precision=precision)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def uses_tf32(device: Device, *, precision: str) -> bool:
    """True for a 16-bit run on a GPU of capability 8.0 or above; `--precision fp32` asks for exact products."""
    return device.is_ampere and precision != "fp32"


def escape_unencodable_output() -> None:
    """Print characters that the terminal's encoding lacks as escapes, so that printing a note can't raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_as_script(main: Callable[[], object], *, memory_remedy: str = "use a smaller model or shorter rows") -> int:
    """Run `main`, print a `MedsumError` as one message on stderr and return its exit code (0 without an error).

    Errors for lack of memory become `OutOfMemory` with `memory_remedy`, errors of a failed disk `InputError`. What a
    terminal can't show is printed as an escape. The first of `STOP_SIGNALS` is raised in `main` as KeyboardInterrupt,
    unless `main` installs its own handlers; if `main` does not catch it, the process ends by that signal, without a
    traceback. It ends by SIGPIPE where the reader of stdout has closed it (`| head`); messages to a closed stderr are
    dropped. Raises ValueError outside the main thread, as Python's `signal` does.
    """
    escape_unencodable_output()
    with redirect_stderr(_Messages(sys.stderr)):  # type: ignore[type-var]
        try:
            with interrupt_on_signals():
                return _exit_code(main, memory_remedy)
        except KeyboardInterrupt as interrupt:
            number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
            print(f"\nstopped by {number.name}", file=sys.stderr)
            _end_by_signal(number)
        except BrokenPipeError:
            if not _reader_has_gone(sys.stdout):
                raise
            _end_by_signal(signal.SIGPIPE)


def _exit_code(main: Callable[[], object], memory_remedy: str) -> int:
    try:
        with explain_out_of_memory(memory_remedy), explain_failed_device():
            main()
        sys.stdout.flush()  # here, so that a pipe without a reader is reported as BrokenPipeError
    except MedsumError as error:
        message = f"{'error' if error.exit_code != 75 else 'stopped'}: {error}"
        print("".join(map(_escaped, message)), file=sys.stderr)
        return error.exit_code
    return 0


class Interrupted(KeyboardInterrupt):
    """Raised for one of `STOP_SIGNALS`, as Python raises KeyboardInterrupt for Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """While the block runs, the first of `STOP_SIGNALS` raises `Interrupted`; a second one ends the process at once.

    A signal that is ignored stays ignored: `nohup` ignores SIGHUP. The former handlers are restored at the end.
    """

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        restore_default_handlers()
        raise Interrupted(signal.Signals(number))

    with handled_signals(interrupt):
        yield


@contextmanager
def handled_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """While the block runs, `handler` gets those of `STOP_SIGNALS` that are not ignored; then the former do."""
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, handler_found in former.items():
            signal.signal(number, handler_found if handler_found is not None else signal.SIG_DFL)


def restore_default_handlers() -> None:
    """Let the next of `STOP_SIGNALS` end the process, even inside a long operation that is not Python code."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class _Messages:
    """stderr that drops what it can't write: a closed terminal, a pipe without a reader.

    Ctrl-C ends `tee` too, and a closed terminal sends SIGHUP: the progress bar must not fail before a run is saved.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As `TextIO.write` and `flush`."""
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """As `TextIO.write` and `flush`."""
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


def _end_by_signal(number: signal.Signals) -> NoReturn:
    """End as if nothing had handled the signal: a shell's loop stops at a command that Ctrl-C ended, as it should."""
    with suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # where the signal is blocked


def _escaped(character: str) -> str:
    """A control character as its Python escape: names of files and flags may hold what a terminal would obey."""
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


def value_or_exit(function: Callable[[], Value]) -> Value:
    """What `function` returns; a `MedsumError` is printed as one message and ends the process with its exit code."""
    values: list[Value] = []
    if code := run_as_script(lambda: values.append(function())):
        raise SystemExit(code)
    return values[0]
