"""Files that are there whole or not at all: written beside their target, flushed to disk, then renamed over it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PUBLIC_MODE = 0o644
PRIVATE_MODE = 0o600  # for the files that hold patient text


def write_bytes_atomic(path: str | Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Write `data` to `path` so that a crash leaves the former file or the new one, never a part.

    The file has `mode`, narrowed by the process's umask, from its first byte on. Raises OSError as the system does;
    the half-written file beside the target is removed then.
    """
    path = Path(path)
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, mode & ~_umask())
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomic(path: str | Path, text: str, *, mode: int = PUBLIC_MODE) -> None:
    """`write_bytes_atomic` for text: UTF-8, newlines as they are in `text`."""
    write_bytes_atomic(path, text.encode("utf-8"), mode=mode)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable, where the system lets a folder be opened (Linux, macOS)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
