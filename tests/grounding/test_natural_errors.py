"""Errors and correct notes as systems write them: places of care, scope of negation, generic reaction words, answers."""

from __future__ import annotations

import pytest
from labelled_facts import flagged


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
            "Doctor: Did the pills make any difference to the burning in your feet?\nPatient: The gabapentin? A bit.",
        ),
        ("The only side effect is dry mouth.", "Doctor: How are the pills?\nPatient: Dry mouth, that's all."),
        ("Shoulder pain is better.", "Doctor: And the shoulder we injected, how is that?\nPatient: Much better."),
        ("Fine after the vaccine.", "[doctor] so no reaction to the vaccine\n[patient] my arm was sore for a day"),
        ("Prednisone causes increased appetite.", "Doctor: The prednisone?\nPatient: I'm hungry all the time."),
        (
            "Asthma is controlled with no rescue inhaler use since October.",
            "Patient: He hasn't needed his puffer since October.\nDoctor: Cough?\nPatient: No, he sleeps right through.",
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
def test_correct_notes_are_not_flagged(note: str, dialogue: str) -> None:
    assert flagged(note, dialogue) == []


@pytest.mark.parametrize(
    ("note", "dialogue", "fault"),
    [
        ("Denies tobacco use.", "Doctor: Do you smoke?\nPatient: A pack a day.", "tobacco use"),
        ("Has vomiting.", "Doctor: Throwing up?\nPatient: No, I can keep food down.", "vomiting"),
    ],
)
def test_invented_findings_are_flagged(note: str, dialogue: str, fault: str) -> None:
    assert flagged(note, dialogue) == [fault]


NEVER = "Patient: They gave me a prescription for oxycodone and I never even filled it."
UNDO = "[doctor] so the aches started after the simvastatin\n[patient] yes\n[doctor] i want you to stop it completely"
KEPT = "[doctor] i don't want to take you off the water pill because it's working"
WISH = "Patient: I've had thoughts of not wanting to be alive.\nDoctor: Are you suicidal right now?\nPatient: No."
BACK = (
    "Doctor: What about anaphylaxis?\nPatient: What is that?\nDoctor: It is a shock of the whole body.\n"
    "Patient: No, I've never experienced that before."
)
STILL = "[doctor] no morning headaches\n[patient] well yeah i still get those"
PLUGGED = "Doctor: Is anything coming out of the ear?\nPatient: No, it's just plugged up."


@pytest.mark.parametrize(
    ("dialogue", "right", "wrong", "fault"),
    [
        (NEVER, "Oxycodone was never filled.", "Controlled with oxycodone.", "oxycodone"),
        (UNDO, "Simvastatin will be stopped.", "Simvastatin will be continued.", "Simvastatin will be continued"),
        (KEPT, "The diuretic was continued.", "The diuretic was discontinued.", "diuretic was discontinued"),
        (WISH, "Denies suicidal ideation now.", "No history of suicidal ideation.", "suicidal ideation"),
        (BACK, "No anaphylaxis.", "He had anaphylaxis.", "anaphylaxis"),
        (STILL, "Reports morning headaches.", "Denies morning headaches.", "headaches"),
        (PLUGGED, "No purulent discharge.", "Has purulent discharge.", "purulent discharge"),
    ],
)
def test_the_last_statement_counts(dialogue: str, right: str, wrong: str, fault: str) -> None:
    assert flagged(right, dialogue) == []
    assert flagged(wrong, dialogue) == [fault]


@pytest.mark.parametrize(
    ("note", "lay"),
    [
        ("Has cerebrovascular disease.", "I had a mini stroke."),
        ("Reached menarche at age 12.", "I got my first period when I was twelve."),
        ("Has strabismus.", "My eyes have been crossed since birth."),
        ("Has hypocalcemia.", "They said my calcium is low."),
        ("Has rickets.", "They told me it was rickets."),
        ("Has psychotic disorder.", "I hear voices, and see things."),
    ],
)
def test_common_conditions_are_known(note: str, lay: str) -> None:
    assert flagged(note, f"Doctor: And?\nPatient: {lay}") == []
    assert flagged(note, "Doctor: And?\nPatient: I was twelve. My knee hurts since I drove here.") != []


def test_counted_relatives_share_a_finding() -> None:
    dialogue = "Patient: My grandmother and two of my aunts also died of diabetes."
    dialogue = f"Patient: My mother had diabetes.\n{dialogue}"
    assert flagged("Grandmother had diabetes.", dialogue) == []
    assert flagged("Father had diabetes.", dialogue) == ["Father had diabetes"]


def test_ups_and_downs_are_no_bipolar_disorder() -> None:
    dialogue = "Doctor: How've your moods been?\nPatient: Up and down.\nDoctor: It sounds like anxiety."
    assert flagged("Consistent with anxiety and bipolar disorder.", dialogue) == ["bipolar disorder"]
