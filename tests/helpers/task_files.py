"""Fictional rows in the forms of the tasks' data sets, as files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

COMPLAINTS = ("a cough", "knee pain", "a rash", "headaches", "back pain", "a fever")


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    """A file of these rows, the first of which names the columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def visit_note(complaint: str, *, with_results: bool = True) -> str:
    """A whole note with three or all four divisions."""
    sections = ["CHIEF COMPLAINT", "", f"Has {complaint}.", "", "PHYSICAL EXAM", "", "Lungs clear.", ""]
    sections += ["RESULTS", "", "X-ray normal.", ""] if with_results else []
    return "\n".join([*sections, "ASSESSMENT AND PLAN", "", f"Rest for {complaint}."])


def visits(path: Path, *, first: int, count: int) -> Path:
    """Visits in ACI-Bench's columns; every second one lacks results."""
    rows = []
    for number in range(first, first + count):
        complaint = COMPLAINTS[number % len(COMPLAINTS)]
        dialogue = f"[doctor] What brings you in, visit {number}?\n[patient] I have {complaint}.\n[doctor] Lungs clear."
        rows.append(("virtassist", f"V{number}", dialogue, visit_note(complaint, with_results=number % 2 == 0)))
    return write_csv(path, ("dataset", "encounter_id", "dialogue", "note"), *rows)


def questions(path: Path, *, first: int, count: int) -> Path:
    """Questions in PubMedQA's official JSON, an object by id."""
    rows = {
        str(number): {
            "QUESTION": f"Does rest help {COMPLAINTS[number % len(COMPLAINTS)]}?",
            "CONTEXTS": [f"We studied {number} people.", "Most of them rested."],
            "LABELS": ["METHODS", "RESULTS"],
            "LONG_ANSWER": "Rest helped.",
            "final_decision": ("yes", "no", "maybe")[number % 3],
        }
        for number in range(first, first + count)
    }
    path.write_text(json.dumps(rows))
    return path


def summaries(path: Path, *, first: int, count: int) -> Path:
    """Rows of the worked example, `examples/patient_instructions.yaml`."""
    rows = [
        (
            f"S{number}",
            "grade 6",
            f"Admitted with {COMPLAINTS[number % 6]}.\nRest {number} days.",
            f"Rest {number} days.",
        )
        for number in range(first, first + count)
    ]
    return write_csv(path, ("stay_id", "reading_level", "discharge_summary", "patient_instructions"), *rows)
