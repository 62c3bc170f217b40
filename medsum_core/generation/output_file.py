"""The output file OUT: checks before it is written, and notes left by an earlier call."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from medsum_core.config.locks import locked_file
from medsum_core.errors import InputError
from medsum_core.generation.note_files import EarlierNotes, made_from_path, read_finished
from medsum_core.generation.part_file import holds_notes, part_path, read_part


def output_path(name: str) -> Path:
    """OUT as a path. Raises InputError for one that can't be written."""
    out = Path(name)
    if out.suffix.lower() != ".csv":
        raise InputError(f"--output_file {out}: the name must end in .csv")
    if not out.parent.is_dir():
        raise InputError(f"--output_file {out}: there is no folder {out.parent}")
    return out


def locked_output(out: Path) -> AbstractContextManager[None]:
    """`locked_file` for OUT, its part file and its `made_from` record."""
    return locked_file(out, part_path(out), made_from_path(out), flag="--output_file")


def refuse_overwriting(out: Path, *, resume: bool) -> None:
    """Raise InputError if OUT or finished notes exist already, unless `resume`. Call it while holding the lock."""
    if resume:
        return
    if out.exists():
        raise InputError(f"--output_file {out}: exists already; name another, or keep its rows with --resume")
    if holds_notes(part_path(out)):
        raise InputError(f"{part_path(out)} holds finished notes: go on with --resume, or delete it to start anew")


def earlier_notes(out: Path) -> EarlierNotes | None:
    """The notes of an interrupted call (which include those of its OUT), or else those of OUT; None without any."""
    part = read_part(part_path(out)) if part_path(out).exists() else None
    return read_finished(out) if part is None and out.exists() else part
