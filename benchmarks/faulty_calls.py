"""Python's system calls on paths in one folder, counted, of which a given one fails.

`os.*`, files opened by `open` and `pathlib`, and the calls in which safetensors and tokenizers read and write by
themselves. Imports and files elsewhere are not affected.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READING = ("open", "read", "list", "load")
WRITING = ("create", "write", "sync", "mkdir", "rename", "save")
REMOVING = ("unlink", "rmdir")
CHANGING = tuple({*WRITING, *REMOVING} - {"sync"})
NAMES = {"fsync": "sync", "mkdir": "mkdir", "rename": "rename", "replace": "rename", "ftruncate": "write"}
NAMES |= {"unlink": "unlink", "remove": "unlink", "rmdir": "rmdir", "listdir": "list", "scandir": "list"}
# once: this call only; lasting: also later reads of this path; full: all later calls that need disk space.
FAULTS = {
    **dict.fromkeys(READING, ("EIO once", "EIO lasting", "SIGKILL", "SIGTERM")),
    **dict.fromkeys(WRITING, ("EIO once", "ENOSPC full", "SIGKILL", "SIGTERM")),
    **dict.fromkeys(REMOVING, ("EIO once", "SIGKILL", "SIGTERM")),
}
FAULTS["read"] += ("short",)
FAULTS["write"] += ("short", "SIGKILL half")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at the `call`-th call, counted from 1 over all of them."""

    call: int
    kind: str


class FaultyCalls:
    """Counts calls on paths in `folder` after `plant` was called, and makes `fault` happen."""

    def __init__(self, folder: Path, fault: Fault | None) -> None:
        self.seen: list[tuple[str, str]] = []  # name of the call and path below the folder
        self._folder, self._fault = str(folder.resolve()) + os.sep, fault
        self._lasting: str | None = None  # the path that can't be read any more
        self._full = False
        self._open, self._write = io.open, os.write

    def plant(self) -> None:
        """Replace the real calls by the faulty ones, for the rest of this process."""
        for name, kind in NAMES.items():
            setattr(os, name, self._wrapped(getattr(os, name), kind))
        os.open = self._os_open(os.open)
        os.write = self._os_write
        builtins.open = io.open = self._io_open  # type: ignore[assignment]
        self._wrap_libraries()

    def count_and_fail(self, name: str, path: str) -> bool:
        """Count a call and raise or kill if the fault is due. Returns whether only half of the call is to be done."""
        self.seen.append((name, path.removeprefix(self._folder)))
        fault = self._fault
        if fault is None:
            return False
        due = len(self.seen) == fault.call
        if due and fault.kind.startswith("SIG") and fault.kind != "SIGKILL half":
            os.kill(os.getpid(), signal.Signals[fault.kind])
        self._full |= due and fault.kind == "ENOSPC full"
        if due and fault.kind == "EIO lasting":
            self._lasting = path
        if self._full and name in WRITING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if (due and fault.kind == "EIO once") or (path == self._lasting and name in READING):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return due and fault.kind in ("short", "SIGKILL half")

    def watched(self, file: Any) -> str | None:
        """The path of a file or descriptor if it is below the folder."""
        try:
            name = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(file)
        except (OSError, TypeError):
            return None
        path = os.path.abspath(os.fsdecode(name))
        return path if path.startswith(self._folder) else None

    def written_half(self, data: Any, write: Callable[[Any], int]) -> int:
        """Write the first half, then kill the process if the fault says so."""
        written = write(bytes(data)[: max(1, len(data) // 2)])
        if self._fault is not None and self._fault.kind == "SIGKILL half":
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def _wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(file: Any = ".", *arguments: Any, **keywords: Any) -> Any:
            if path := self.watched(file) if "dir_fd" not in keywords else None:
                self.count_and_fail(name, path)
            return real(file, *arguments, **keywords)

        return call

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(file: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if path := self.watched(file):
                self.count_and_fail("create" if flags & os.O_CREAT else "open", path)
            return real(file, flags, *arguments, **keywords)

        return call

    def _os_write(self, descriptor: int, data: Any) -> int:
        path = self.watched(descriptor)
        if path and self.count_and_fail("write", path):
            return self.written_half(data, lambda half: self._write(descriptor, half))
        return self._write(descriptor, data)

    def _io_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """`open` with a raw file whose reads and writes are counted; the real one does both in C."""
        path = self.watched(file)
        if path is None:
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self.count_and_fail("open" if "r" in mode else "create", path)
        raw = _FaultyFile(self, path, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        kind: Any = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        buffered = kind(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _wrap_libraries(self) -> None:
        """The calls in which libraries of other languages open a file by its path."""
        import safetensors
        import safetensors.torch
        from transformers import PreTrainedTokenizerFast

        def save_file(tensors: Any, filename: Any, *arguments: Any, **keywords: Any) -> Any:
            if path := self.watched(filename):
                self._as_other_error("save", path, safetensors.SafetensorError)
            return real_save(tensors, filename, *arguments, **keywords)

        def save_tokenizer(tokenizer: Any, save_directory: Any, *arguments: Any, **keywords: Any) -> Any:
            if path := self.watched(save_directory):
                self._as_other_error("save", path + "/tokenizer.json", Exception)
            return real_tokenizer(tokenizer, save_directory, *arguments, **keywords)

        real_save, real_tokenizer = safetensors.torch.save_file, PreTrainedTokenizerFast._save_pretrained
        _replace_everywhere(real_save, save_file)
        _replace_everywhere(safetensors.safe_open, self._wrapped(safetensors.safe_open, "load"))
        PreTrainedTokenizerFast._save_pretrained = save_tokenizer

    def _as_other_error(self, name: str, path: str, kind: type[Exception]) -> None:
        """Raise as the Rust libraries do: an error of their own with the system's message in it."""
        try:
            self.count_and_fail(name, path)
        except OSError as error:
            raise kind(f"{error.strerror} (os error {error.errno})") from None


class _FaultyFile(io.FileIO):
    def __init__(self, calls: FaultyCalls, path: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._calls, self._path = calls, path

    def readinto(self, buffer: Any) -> int | None:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        half = self._calls.count_and_fail("read", self._path)
        return super().readinto(view[: max(1, len(view) // 2)] if half else view)

    def readall(self) -> bytes:
        self._calls.count_and_fail("read", self._path)
        return super().readall()

    def write(self, data: Any) -> int:
        if self._calls.count_and_fail("write", self._path):
            return self._calls.written_half(data, super().write)
        return super().write(data)


def _replace_everywhere(real: Any, other: Any) -> None:
    """Replace `real` by `other` in every loaded module."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is real:
                setattr(module, name, other)
