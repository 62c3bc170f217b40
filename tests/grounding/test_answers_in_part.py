"""Partial answers, relatives who only help, the scope of "no" and "baby", names that are similar or have a number."""

from __future__ import annotations

import pytest
from labelled_facts import flags


def test_a_relative_who_only_helps_must_be_in_the_dialogue() -> None:
    lines = ("Who fills your pill box?", "My daughter does.")
    assert flags("Her pill box is filled by her daughter.", *lines) == []
    assert flags("Her pill box is filled by her son.", *lines) == ["son"]
    assert flags("Accompanied by her son.", *lines) == []


def test_the_answer_decides_maternal_or_paternal() -> None:
    lines = ("Any strokes?", "My granddad had one.", "Which side?", "Mom's dad.")
    assert flags("Maternal grandfather had a stroke.", *lines) == []
    assert flags("Paternal grandfather had a stroke.", *lines) == ["Paternal grandfather"]


def test_a_child_of_the_patient_is_a_relative() -> None:
    lines = ("Any diabetes in the family?", "My sister has it.")
    assert flags("The patient's sister has diabetes.", *lines) == []
    assert flags("The patient's daughter has diabetes.", *lines) != []


ALLERGY = "The patient is allergic to {}."


@pytest.mark.parametrize(
    ("substance", "lines", "is_wrong"),
    [
        ("contrast", ("Ever had a reaction to the dye?", "No, I had one and it was fine."), True),
        ("contrast", ("Ever had a reaction to the dye?", "Yes, I broke out."), False),
        ("local anesthetics", ("Any trouble with the anesthesia?", "No, I slept."), True),
        ("amoxicillin", ("Only Cipro?", "Just that. I've had amoxicillin a bunch of times."), True),
        ("penicillin", ("Any trouble with penicillin?", "It gave me hives."), False),
    ],
)
def test_no_to_a_question_about_problems_means_tolerated(
    substance: str, lines: tuple[str, ...], is_wrong: bool
) -> None:
    assert flags(ALLERGY.format(substance), *lines) == ([substance] if is_wrong else [])


def test_no_reaction_is_no_allergy() -> None:
    assert flags("No reaction to local anesthetics.", "Any reactions to local anesthetic?", "No, never.") == []


@pytest.mark.parametrize(
    ("note", "lines", "wrong"),
    [
        ("Reports floaters.", ("Any floaters or flashes?", "Some floaters, yes. No flashes."), []),
        (
            "Has flashes of light.",
            ("Any floaters or flashes?", "Some floaters, yes. No flashes."),
            ["flashes of light"],
        ),
        ("Has wrist pain.", ("Is there wrist pain when you bend it?", "Not when I bend it, if I lean on it."), []),
        ("He had chest pain, but did not rest.", ("Any chest pain?", "No, never."), ["chest pain"]),
    ],
)
def test_a_finding_that_the_answer_names_and_denies_is_denied(
    note: str, lines: tuple[str, ...], wrong: list[str]
) -> None:
    assert flags(note, *lines) == wrong


def test_the_explanation_of_a_question_affirms_nothing() -> None:
    lines = ("Any anaphylaxis?", "What is that?", "It's a reaction of the whole body.", "No, never had that.")
    assert flags("Had anaphylaxis.", *lines) == ["anaphylaxis"]


@pytest.mark.parametrize(
    ("note", "lines", "wrong"),
    [
        ("Told to discontinue aspirin.", ("I'm gonna start you on a baby aspirin.", "Okay."), ["discontinue aspirin"]),
        ("Asthma in childhood.", ("Any asthma?", "I had it as a young child."), []),
        ("The cuff broke.", ("Are you checking it?", "I haven't no the cuff broke."), []),
        ("Continues to drink alcohol.", ("Are you still drinking?", "Not in six weeks."), ["drink alcohol"]),
        ("Continues to drink alcohol.", ("Are you still drinking?", "Yes."), []),
    ],
)
def test_expressions_of_the_past(note: str, lines: tuple[str, ...], wrong: list[str]) -> None:
    assert flags(note, *lines) == wrong


@pytest.mark.parametrize(
    ("note", "lines", "wrong"),
    [
        ("Has osteoarthritis and osteoporosis.", ("It's osteoarthritis.", "Okay."), ["osteoporosis"]),
        ("Received the COVID-19 vaccine.", ("And the covid shot?", "Yes."), []),
        ("Eye surgery in May.", ("which eye had the surgery", "the right eye in may"), []),
        ("Has presyncope.", ("Tell me.", "I stand up and everything goes gray."), []),
        ("Reports loose stools.", ("Bowel movements changed?", "Looser, since Monday."), []),
        ("Has sick contacts.", ("It's strep.", "My kids had it."), []),
        ("Has sick contacts.", ("It's strep.", "My kids are fine."), ["sick contacts"]),
    ],
)
def test_similar_words_and_lay_words(note: str, lines: tuple[str, ...], wrong: list[str]) -> None:
    assert flags(note, *lines) == wrong
