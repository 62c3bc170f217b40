"""Actions on drugs and operations, clause by clause; allergies by the words for a reaction; corrected drugs."""

from __future__ import annotations

import pytest
from labelled_facts import flagged

HALF = "Doctor: Let's cut the amlodipine in half and come off the hydrochlorothiazide altogether."
SWITCHED = "Doctor: The Cipro isn't working, so I'm changing you to Macrobid."
TAPERED = "Doctor: We'll get you off the prednisone slowly.\nPatient: Got it."
LEFT = "Doctor: Let's leave the Lipitor alone and add Zetia, ten."
OFF = "Doctor: What drops?\nPatient: Xalatan at night. Not the Alphagan anymore, it stung."
TOOK_OUT = "Doctor: And your gallbladder?\nPatient: It came out on the twenty-second."


@pytest.mark.parametrize(
    ("dialogue", "right", "wrong"),
    [
        (HALF, "Decrease amlodipine. Stop hydrochlorothiazide.", "Decrease amlodipine. Continue hydrochlorothiazide."),
        (SWITCHED, "Stop ciprofloxacin; start nitrofurantoin.", "Continue ciprofloxacin; start nitrofurantoin."),
        (TAPERED, "Taper prednisone.", "Increase prednisone."),
        (LEFT, "Continue atorvastatin. Start ezetimibe.", "Increase atorvastatin. Start ezetimibe."),
        (OFF, "Stop brimonidine.", "Continue brimonidine."),
        (TOOK_OUT, "Status post cholecystectomy.", "Cholecystectomy is scheduled."),
    ],
)
def test_each_clause_has_its_own_action(dialogue: str, right: str, wrong: str) -> None:
    assert flagged(right, dialogue) == []
    assert len(flagged(wrong, dialogue)) == 1


def test_a_corrected_drug_is_not_supported() -> None:
    dialogue = "Doctor: Which statin?\nPatient: Crestor. No, sorry, Lipitor."
    assert flagged("Takes rosuvastatin.", dialogue) == ["rosuvastatin"]
    assert flagged("Takes atorvastatin.", dialogue) == []


def test_extended_release_is_no_emergency_room() -> None:
    assert flagged("Takes metformin ER.", "Doctor: What do you take?\nPatient: Metformin, the long-acting.") == []


WASP = (
    "Doctor: Ever had trouble with bee stings?\nPatient: A wasp got me, I came out in hives. I carry an EpiPen.\n"
    "Doctor: And medicines?\nPatient: None that I know of."
)


def test_the_treatment_of_a_reaction_is_not_its_cause() -> None:
    assert flagged("No known drug allergies.", WASP) == []


def test_reaction_words_name_an_allergen() -> None:
    dialogue = "Doctor: Foods?\nPatient: Apples make my mouth itch."
    assert flagged("Oral itching from carrots.", dialogue) == ["carrots"]
    assert flagged("Oral itching from apples.", dialogue) == []


def test_one_ointment_is_not_another() -> None:
    dialogue = "Doctor: An antibiotic ointment?\nPatient: Neosporin makes me blister."
    assert flagged("Allergy to chlorhexidine.", dialogue) == ["chlorhexidine"]
    assert flagged("Allergy to Neosporin.", dialogue) == []


def test_a_denied_allergy_is_only_of_the_named_substance() -> None:
    dialogue = "Doctor: Penicillin?\nPatient: Penicillin gave me hives.\nDoctor: And latex?\nPatient: Gloves are fine."
    assert flagged("Allergic to penicillin. No latex allergy.", dialogue) == []
