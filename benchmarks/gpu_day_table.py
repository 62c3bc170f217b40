"""The table of examples/gpu.md, made from the files that `gpu_day.py` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_day_sections import TRAINING

BEGIN, END = "<!-- gpu_day.py --table: begin -->", "<!-- gpu_day.py --table: end -->"
CARDS = {
    "H100, H200": ("H100", "H200"),
    "A100": ("A100",),
    "RTX 30, 40, 50": ("RTX",),
    "T4": ("T4",),
}
NOT_YET = "not yet run"
NOTES = ("64", "16")  # the first that was measured is shown
GIB = 1 << 30
HEAD = (
    "card",
    "day, commit",
    "GPU tests",
    *(name.removeprefix("train_").replace("_dequantized", ", dequantised") for name in TRAINING),
    "TRL, its fastest",
    "decoding",
)


def write_table(page: Path, figures: Path) -> None:
    """Put the table between the page's two marker lines."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{table(read_days(figures))}\n{END}{after}")


def read_days(figures: Path) -> list[dict[str, Any]]:
    """Every day that was measured on a GPU, the latest first."""
    days = [json.loads(path.read_text()) for path in sorted(figures.glob("*.json"))]
    return sorted((day for day in days if not day["tiny"]), key=lambda day: day["date"], reverse=True)


def table(days: Sequence[dict[str, Any]]) -> str:
    """A row for each day, and one that says "not yet run" for each kind of GPU without a day."""
    rows, shown = [], set()
    for kind, names in CARDS.items():
        of_kind = [day for day in days if any(name in day["card"] for name in names)]
        shown |= {id(day) for day in of_kind}
        rows += [_row(day) for day in of_kind] or [[kind, *[NOT_YET] * (len(HEAD) - 1)]]
    rows += [_row(day) for day in days if id(day) not in shown]
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(day: dict[str, Any]) -> list[str]:
    return [
        f"{day['card']}, torch {day['torch']}",
        f"{day['date']}, {day['commit']}",
        _tests(day),
        *(_training(day, name) for name in TRAINING),
        _trl(day),
        _decoding(day),
    ]


def _tests(day: dict[str, Any]) -> str:
    found = day["figures"].get("tests")
    if found is None:
        return day["errors"].get("tests", NOT_YET)
    counts = [f"{found[name]} {name.replace('_', ' ')}" for name in ("passed", "failed", "skipped", "not_run")]
    return ", ".join([*counts, *(f"{len(found['uncollected'])} files not read" for _ in found["uncollected"][:1])])


def _training(day: dict[str, Any], name: str) -> str:
    """The longest windows that ran."""
    found = day["figures"].get(name)
    if found is None:
        return day["errors"].get(name, NOT_YET)
    windows = [window for window in found["windows"] if "error" not in window]
    if not windows:
        return str(found["windows"][-1]["error"])
    best = max(windows, key=lambda window: window["tokens"])
    peak, estimate = best["peak_bytes"] / GIB, best["estimate_bytes"] / GIB
    profile = found["profile"]
    waited = f"; {profile['launches']} launches, {profile['waits']} waits" if profile.get("launches") else ""
    return (
        f"{best['tokens_per_second']:,.0f} tokens/s in windows of {best['tokens']:,}, {best['share_of_peak']:.0%} of "
        f"the product's peak; {peak:.1f} GiB, estimated {estimate:.1f}{waited}"
    )


def _trl(day: dict[str, Any]) -> str:
    found = {name.removeprefix("trl_"): part for name, part in day["figures"].items() if name.startswith("trl_")}
    if not found:
        return next((error for name, error in day["errors"].items() if name.startswith("trl_")), NOT_YET)
    name, best = max(found.items(), key=lambda item: item[1]["tokens_per_second"])
    return f"{best['tokens_per_second']:,.0f} tokens/s in windows of {best['tokens']:,} ({name})"


def _decoding(day: dict[str, Any]) -> str:
    found = day["figures"].get("decode")
    if found is None:
        return day["errors"].get("decode", NOT_YET)
    count = next(count for count in (*NOTES, *found) if count in found)
    speeds = {name: part["tokens_per_second"] for name, part in found[count].items() if "error" not in part}
    cells = [f"{name.replace('_', ' ')} {speed:,.0f}" for name, speed in speeds.items()]
    failed = [f"{name.replace('_', ' ')} {part['error']}" for name, part in found[count].items() if "error" in part]
    return f"{count} notes, tokens/s: {', '.join([*cells, *failed])}"
