"""A visit note is divided at its headings as by ACI-Bench's tagger, and joined again; all notes are fictional."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medsum_core.tasks.divisions import DIVISIONS, join_divisions, split_divisions, split_for_scoring

REAL = Path(__file__).parents[3] / "shared" / "data" / "aci-bench" / "challenge_data_json"
NOTE = (
    "CHIEF COMPLAINT\n\nSore knee.\n\nSOCIAL HISTORY\n\nKeeps bees.\n\nMEDICATIONS\n\nNone.\n\n"
    "PHYSICAL EXAM\n\n- Knee: Warm.\n\nVITALS REVIEWED\n\nNormal.\n\nRESULTS\n\nX-ray: No fracture.\n\n"
    "ASSESSMENT\n\nSprain.\n\nPLAN\n\nRest.\n"
)


def test_a_section_belongs_to_its_headings_division_and_an_unknown_one_to_the_section_before() -> None:
    parts = split_divisions(NOTE)
    assert (
        list(parts) == ["subjective", "objective_exam", "objective_results", "assessment_and_plan"] == list(DIVISIONS)
    )
    assert parts["subjective"].endswith("MEDICATIONS\n\nNone.\n\n")
    assert parts["objective_exam"] == "PHYSICAL EXAM\n\n- Knee: Warm.\n\nVITALS REVIEWED\n\nNormal.\n\n"
    assert parts["objective_results"] == "RESULTS\n\nX-ray: No fracture.\n\n"
    assert parts["assessment_and_plan"] == "ASSESSMENT\n\nSprain.\n\nPLAN\n\nRest.\n"
    assert split_for_scoring(NOTE) == parts
    assert join_divisions(parts) == NOTE.strip()


@pytest.mark.parametrize(
    ("line", "division"),
    [
        ("cc: knee", "subjective"),
        ("CC :", "subjective"),
        ("CC", "subjective"),
        ("cc of blood were given", None),
        ("history: knee", "subjective"),
        ("History taken from his son", None),
        ("  HPI and more", "subjective"),
        ("Exam", "objective_exam"),
        ("Exam went well", None),
        ("Physical examination of the knee", "objective_exam"),
        ("PhysicalExam:", "objective_exam"),
        ("Results of the X-ray", "objective_results"),
        ("Findings: none", "objective_results"),
        ("Findings were none", None),
        ("A: sprain", "assessment_and_plan"),
        ("A : sprain", None),
        ("A/P: rest", "assessment_and_plan"),
        ("Assessment and Plan for today", "assessment_and_plan"),
        ("Assessment & plan", "assessment_and_plan"),
        ("Assessment for today", None),
        ("IMPRESSION: sprain", "assessment_and_plan"),
        ("Impression: sprain", None),
        ("See PLAN:", None),
    ],
)
def test_a_line_is_a_heading_as_in_the_official_tagger(line: str, division: str | None) -> None:
    """The cases are taken from the official tagger's list of headings by hand."""
    before = "RESULTS" if division != "objective_results" else "PLAN"
    parts = split_divisions(f"{before}\n{line}\nMore.")
    if division is None:
        assert parts["objective_results"] == f"RESULTS\n{line}\nMore."
    else:
        assert parts[division] == f"{line}\nMore."


def test_a_repeated_heading_counts_in_data_and_not_in_scoring() -> None:
    note = "HPI\nKnee.\nEXAM\nWarm.\nPLAN\nRest.\nPhysical exam was repeated.\nIce.\n"
    divided, scored = split_divisions(note), split_for_scoring(note)
    assert divided["objective_exam"] == "EXAM\nWarm.\nPhysical exam was repeated.\nIce.\n"
    assert divided["assessment_and_plan"] == "PLAN\nRest.\n"
    assert scored["objective_exam"] == "EXAM\nWarm.\n"
    assert scored["assessment_and_plan"] == "PLAN\nRest.\nPhysical exam was repeated.\nIce.\n"


def test_divisions_out_of_order_are_joined_in_order() -> None:
    note = "PLAN\nRest.\nHPI\nKnee.\n"
    assert split_for_scoring(note)["assessment_and_plan"] == "PLAN\nRest.\n"
    assert join_divisions(split_divisions(note)) == "HPI\nKnee.\n\nPLAN\nRest."


def test_text_without_a_heading_is_subjective() -> None:
    assert split_divisions("Knee.\nRESULTS\nNone.")["subjective"] == "Knee.\n"
    assert split_for_scoring("Just text.") == {**dict.fromkeys(DIVISIONS, ""), "subjective": "Just text."}
    assert split_divisions("") == split_for_scoring("") == dict.fromkeys(DIVISIONS, "")


def test_absent_and_blank_divisions_are_left_out_of_the_note() -> None:
    assert join_divisions({"assessment_and_plan": "PLAN\n  Rest.\n", "subjective": "\n", "objective_exam": ""}) == (
        "PLAN\n  Rest."
    )
    assert join_divisions({}) == ""
    with pytest.raises(ValueError, match="objective: no division; there are subjective, objective_exam"):
        join_divisions({"objective": "EXAM"})


@pytest.mark.skipif(not REAL.is_dir(), reason="ACI-Bench is not beside the checkout (../shared/data)")
@pytest.mark.parametrize(("split", "count"), [("train", 67), ("valid", 20)])
def test_all_published_divisions_are_our_split_of_the_full_notes(split: str, count: int) -> None:
    """ACI-Bench writes a placeholder for a division that a note lacks. One note's plan has a line "Physical exam ...",
    which the tagger takes for a heading, so that its divisions are out of order."""
    rows = {name: json.loads((REAL / f"{split}_{name}.json").read_text())["data"] for name in ("full", *DIVISIONS)}
    out_of_order = []
    for index, full in enumerate(rows["full"]):
        parts = split_divisions(full["tgt"])
        for name in DIVISIONS:
            published = rows[name][index]
            assert published["file"] == f"{full['file']}-{name}"
            assert (parts[name] or f"{name}: #####EMPTY#####.\n") == published["tgt"]
        if without_blank_lines(join_divisions(parts)) != without_blank_lines(full["tgt"]):
            out_of_order.append(full["file"])
    assert len(rows["full"]) == count
    assert out_of_order == (["D2N030-virtscribe"] if split == "train" else [])


def without_blank_lines(text: str) -> str:
    return re.sub(r"\n+", "\n", text).strip("\n")
