"""Subjects of values: the dose of another drug, the age of another relative or the other knee support nothing.

`roles.jsonl` holds five sets of fictional facts, each labelled before the checker saw it. First scores (precision,
recall of unsupported), before anything was changed for the set: 1000 even 0.94, 0.79; 1000 odd 0.96, 0.84; 2000 0.96,
0.91; 3000 0.94, 0.93; 4000 1.00, 0.96. All but 4000 were then used to improve the rules.
"""

from __future__ import annotations

import pytest
from labelled_facts import dialogue_of, numeric_facts, outcomes, read_cases

SETS = {
    "1000 even": lambda number: number < 2000 and number % 2 == 0,
    "1000 odd": lambda number: number < 2000 and number % 2 == 1,
    "2000": lambda number: 2000 <= number < 3000,
    "3000": lambda number: 3000 <= number < 4000,
    "4000": lambda number: number >= 4000,
}


@pytest.mark.parametrize("name", SETS)
def test_labelled_subjects_precision_and_recall_of_unsupported(name: str) -> None:
    found = [
        outcome for case in read_cases("roles.jsonl") if SETS[name](case.number) for _, outcome, _, _ in outcomes(case)
    ]
    hits, false, missed = (found.count(outcome) for outcome in ("hit", "false", "missed"))
    assert len(found) >= 60
    assert hits / (hits + false) >= 0.95
    assert hits / (hits + missed) >= 0.95


def flagged(note: str, *turns: str) -> list[str]:
    """The unsupported facts of `note`; turns alternate, the doctor begins."""
    dialogue = dialogue_of(*turns)
    return [note[fact.start : fact.end] for fact in numeric_facts(note, dialogue) if fact.verdict != "supported"]


def test_a_bare_answer_counts_what_the_question_asks_for() -> None:
    cigarettes = ("How many cigarettes a day?", "Five.", "And for the pain?", "Oxycodone at night.")
    assert flagged("Oxycodone 5 mg at night.", *cigarettes) == ["5 mg"]
    assert flagged("Smokes 5 cigarettes.", *cigarettes) == []
    assert flagged("Oxycodone 5 mg at night.", "How many milligrams of oxycodone?", "Five.") == []
    assert flagged("Two-pillow orthopnea.", "How far can you walk?", "Two blocks.", "How many pillows?", "Three.") == [
        "Two"
    ]
    assert flagged("Sleeps 5 to 6 hours.", "How many hours do you sleep?", "Five or six.") == []
    assert flagged("Three children, ages 12 and 9.", "How many kids?", "Three: twelve and nine.") == []


def test_how_a_drug_is_given_is_not_the_drug() -> None:
    lisinopril = ("Your pills?", "Lisinopril, twenty milligrams.", "Just once a day by mouth?", "Yes, once daily.")
    metformin = (
        "Anything else?",
        "Metformin, five hundred.",
        "How often is the metformin?",
        "Twice a day, with meals.",
    )
    note = "Lisinopril 20 mg by mouth once daily and metformin 500 mg by mouth twice daily."
    assert flagged(note, *lisinopril, *metformin) == []


def test_a_time_of_day_an_age_and_an_ordinal_are_no_doses_or_durations() -> None:
    assert flagged("Pain for 4 hours.", "When?", "It woke me up at four.") == ["4 hours"]
    assert flagged("Pain for 2 hours.", "When?", "Around two in the morning.") == ["2 hours"]
    assert flagged("For 9 days.", "Children?", "My son is nine.") == ["9 days"]
    assert flagged("Versed 2 mg.", "What was done?", "A two level fusion.") == ["2 mg"]
    assert flagged("For 4 days.", "Where?", "In my fourth finger.") == ["4 days"]


def test_the_dose_of_another_drug() -> None:
    talk = ("What do you take?", "Lisinopril. Twenty milligrams. And metoprolol, fifty milligrams.")
    assert flagged("Lisinopril 50 mg, metoprolol 50 mg.", *talk) == ["50 mg"]
    assert flagged("Lisinopril 20 mg, metoprolol 50 mg.", *talk) == []
    assert flagged("Omeprazole 40 mg, potassium 20 mEq.", "The twenty or the forty of omeprazole?", "Forty.") == [
        "20 mEq"
    ]
    assert flagged("B12 1000 mcg, folic acid 1 mg.", "The B twelve, a thousand micrograms?", "Yes.") == ["1 mg"]
    twice = ("How often the antibiotic?", "Every six hours.", "And the ibuprofen?", "Every eight hours.")
    assert flagged("Antibiotic q6h, ibuprofen q6h.", *twice) == ["q6h"]


def test_the_age_of_another_relative() -> None:
    talk = ("Is your mom alive?", "She passed at eighty four. Dad is ninety.", "And you?", "I'm fifty.")
    assert flagged("50-year-old. Mother died at 84. Father is 90.", *talk) == []
    assert flagged("Mother died at 90. Father is 90.", *talk) == ["90"]
    assert flagged(
        "A 2-year-old boy with a 2-year-old sister.",
        "How old is your son?",
        "Five.",
        "Siblings?",
        "A sister who is two.",
    ) == ["2-year-old"]
    assert flagged("85-year-old woman.", "What brings you in?", "My mother is eighty five and I'm sixty.") != []


def test_a_corrected_value_is_not_supported() -> None:
    assert flagged("In 1988.", "Was the surgery in eighty eight?", "Eighty nine.") == ["1988"]
    assert flagged("In 2005.", "When?", "Two thousand five, I mean two thousand six.") == ["2005"]
    assert flagged("In 2006.", "When?", "Two thousand five, I mean two thousand six.") == []
    assert flagged("Took 2 of 20 pills.", "How many of the twenty pills did you take?", "Two.") == []
    assert flagged("Bilateral ear pain.", "Both ears?", "No, just the right one.") == ["Bilateral"]


def test_sides_that_are_denied_or_belong_to_another_part() -> None:
    knees = ("Which knee hurts?", "The left one. The right is fine.")
    assert flagged("Right knee pain.", *knees) == ["Right"]
    assert flagged("Left knee pain. The right knee is normal.", *knees) == []
    assert flagged("Right leg numbness.", "Any on the right leg?", "No. Only the left leg is numb.") == ["Right"]
    assert flagged("Right-handed.", "Which side was the stroke?", "My right side. I'm left handed.") == ["Right"]
    assert flagged("Right-handed.", "What happened?", "I cut my right hand.") == ["Right"]
    assert (
        flagged("Right-handed.", "What happened?", "I cut my right hand.", "Is that your dominant hand?", "Yes.") == []
    )
    assert flagged("Pain in both eyes.", "Where?", "Both ears.") == ["both"]


def test_the_other_one_and_each_one() -> None:
    assert flagged("Left shoulder is fine.", "Which shoulder hurts?", "My right shoulder. The other one is good.") == []
    assert flagged("Left calf is swollen.", "And?", "My calf is bigger than the right one.") == []
    assert flagged("A drop in both eyes.", "How?", "A drop in each eye.") == []
    assert flagged("Left nodule.", "What was it?", "A nodule on the right.") == ["Left"]


def test_scales_pressures_and_scores_support_no_other_number() -> None:
    assert flagged("Pain is 10/10.", "Rate it, zero to ten.", "A nine.") == ["10/10"]
    assert flagged("Pain is 10/10.", "Rate it, zero to ten.", "Ten.") == []
    assert flagged("Pulse 76.", "Vitals?", "One thirty over seventy six.") == ["76"]
    assert flagged("Sats 97%.", "Vitals?", "Temp is ninety seven nine.") == ["97%"]
    assert flagged("20/40 and 20/200.", "Eyes?", "Twenty forty and twenty twenty.") == ["20/200"]
    assert flagged("Percocet 5/325, Vicodin 5/500.", "And?", "Five three twenty five, five five hundred.") == []


def test_spoken_forms() -> None:
    assert flagged("On 03/05/2012.", "When?", "Oh three, oh five, two thousand twelve.") == []
    assert flagged("On 03/06/2012.", "When?", "Oh three, oh five, two thousand twelve.") == ["03/06/2012"]
    assert flagged("28 weeks pregnant.", "How many weeks?", "Twenty eight and three days.") == []
    assert flagged("Exercises 5 days a week.", "And?", "Five days outta the week.") == []
    assert flagged("Two years ago.", "And?", "The last one two years back.") == []
    assert flagged("Second trimester.", "Pregnant?", "For the third time, in the first trimester.") == ["Second"]
    assert flagged("On the 14th.", "When?", "On the twenty fourth.") == ["14th"]
    assert flagged("One brother.", "Siblings?", "Two brothers.") == ["One"]
    assert flagged("Comes in for two different things.", "Well?", "My toe, and I cough.") == []
    assert flagged("Moves all four extremities.", "Can you move?", "Both arms and both legs.") == []
