"""A fact is looked up with its context: the person, the side, done or only planned, tolerated or an allergy."""

from __future__ import annotations

import pytest
from labelled_facts import flags

AUNTS = ("Who had breast cancer?", "Two of my aunts. My dad's sisters.")
MIGRAINE = ("Any migraine in the family?", "My dad gets them.", "And your sisters?", "Not one.")
METHADONE = ("Is anybody at home on opioids?", "My brother. He gets methadone.", "And you?", "The Suboxone.")


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Paternal aunts had breast cancer.", AUNTS, []),
        ("Maternal aunts had breast cancer.", AUNTS, ["Maternal aunts had breast cancer"]),
        ("Father and paternal uncle with gout.", ("Gout?", "My father, and his brother too."), []),
        ("Maternal uncle with gout.", ("Gout?", "My father, and his brother too."), ["Maternal uncle with gout"]),
        ("Father with migraine.", MIGRAINE, []),
        ("Sister with migraine.", MIGRAINE, ["Sister with migraine"]),
        ("Sister with migraine.", (*MIGRAINE[:3], "She has it too."), []),
        ("Cousin with migraine.", MIGRAINE, ["Cousin with migraine"]),
        ("Takes buprenorphine.", METHADONE, []),
        ("Takes methadone and buprenorphine.", METHADONE, ["methadone"]),
        ("Mother has dementia.", ("And at home?", "My mother-in-law has dementia."), ["Mother has dementia"]),
        ("Diabetes in the sister.", ("Diabetes, anyone?", "My brother."), ["Diabetes in the sister"]),
        ("Breast cancer.", ("You had cancer, Missus Vane?", "Yes, breast cancer."), []),
    ],
)
def test_person(note: str, lines: tuple[str, ...], wanted: list[str]) -> None:
    assert flags(note, *lines) == wanted


OZEMPIC = ("I'd like to put you on Ozempic.", "I read about it. I don't want a needle.")
WARFARIN = ("The warfarin, you stopped it?", "Five days ago.", "You can go back on it tonight.", "Fine.")
MRI = ("Did you get the MRI?", "Not yet, it's on the twelfth.")


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Semaglutide declined.", OZEMPIC, []),
        ("Semaglutide was started.", OZEMPIC, ["Semaglutide was started"]),
        ("Colonoscopy ordered.", ("Would you like a colonoscopy?", "I'd rather not."), ["Colonoscopy ordered"]),
        ("Warfarin was held and will be resumed.", WARFARIN, []),
        ("MRI is scheduled.", MRI, []),
        ("MRI was completed.", MRI, ["MRI was completed"]),
        ("Losartan stopped.", ("I'd add a water pill.", "And the losartan?", "Stay on it."), ["Losartan stopped"]),
        ("Losartan continued.", ("I'd add a water pill.", "And the losartan?", "Stay on it."), []),
        ("Sertraline increased.", ("Let's come down on the Zoloft.", "Good."), ["Sertraline increased"]),
        ("Sertraline decreased.", ("Let's come down on the Zoloft.", "Good."), []),
        ("Feeding tube removed.", ("Is the feeding tube still in?", "Yes."), ["Feeding tube removed"]),
        ("Breath test negative.", ("Tested?", "The breath test, and it was positive."), ["Breath test"]),
        ("Breath test positive.", ("Tested?", "The breath test, and it was positive."), []),
        ("She takes ibuprofen as needed.", ("What else?", "Ibuprofen.", "Do you take it daily?", "No, as needed."), []),
    ],
)
def test_action(note: str, lines: tuple[str, ...], wanted: list[str]) -> None:
    assert flags(note, *lines) == wanted


LUNGS = ("I hear crackles at the left base. The right is clear.", "Is that bad?")
KNEES = ("Which knee?", "The left. The right one is fine.")


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Crackles at the left base.", LUNGS, []),
        ("Crackles at the right base.", LUNGS, ["right"]),
        ("Left knee pain.", KNEES, []),
        ("Right knee pain.", KNEES, ["Right"]),
        ("Rash of the right shin.", ("Where is the rash?", "On my right shin."), []),
        ("Rash of the right thigh.", ("Where is the rash?", "On my right shin."), ["right thigh"]),
        ("Left ear normal.", ("Which ear hurts?", "The right.", "And the other?", "Fine."), []),
    ],
)
def test_side(note: str, lines: tuple[str, ...], wanted: list[str]) -> None:
    assert flags(note, *lines) == wanted


PENICILLIN = ("Any problem with penicillin?", "My mother swells up.", "But you?", "I've had it plenty.")


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Allergic to penicillin.", PENICILLIN, ["penicillin"]),
        ("Allergic to sulfa.", ("Okay with sulfa?", "No. I blistered."), []),
        ("Allergic to latex.", ("Are you okay with latex?", "Oh yes."), ["latex"]),
        ("Triggered by cats.", ("What sets it off?", "Cats."), []),
        ("Triggered by dogs.", ("And dogs?", "We've one on the bed, she doesn't do anything."), ["dogs"]),
        ("No dysphagia.", ("Any trouble swallowing?", "Bread gets stuck."), ["dysphagia"]),
        ("Denies weight loss.", ("And no weight loss?", "I take my time."), []),
        ("Fell without loss of consciousness.", ("Did you pass out when you fell?", "No."), []),
        ("Graves' disease.", ("Is it cancer?", "No, Graves'."), []),
    ],
)
def test_answer(note: str, lines: tuple[str, ...], wanted: list[str]) -> None:
    assert flags(note, *lines) == wanted


NO_DRUGS = ("Do you use any drugs?", "No.")
MARIJUANA = ("Do you use marijuana?", "Yes, most weekends.")


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Denies illicit drug use.", NO_DRUGS, []),
        ("Denies cocaine.", NO_DRUGS, []),
        ("Recreational drug use is denied.", ("Marijuana or other drugs?", "Never."), []),
        ("Denies illicit drug use.", ("How are you?", "Fine."), ["illicit drug use"]),
        ("Denies illicit drug use.", MARIJUANA, ["illicit drug use"]),
        ("Denies IV drug use.", ("Tattoos? Needles?", "One tattoo, no needles ever."), []),
        ("Denies IV drug use.", ("Do you smoke?", "No."), ["IV drug use"]),
    ],
)
def test_drug_use_is_a_substance_of_its_own(note: str, lines: tuple[str, ...], wanted: list[str]) -> None:
    assert flags(note, *lines) == wanted


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [("Only when I walk uphill.", []), ("Also at night, yes.", ["chest pain"]), ("Even at rest.", ["chest pain"])],
)
def test_a_denial_for_times_of_rest_leaves_other_times_open(answer: str, wanted: list[str]) -> None:
    note = f"Denies chest pain at {'night' if 'night' in answer else 'rest'}."
    assert flags(note, "What brings you in?", "I get chest pain.", "When?", f"The chest pain? {answer}") == wanted
