"""Written forms: British shorthand durations, decimals of transcribers, computed weekdays, other languages."""

from __future__ import annotations

import pytest
from labelled_facts import numeric_facts

from medsum_core.grounding.check import check_note, count_checked, count_unsupported
from medsum_core.grounding.facts.language import is_english
from medsum_core.grounding.report import CheckedNote, table_lines, to_json


def verdicts(note: str, *said: str) -> list[str]:
    return [fact.verdict for fact in numeric_facts(note, "\n".join(f"Patient: {line}" for line in said))]


@pytest.mark.parametrize(
    ("note", "said", "verdict"),
    [
        ("Cough 3/7.", "I have had the cough for three days.", "supported"),
        ("Rash 2/52.", "It came two weeks ago.", "supported"),
        ("Pain 6/12.", "Six months now.", "supported"),
        ("Cough 3/7.", "I have had the cough for three weeks.", "contradicted"),
        ("Rash 2/52.", "It came five weeks ago.", "not_found"),
        ("Strength 3/7.", "They called it three out of seven.", "supported"),
        ("Seen in 6/12.", "That was in June of twenty twelve.", "supported"),
    ],
)
def test_days_weeks_and_months_in_british_shorthand(note: str, said: str, verdict: str) -> None:
    assert verdicts(note, said) == [verdict]


@pytest.mark.parametrize(
    ("note", "said", "verdict"),
    [
        ("Zentol 2.5 mg.", "i take two . five milligrams of zentol", "supported"),
        ("Zentol 2.5 mg.", "i take two point five milligrams of zentol", "supported"),
        ("Zentol 12.5 mg.", "we add zentol twelve . five milligrams", "supported"),
        ("Zentol 3.5 mg.", "i take two . five milligrams of zentol", "contradicted"),
        ("Temperature 98.6.", "it was ninety eight . six", "supported"),
        ("Five children.", "there were two . five children stayed", "supported"),
    ],
)
def test_a_detached_point_may_be_a_decimal_point(note: str, said: str, verdict: str) -> None:
    assert verdicts(note, said) == [verdict]


@pytest.mark.parametrize(
    ("note", "verdict"),
    [("Seen on Wednesday.", "supported"), ("Seen on Friday.", "not_found"), ("Fell Monday.", "supported")],
)
def test_weekdays_are_computed_from_a_named_day(note: str, verdict: str) -> None:
    assert (
        verdicts(note, "I fell on Monday.", "Two days later I saw you.")[0].replace("contradicted", "not_found")
        == verdict
    )


def test_the_day_before_a_date() -> None:
    assert verdicts("Surgery on June 4th.", "It was on June fifth.", "No, a day before, in fact.") == ["supported"]
    assert verdicts("Surgery on June 9th.", "It was on June fifth.", "No, a day before, in fact.") != ["supported"]


FOREIGN = {
    "German": (
        "Husten seit 3 Wochen.",
        "Arzt: Wie lange haben Sie das?\nPatient: Seit drei Wochen, und nicht mit Fieber.",
    ),
    "Spanish": ("Tos desde hace 3 semanas.", "Doctor: ¿Desde cuándo tiene la tos?\nPaciente: Desde hace tres semanas."),
    "French": (
        "Toux depuis 3 semaines.",
        "Médecin: Depuis quand avez-vous la toux?\nPatient: Depuis trois semaines, oui.",
    ),
    "Chinese": ("咳嗽 3 周。", "Doctor: 多久了?\nPatient: 三周。"),
    "Russian": ("Кашель 3 недели.", "Doctor: Как долго?\nPatient: Три недели."),
}


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_reported_as_not_checked(language: str) -> None:
    facts = check_note(*FOREIGN[language])
    assert [fact.verdict for fact in facts] == ["not_checked"]
    assert count_unsupported(facts) == count_checked(facts) == 0
    notes = [CheckedNote(id="1", facts=tuple(facts))]
    result = to_json(notes)
    assert (result["facts"], result["not_checked"], result["unsupported"]) == (0, 1, 0)
    assert "1 facts are not checked" in "\n".join(table_lines(notes, result))


@pytest.mark.parametrize(
    "text",
    [
        "Lisinopril 10 mg p.o. q.d., Tylenol p.r.n., no NKDA.",
        "Mr. van der Berg was seen by Dr. de la Cruz for pain.",
        "",
        "Alcohol: none. Tobacco: none.",
        "Doctor: Como estas? I learned that from a patient.\nPatient: Ha, muy bien, doctor. My knee is still sore.",
    ],
)
def test_english_with_foreign_names_and_abbreviations_is_english(text: str) -> None:
    assert is_english(text)
