"""`metrics.jsonl`: one JSON object a line, named as transformers logs them; truncated to the checkpoint on resume.

Names: `step, epoch, loss, grad_norm, learning_rate, tokens_per_second`; `eval_loss` and others that start with `eval_`.
A number that is not finite is written as null, since JSON has no such number.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, read_plain_file, write_bytes_atomic


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One window's figures. `loss` is nats per note token; `skipped` means that nothing was updated."""

    loss: float
    grad_norm: float
    num_targets: int
    num_tokens: int  # prompt and note, without padding, over all processes
    seconds: float
    skipped: bool

    @classmethod
    def of(
        cls, window: Sequence[Example], started: float, *, loss: float, grad_norm: float, skipped: bool
    ) -> StepStats:
        """The figures of a window whose step began at `started` (`time.perf_counter`, seconds)."""
        return cls(
            loss=loss,
            grad_norm=grad_norm,
            num_targets=sum(example.num_targets for example in window),
            num_tokens=sum(example.num_tokens for example in window),
            seconds=time.perf_counter() - started,
            skipped=skipped,
        )


class MetricsLog:
    """Appends lines, each in one write, so that a crash can leave only the last line unfinished. Mode 0600.

    The file is open only while it is written, so that nothing is left to close, however a run ends. A full disk does
    not end a run: a failed write is warned about once, and its lines follow when there is room again.
    """

    def __init__(self, path: str | Path) -> None:
        """Create the file if there is none. Raises OSError if it can't be written."""
        self._path = path
        self._pending = b""
        self._warned = False
        self._write_pending(flush=False)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. It must hold an integer `step`, by which a resumed run truncates the file (`cut_back`)."""
        if not isinstance(record.get("step"), int):
            raise ValueError("a metrics record needs an integer `step`")
        finite = {name: None if _not_finite(value) else value for name, value in record.items()}
        self._pending += (json.dumps(finite) + "\n").encode()
        self._try_to_write(flush=False)

    def sync(self) -> None:
        """Flush to disk; called before a checkpoint is written, so that a power cut loses no line of before it."""
        self._try_to_write(flush=True)

    def _try_to_write(self, *, flush: bool) -> None:
        try:
            self._write_pending(flush=flush)
        except OSError as error:
            if not self._warned:
                print(f"warning: could not write the metrics: {error.strerror}; the run goes on", file=sys.stderr)
            self._warned = True

    def _write_pending(self, *, flush: bool) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
        try:
            while self._pending:
                self._pending = self._pending[os.write(descriptor, self._pending) :]
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records, in order, without a half-written last line. Raises InputError for another damaged line."""
    lines = read_plain_file(path).split(b"\n")
    lines.pop()  # half-written, or empty after a complete last line
    return [_record(line, number, path) for number, line in enumerate(lines, start=1)]


def records_until(path: str | Path, *, step: int) -> list[dict[str, Any]]:
    """The records up to and including `step`, in order; none where there is no file.

    Damaged lines after the last of them are ignored, as a resumed run repeats those updates. Raises InputError for a
    damaged line before it.
    """
    if not Path(path).exists():
        return []
    lines = read_plain_file(path).split(b"\n")[:-1]  # empty after a complete last line, else half-written
    found = [_parse(line) for line in lines]
    wanted = [index for index, record in enumerate(found) if record is not None and record["step"] <= step]
    last = wanted[-1] if wanted else -1
    return [_record(lines[index], index + 1, path) for index in range(last + 1) if index in wanted or not found[index]]


def cut_back(path: str | Path, *, step: int) -> int:
    """Remove the records after `step` (see `records_until`); return how many are left.

    The file is replaced atomically; a missing file counts as empty. Records of `step` itself stay: the evaluation at
    that step is logged before the checkpoint is written.
    """
    path = Path(path)
    kept = records_until(path, step=step)
    if path.exists():
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_bytes_atomic(path, text.encode(), mode=PRIVATE_MODE)
    return len(kept)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def _record(line: bytes, number: int, path: str | Path) -> dict[str, Any]:
    record = _parse(line)
    if record is None:
        raise InputError(f"{path}, line {number}: not a metrics record; remove the line or the file")
    return record


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
