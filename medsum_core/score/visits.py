"""Full-visit notes by division, as ACI-Bench's `evaluate_fullnote.py` scores them (github.com/wyim/aci-bench).

Three properties of that script affect its figures. A division that a note lacks is the text `#####EMPTY#####`, so that
it scores 1 where both notes lack it and 0 where one does; where no note of a side has it, it is empty text on that
side, which always scores 0. Line breaks are written `__lf1__`, which the ROUGE tokenizer reads as a word `lf1`. And
every row counts for every division. `plain` therefore has the figures without these: the rows whose reference has the
division, with line breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsum_core.score.rouge import average_runs, score_rows, summarise
from medsum_core.tasks.divisions import DIVISIONS, split_for_scoring

LINE_BREAK = "__lf1__"  # as MEDIQA's files write it
EMPTY = "#####EMPTY#####"


def division_scores(references: Sequence[str], runs: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """By division the scores of notes against their references, means over `runs` (seeds), as `rouge.summarise`.

    `references_without`: notes without that division. `plain`: see above; absent where no reference has the division.
    Raises ValueError as `score_rows`.
    """
    truth = _by_division(references)
    given = [_by_division(run) for run in runs]
    scores = {}
    for name in DIVISIONS:
        official = [score_rows(_official(truth[name]), _official(run[name])) for run in given]
        scores[name] = summarise(average_runs(official))
        present = [index for index, part in enumerate(truth[name]) if part]
        scores[name]["references_without"] = len(references) - len(present)
        if present:
            texts = [truth[name][index] for index in present]
            plain = [score_rows(texts, [run[name][index] for index in present]) for run in given]
            scores[name]["plain"] = {**average_runs(plain).means(), "count": len(present)}
    return scores


def _by_division(notes: Sequence[str]) -> dict[str, list[str]]:
    split = [split_for_scoring(note.replace(LINE_BREAK, "\n")) for note in notes]
    return {name: [parts[name] for parts in split] for name in DIVISIONS}


def _official(parts: Sequence[str]) -> list[str]:
    """One division of all notes of a side, as the official script gives it to ROUGE."""
    empty = EMPTY if any(parts) else ""
    return [part.replace("\n", LINE_BREAK) or empty for part in parts]
