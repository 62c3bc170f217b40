"""The notes of an interrupted report, kept in the run folder until the run is resumed."""

from __future__ import annotations

from pathlib import Path

_ENDING = "_notes.part.jsonl"


def part_path(folder: Path, side: str) -> Path:
    """The file in a run folder with the notes of a side (base or tuned) while its report is being written."""
    return folder / f"{side}{_ENDING}"


def report_was_interrupted(folder: Path) -> bool:
    """Whether a run ended while it was writing its report."""
    return any(folder.glob(f"*{_ENDING}"))
