"""The notes of an interrupted report, which wait in the run folder for the run's next start."""

from __future__ import annotations

from pathlib import Path

_ENDING = "_notes.part.jsonl"


def part_path(folder: Path, side: str) -> Path:
    """Where a run folder holds the notes of a side while its report is being written."""
    return folder / f"{side}{_ENDING}"


def report_was_interrupted(folder: Path) -> bool:
    """Whether a run ended while it was writing its report."""
    return any(folder.glob(f"*{_ENDING}"))
