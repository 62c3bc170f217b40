"""Directional terms of body parts (upper or lower, medial or lateral), and values that a speaker corrects."""

from __future__ import annotations

import pytest
from labelled_facts import flagged

ELBOW = "Doctor: Where does it hurt?\nPatient: My elbow, the outside bit, on the right arm."
BELLY = "Doctor: Where is the pain?\nPatient: Down low on the right, here."


def test_the_opposite_direction_contradicts() -> None:
    assert flagged("Medial right elbow pain.", ELBOW) == ["Medial"]
    assert flagged("Lateral right elbow pain.", ELBOW) == []
    assert flagged("Pain in the right upper quadrant.", BELLY) == ["upper"]
    assert flagged("Pain in the right lower quadrant.", BELLY) == []


def test_a_direction_in_another_region_contradicts_nothing() -> None:
    assert "Medial" not in flagged("Medial right knee pain.", f"{ELBOW} And my right knee hurts.")


@pytest.mark.parametrize(
    "correction", ["No wait, the left.", "Sorry, my left.", "I mean the left.", "Scratch that, it's the left one."]
)
def test_a_corrected_side_is_not_supported(correction: str) -> None:
    dialogue = f"Doctor: Which hip?\nPatient: The right hip. {correction}"
    assert flagged("Right hip pain.", dialogue) == ["Right"]
    assert flagged("Left hip pain.", dialogue) == []


def test_the_next_speaker_corrects_a_side_without_a_question_mark() -> None:
    dialogue = "[doctor] okay so it's the left knee\n[patient] no the right\n[doctor] right . the right knee hurts"
    assert flagged("Left knee pain.", dialogue) == ["Left"]
    assert flagged("Right knee pain.", dialogue) == []


def test_a_part_of_another_limb_is_contradicted() -> None:
    dialogue = "Doctor: What did you land on?\nPatient: On my wrist. My left."
    assert flagged("Landed on the left ankle.", dialogue) == ["left ankle"]
    assert flagged("Landed on the left wrist.", dialogue) == []
