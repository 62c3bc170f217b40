"""Scores as a table for the terminal: points from 0 to 100, as papers print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medsum_core.score.rouge import METRICS
from medsum_core.tasks.section_names import SECTION_NAMES, section_name

LABELS = {"rouge1": "R-1", "rouge2": "R-2", "rougeL": "R-L", "rougeLsum": "R-Lsum"}
NAMES = {
    "short_references": "references of 3 words or fewer",
    "longer_references": "longer references",
    "copied_dialogue": "floor: the source text copied, tags stripped",
    "commonest_training_text": "floor: commonest training text of the header",
}
NAME_WIDTH = 46
RUN_NAME_CHARACTERS = 32  # the end of a path tells runs apart, its beginning rarely does
CELL_WIDTH = 23  # "100.00 [100.0, 100.0]", and two blanks


def format_scores(result: dict[str, Any]) -> str:
    """The table of one result of `evaluate`: numbers, section headers and file names, no text."""
    lines = [result["protocol"], "Points from 0 to 100; [95 % interval].", ""]
    lines.append("".join([f"{'':{NAME_WIDTH}}{'rows':>5}", *(f"{LABELS[metric]:>{CELL_WIDTH}}" for metric in METRICS)]))
    lines.append(_line("all rows", result))
    if "unicode" in result:
        lines.append(_line("all rows, letters of any script, not official", result["unicode"]))
    lines.extend(_run_lines(result))
    lines.extend(_line(NAMES[name], scores) for name, scores in result["strata"].items())
    if "without_shared_dialogues" in result:
        lines.append(_line("without source texts that training has", result["without_shared_dialogues"]))
    lines.extend(_line(NAMES[name], scores) for name, scores in result["floors"].items())
    if "header_accuracy" in result:
        lines.extend(["", *_header_lines(result)])
    for name, title in {"closed_accuracy": "yes or no: accuracy", "open_f1": "open questions: F1 of words"}.items():
        if name in result:
            low, high = (100 * bound for bound in result[f"{name}_interval"])
            lines.append(f"{title} {100 * result[name]:.2f} [{low:.1f}, {high:.1f}], {result[f'{name}_count']} rows")
    if "divisions" in result:
        lines.extend(["", *_division_lines(result["divisions"])])
    if "compare" in result:
        lines.extend(["", _line("difference to --compare, paired", result["compare"], signed=True)])
    if result["sections"]:
        lines.append("")
        lines.extend(_section_lines(result["sections"]))
    lines.extend(_absent(result))
    return "\n".join(lines)


def _run_lines(result: dict[str, Any]) -> Iterator[str]:
    if "runs" not in result:
        return
    for run in result["runs"]:
        yield _line(f"  run ...{run.get('predictions', '')[-RUN_NAME_CHARACTERS:]}", {**run, "count": result["count"]})
    spread = {metric: result[f"{metric}_spread"] for metric in METRICS}
    yield _line(f"  standard deviation over {len(result['runs'])} runs", {**spread, "count": result["count"]})


def _header_lines(result: Mapping[str, Any]) -> Iterator[str]:
    low, high = (100 * bound for bound in result["header_accuracy_interval"])
    yield f"section headers right: {100 * result['header_accuracy']:.2f} [{low:.1f}, {high:.1f}]"
    yield f"  floor: the references' commonest header in every row: {100 * result['header_floor']:.2f}"


def _division_lines(divisions: Mapping[str, Any]) -> Iterator[str]:
    """A line for each as the official script scores it, and one for its text as it is."""
    for name, scores in divisions.items():
        yield _line(f"division {name}", scores)
        if "plain" in scores:
            yield _line("  where the reference has it, line breaks kept", scores["plain"])


def _section_lines(sections: Mapping[str, Any]) -> Iterator[str]:
    """A line for each section that has one of MTS-Dialog's names; another header may hold text: those are counted."""
    known = {header: scores for header, scores in sections.items() if section_name(header) in SECTION_NAMES.values()}
    yield from (_line(f"section {header}", scores) for header, scores in known.items())
    if others := len(sections) - len(known):
        yield f"{others} headers are not MTS-Dialog's and are not shown here: their scores are in the file of --json"


def _line(name: str, scores: dict[str, Any], *, signed: bool = False) -> str:
    cells = (_cell(scores, metric, signed=signed) for metric in METRICS)
    return f"{name:{NAME_WIDTH}}{scores['count']:>5}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)


def _cell(scores: dict[str, Any], metric: str, *, signed: bool) -> str:
    if metric not in scores:
        return "-"
    sign = "+" if signed else ""
    interval = scores.get(f"{metric}_interval")
    bounds = f" [{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]" if interval else ""
    return f"{100 * scores[metric]:{sign}.2f}{bounds}"


def _absent(result: dict[str, Any]) -> Iterator[str]:
    """What could not be computed, and why."""
    absent = []
    if "copied_dialogue" not in result["floors"]:
        absent.append("the copied-source floor needs a source text in every row of the references")
    if "commonest_training_text" not in result["floors"]:
        absent.append("the commonest-text floor needs --train_file and a section header in every row of the references")
    if "without_shared_dialogues" not in result:
        absent.append(
            "the score without leaked rows needs --train_file and a source text in every row of the references"
        )
    if absent:
        yield ""
        yield from (f"Not computed: {reason}." for reason in absent)
