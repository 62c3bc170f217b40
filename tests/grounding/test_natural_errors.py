"""Errors and right words as systems write them: places of care, objects of a denial, generic words of harm, answers."""

from __future__ import annotations

import pytest

from medsum_core.grounding.check import check_note


def flagged(note: str, dialogue: str) -> list[str]:
    return [note[fact.start : fact.end] for fact in check_note(note, dialogue) if fact.is_unsupported]


@pytest.mark.parametrize(
    ("note", "dialogue"),
    [
        ("Reacts to latex.", "Doctor: Allergies?\nPatient: Latex.\nDoctor: We have others.\nPatient: Others are fine."),
        ("He was treated in the emergency department.", "Patient: My friend drove me to the ER."),
        ("She has not put anything on the rash.", "Doctor: Anything on the rash?\nPatient: It's a rash. No, nothing."),
        (
            "He has not had any other urinary symptoms.",
            "Patient: I pee a lot.\nDoctor: Other urinary symptoms?\nPatient: No.",
        ),
        (
            "Burning foot pain has improved.",
            "Doctor: Did the pills make any difference to the burning in your feet?\nPatient: A bit.",
        ),
        ("The only side effect is dry mouth.", "Doctor: How are the pills?\nPatient: Dry mouth, that's all."),
        ("Shoulder pain is better.", "Doctor: And the shoulder we injected, how is that?\nPatient: Much better."),
        ("Fine after the vaccine.", "[doctor] so no reaction to the vaccine\n[patient] my arm was sore for a day"),
        ("Prednisone causes increased appetite.", "Doctor: The prednisone?\nPatient: I'm hungry all the time."),
        (
            "Doing well with no rescue inhaler use.",
            "Doctor: His asthma?\nPatient: Good. He hasn't needed his puffer since May.",
        ),
        (
            "Mother has hyperlipidemia.",
            "Doctor: Do your parents have high cholesterol?\nPatient: Mom does.\nDoctor: And siblings?\nPatient: A brother.",
        ),
        (
            "Genetic testing is planned.",
            "Doctor: Did anyone do genetic testing?\nPatient: No.\nDoctor: I'd like to refer you for that.",
        ),
    ],
)
def test_right_words_are_left_alone(note: str, dialogue: str) -> None:
    assert flagged(note, dialogue) == []


@pytest.mark.parametrize(
    ("note", "dialogue", "fault"),
    [
        ("Denies tobacco use.", "Doctor: Do you smoke?\nPatient: A pack a day.", "tobacco use"),
        ("Reports weight loss.", "Doctor: Your appetite?\nPatient: The same. My weight hasn't budged.", "weight loss"),
        ("Has vomiting.", "Doctor: Throwing up?\nPatient: No, I can keep food down.", "vomiting"),
    ],
)
def test_invented_words_are_found(note: str, dialogue: str, fault: str) -> None:
    assert flagged(note, dialogue) == [fault]
