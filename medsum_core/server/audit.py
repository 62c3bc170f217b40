"""The audit log: who asked for what and did what with it, as JSON lines. Ids, hashes, offsets and times, never text.

A line is on the disk before the answer that it describes is sent. The file is append-only and private to its owner
(0600): a short note can be guessed from its hash, therefore the log is patients' data too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, sync_folder
from medsum_core.server.refusal import Refusal
from medsum_core.tasks.divisions import DIVISIONS
from medsum_core.tasks.section_names import SECTION_NAMES, section_code

AUDIT_FILE = "server_audit.jsonl"


class AppendedLines:
    """A file of JSON lines that is only appended to. Safe to use from several threads and processes."""

    def __init__(self, path: Path, *, flag: str) -> None:
        """Open or create it. A line that a crash left unfinished gets a newline. Raises InputError, naming the flag."""
        self.path = path
        self._lock = Lock()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(path, flags, PRIVATE_MODE)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
            sync_folder(path.parent)
        except OSError as error:
            raise InputError(f"{flag} {path}: can't be written ({error.strerror})") from None

    def append(self, record: Mapping[str, Any]) -> None:
        """One line in one write, on the disk when this returns. Raises OSError as the system does."""
        line = json.dumps({"time": _now(), **record}, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, line) < len(line):
                    raise OSError(28, "no space for a whole line")
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise

    def read(self) -> list[dict[str, Any]]:
        """The records, in order; lines that are not records are skipped."""
        records = []
        for line in self.path.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            records += [record] if isinstance(record, dict) else []
        return records

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class AuditLog:
    """The log of one server; `settings_sha256` identifies the model, the adapter, the prompt and the decoding."""

    def __init__(self, lines: AppendedLines, *, model: str, settings_sha256: str) -> None:
        self._lines = lines
        self._about = {"model": model, "settings_sha256": settings_sha256}

    def record(self, event: str, *, id: str, who: str, **facts: Any) -> None:
        """Append an event. Raises Refusal (503) if that fails: nothing is done without a record."""
        try:
            self._lines.append({"event": event, "id": id, "who": who, **self._about, **facts})
        except OSError as error:
            raise Refusal(503, "no_audit", f"the audit log can't be written ({error.strerror})") from None

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def text_sha256(text: str) -> str:
    """The sha256 (hex) of a text in UTF-8: shows whether a given note is the one in the log."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def known_section(section: str) -> str:
    """The code of a known section; "other" for a name that a user typed, which may contain anything."""
    code = section_code(section).upper()
    if code in SECTION_NAMES:
        return code
    return section if section in DIVISIONS or section == "" else "other"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
