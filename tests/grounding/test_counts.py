"""Counts, past and present ages, adjacent spoken numbers: which counts a note may compute, and which it may not."""

from __future__ import annotations

import pytest
from labelled_facts import flagged

SINCE_TEN = "Doctor: You smoke?\nPatient: Two to three packs. I have smoked since I was ten years old."
PAIN = "Doctor: How many Vicodin?\nPatient: Two a day.\nDoctor: And on a scale of ten?\nPatient: It gets me to a four."


@pytest.mark.parametrize(
    ("dialogue", "right", "wrong", "fault"),
    [
        (SINCE_TEN, "Has smoked since he was 10 years old.", "The patient is a 10-year-old smoker.", "10-year-old"),
        (PAIN, "Pain is down to 4/10.", "Pain is down to 2/10.", "2/10"),
        ("Patient: My sugars are one thirty one forty.", "Glucose is 130 to 140.", "Glucose is 130 to 150.", "150"),
        ("Patient: Tylenol at eight and again at one.", "Two doses of Tylenol.", "Tylenol 20 mg.", "20 mg"),
    ],
)
def test_numbers_support_only_what_they_count(dialogue: str, right: str, wrong: str, fault: str) -> None:
    assert flagged(right, dialogue) == []
    assert flagged(wrong, dialogue) == [fault]
