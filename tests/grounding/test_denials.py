"""Denials in general and of one thing, and what a note says of the patient that no dialogue tells: sex, marriage."""

from __future__ import annotations

import pytest
from labelled_facts import flags


@pytest.mark.parametrize(
    ("note", "lines", "fault"),
    [
        ("Uses illicit drugs.", ("Any drugs?", "No."), "illicit drugs"),
        (
            "History of alcohol use.",
            ("Okay. Do you drink alcohol or smoke?", "I do smoke but no alcohol."),
            "alcohol use",
        ),
        ("Denies vomiting.", ("Can you name an illness in your family?", "No."), "vomiting"),
        ("Denies nausea.", ("Problems with the bladder?", "No."), "nausea"),
        ("Denies diabetes.", ("Thanks for coming.", "No problem."), "diabetes"),
        ("Denies any other medical conditions.", ("What is wrong?", "My knee hurts."), "medical conditions"),
        ("There are no other associated symptoms.", ("What is wrong?", "My knee hurts."), "symptoms"),
        ("A 60-year-old male.", ("Your age?", "Sixty."), "male"),
        ("He is married.", ("Are you married?", "No, I live by myself."), "married"),
        ("His sister is healthy.", ("What is wrong?", "I have gout."), "sister"),
    ],
)
def test_what_the_dialogue_denies_or_never_mentions_is_flagged(note: str, lines: tuple[str, ...], fault: str) -> None:
    assert flags(note, *lines) == [fault]


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        ("Denies nausea.", ("Any other problems?", "No.")),
        ("Denies any other symptoms.", ("Any cough?", "No.")),
        ("Denies any other symptoms.", ("My knee hurts.", "Anything else?", "No, nothing.")),
        ("Denies any visual complaints.", ("How is the knee?", "It hurts.")),
        ("A 60-year-old male.", ("Your age?", "Sixty. My wife worries.")),
        ("He has never been married.", ("Are you married?", "No.")),
        ("Torn rotator cuff.", ("The scan shows that the rotator cuff is torn.", "Oh no, can you repair it?")),
        ("Pain since lifting a grandchild.", ("When did the pain begin?", "When I lifted my grandbaby.")),
    ],
)
def test_a_note_may_sum_up_denials_and_name_what_the_dialogue_tells(note: str, lines: tuple[str, ...]) -> None:
    assert flags(note, *lines) == []
