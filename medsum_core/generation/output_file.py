"""Where notes go: which OUT may be written, and what an earlier call left of it."""

from __future__ import annotations

from pathlib import Path

from medsum_core.errors import InputError
from medsum_core.generation.note_files import EarlierNotes, read_finished
from medsum_core.generation.part_file import holds_notes, part_path, read_part


def check_output(name: str, *, resume: bool) -> Path:
    """OUT as a path. Raises InputError for one that would be overwritten, or that can't be written."""
    out = Path(name)
    if out.suffix.lower() != ".csv":
        raise InputError(f"--output_file {out}: the name must end in .csv")
    if not out.parent.is_dir():
        raise InputError(f"--output_file {out}: there is no folder {out.parent}")
    if out.exists() and not resume:
        raise InputError(f"--output_file {out}: exists already; name another, or keep its rows with --resume")
    if holds_notes(part_path(out)) and not resume:
        raise InputError(f"{part_path(out)} holds finished notes: go on with --resume, or delete it to start anew")
    return out


def earlier_notes(out: Path) -> EarlierNotes | None:
    """The notes of a call that was interrupted, which include those of the OUT that it found, or else those of OUT."""
    part = read_part(part_path(out)) if part_path(out).exists() else None
    return read_finished(out) if part is None and out.exists() else part
