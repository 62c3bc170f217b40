"""The patient, body parts, certainty and course of a finding, and answers that need more than "no"."""

from __future__ import annotations

import pytest
from labelled_facts import flags

WEIGHED = ("It could be lupus.", "I see.")
SURE = ("The biopsy is back, and it is lupus.", "I see.")
RADIATES = ("Tell me.", "The chest pain goes into my jaw.", "The arm?", "No.")
FINGER = ("Which finger is numb?", "My thumb.")


@pytest.mark.parametrize(
    ("note", "lines", "wrong"),
    [
        # the patient
        ("She has a cough.", ("Good morning, sir.", "I've got a cough."), ["She"]),
        ("He has a cough.", ("Good morning, sir.", "I've got a cough."), []),
        ("She has a cough.", ("Good morning.", "I've got a cough."), []),
        ("Retired nurse.", ("What did you do?", "I taught third grade."), ["nurse"]),
        ("Retired teacher.", ("What did you do?", "I taught third grade."), []),
        ("Divorced.", ("Who's at home?", "My wife."), ["Divorced"]),
        ("Lives alone.", ("Who's at home?", "My wife."), ["alone"]),
        ("Lives alone.", ("Who's at home?", "Just me."), []),
        # body part
        ("Chest pain radiating to the neck.", RADIATES, ["neck"]),
        ("Chest pain radiating to the arm.", RADIATES, ["arm"]),
        ("Chest pain radiating to the jaw.", RADIATES, []),
        ("Chest pain radiating to the jaw, not the arm.", RADIATES, []),
        ("Numbness of the index finger.", FINGER, ["index finger"]),
        ("Numbness of the thumb.", FINGER, []),
        # certainty
        ("Diagnosed with lupus.", WEIGHED, ["lupus"]),
        ("Possible lupus.", WEIGHED, []),
        ("Lupus is confirmed.", WEIGHED, ["Lupus"]),
        ("Possible lupus.", SURE, ["lupus"]),
        ("Diagnosed with lupus.", SURE, []),
        ("Possible DVT.", ("We've ruled out a clot.", "Good."), ["DVT"]),
        # course
        ("Numbness has resolved.", ("Has the numbness gone?", "If anything it's spread."), ["Numbness"]),
        ("Numbness has resolved.", ("Has the numbness gone?", "Completely."), []),
        ("Numbness is ongoing.", ("Has the numbness gone?", "Yes."), ["Numbness"]),
    ],
)  # fmt: skip
def test_person_place_certainty_and_course(note: str, lines: tuple[str, ...], wrong: list[str]) -> None:
    assert flags(note, *lines) == wrong


@pytest.mark.parametrize(
    ("note", "lines", "wrong"),
    [
        ("Denies nausea.", ("Any nausea?", "Mm-mm."), []),
        ("Denies nausea.", ("Any nausea?", "Uh-huh."), ["nausea"]),
        ("Reports nausea.", ("Any nausea?", "Not that I know."), ["nausea"]),
        ("No wheezing.", ("Cough? Wheezing?", "No. Yes, some."), ["wheezing"]),
        ("No cough. Wheezing.", ("Cough? Wheezing?", "No. Yes, some."), []),
        ("Insomnia.", ("Sleeping?", "Like a baby."), ["Insomnia"]),
        ("Hypertension.", ("Blood pressure okay?", "Always perfect."), ["Hypertension"]),
        ("Hypertension.", ("Blood pressure okay?", "Yes."), ["Hypertension"]),
        ("No nausea.", ("nausea", "yeah"), ["nausea"]),
        ("Rheumatoid arthritis.", ("Is it wear and tear or rheumatoid arthritis?", "Wear and tear."),
         ["Rheumatoid arthritis"]),
        ("Smoker.", ("Have you ever smoked?", "Twenty years of it."), []),
        ("Never smoked.", ("Have you ever smoked?", "Twenty years of it."), ["Never smoked"]),
        ("Photophobia.", ("does light bother you", "nope"), ["Photophobia"]),
        ("Suicidal ideation.", ("Thoughts of ending it?", "God, no."), ["Suicidal ideation"]),
        ("No hematuria.", ("Any blood?", "No."), []),
        ("Hyperthyroidism.", ("Anything else?", "My thyroid is slow."), ["Hyperthyroidism"]),
        ("Hypothyroidism.", ("Anything else?", "My thyroid is slow."), []),
    ],
)  # fmt: skip
def test_answers_that_need_more_than_no(note: str, lines: tuple[str, ...], wrong: list[str]) -> None:
    assert flags(note, *lines) == wrong


@pytest.mark.parametrize(
    ("note", "lines", "is_wrong"),
    [
        ("Paternal aunt with stroke.", ("Family?", "My dad's mother had lupus and his sister had a stroke."), False),
        ("Maternal aunt with stroke.", ("Family?", "My dad's mother had lupus and his sister had a stroke."), True),
        ("Diabetes in his brother.", ("Diabetes in the family?", "No.", "Sure?", "Ah, my brother has it."), False),
        ("Asthma in his brother.", ("Asthma in the family?", "Me.", "Only you?", "My sister has it."), True),
        ("Asthma in his sister.", ("Asthma in the family?", "My brother.", "Only?", "My sister has it."), False),
        ("Mother with liver disease.", ("Your parents?", "Dad died of his liver. Mom's fine."), True),
        ("Father with liver disease.", ("Your parents?", "Dad died of his liver. Mom's fine."), False),
        ("Glaucoma in father.", ("Glaucoma in the family?", "My stepdad. My father's eyes are fine."), True),
        ("Twin brother with gout.", ("Gout in the family?", "My twin sister."), True),
    ],
)  # fmt: skip
def test_relatives(note: str, lines: tuple[str, ...], is_wrong: bool) -> None:
    assert bool(flags(note, *lines)) == is_wrong
