"""The Markdown that reports and model cards are made of: tables, figures with intervals, ids, code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medsum_core.data.disclosure import show_id
from medsum_core.score.bootstrap import Estimate

NOT_MEASURED = "–"
MAX_IDS = 1000  # beyond this only the number of the others is given


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned, the others right-aligned. Cells are escaped."""
    lines = [_row(header), "|" + "|".join([" :--- ", *[" ---: "] * (len(header) - 1)]) + "|"]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def figure(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """A number with fixed decimals and a true minus sign; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def estimate(value: Estimate, *, digits: int = 3, signed: bool = False, percent: bool = False) -> str:
    """A value and, in brackets, its 95 % interval; as percentages if asked for."""
    if math.isnan(value.value):
        return NOT_MEASURED
    value = value.scaled(100) if percent else value
    middle, low, high = (figure(part, digits=digits, signed=signed) for part in (value.value, value.low, value.high))
    return f"{middle}{' %' if percent else ''} [{low}, {high}]"


def id_list(ids: Sequence[str]) -> str:
    """Row ids as code, separated by commas; `none` for none."""
    if not ids:
        return "none"
    shown = ", ".join(code(show_id(id)) for id in ids[:MAX_IDS])
    return shown if len(ids) <= MAX_IDS else f"{shown} and {len(ids) - MAX_IDS} more"


def code(text: object) -> str:
    """A value as Markdown code, on one line."""
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level: {"train": {"seed": 1}} -> {"seed": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(flatten(value) if isinstance(value, Mapping) else {name: value})
    return flat


def duration(seconds: float) -> str:
    """Seconds in readable units: 8.4 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
