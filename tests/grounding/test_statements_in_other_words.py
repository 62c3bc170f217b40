"""Relatives, actions, reactions and denials that stand in another clause or turn than the name they belong to."""

from __future__ import annotations

import pytest
from labelled_facts import flagged

DOSE = "Doctor: Is the citalopram doing its job?\nPatient: Yes.\nDoctor: I could take you down from forty to twenty."
SWITCH = (
    "Doctor: And the enalapril?\nPatient: I cough with it.\nDoctor: Since when?\nPatient: May.\n"
    "Doctor: We'll change you to candesartan."
)
OTHERS = "Doctor: Did your father's brothers have gout?\nPatient: One of them had gallstones, that's all I know."
EVERYBODY = "Doctor: Is there gout in the family?\nPatient: Everybody has it.\nDoctor: And you?\nPatient: No."
PRESENT = "Doctor: Any epilepsy in the family?\nPatient: My wife had it.\nDaughter: That's Mum, she's in a home."
RECORD = (
    "Doctor: The notes say you're allergic to penicillin.\nPatient: The penicillin was tested and I'm not allergic."
)
OTHER_DRUG = (
    "Patient: Naproxen gave me cramps.\nDoctor: And what gave you the hives?\nPatient: Amoxicillin did that one."
)
REPEATED = "Doctor: Any sweats, any fever?\nPatient: My temperature's okay. I had sweats last night."
SORE = "Doctor: Any sores on the feet?\nPatient: There's one on my heel that won't heal."
REMAINS = "Doctor: The ramipril, that stays off."


@pytest.mark.parametrize(
    ("dialogue", "right", "wrong"),
    [
        (DOSE, "Citalopram reduced.", "Citalopram increased."),
        (SWITCH, "Enalapril stopped.", "Enalapril continued."),
        (REMAINS, "Ramipril remains stopped.", "Continue ramipril."),
        (OTHERS, "Paternal uncle had gallstones.", "Mother had gallstones."),
        (EVERYBODY, "Family history of gout.", "The patient has gout, as do her parents."),
        (PRESENT, "His wife had epilepsy.", "His sister had epilepsy."),
        (RECORD, "Not allergic to penicillin.", "Allergic to penicillin."),
        (OTHER_DRUG, "Amoxicillin caused hives.", "Naproxen caused hives."),
        (REPEATED, "Sweats last night.", "Denies sweats."),
        (SORE, "Foot ulcer.", "No foot ulcers."),
    ],
)
def test_what_is_said_elsewhere_counts(dialogue: str, right: str, wrong: str) -> None:
    assert flagged(right, dialogue) == []
    assert len(flagged(wrong, dialogue)) == 1


@pytest.mark.parametrize(
    ("dialogue", "note"),
    [
        ("Doctor: Is it sore?\nPatient: It's a red rash, and it doesn't itch.", "Non-itchy rash."),
        ("Doctor: The X-ray of your wrist is fine, it's a sprain.", "Wrist sprain."),
        (
            "Doctor: We might add ezetimibe.\nPatient: I'd rather not add anything yet.",
            "Ezetimibe to be considered later.",
        ),
        ("Doctor: Stop the steroids. Salbutamol when you need it.", "Steroids stopped today, salbutamol when needed."),
        ("Patient: Codeine makes me sick.\nDoctor: That's no allergy.", "Codeine intolerance, not a true allergy."),
    ],
)
def test_what_the_dialogue_says_in_other_words_is_supported(dialogue: str, note: str) -> None:
    assert flagged(note, dialogue) == []
