"""Notes in other words than their dialogue are not flagged: lay words, answers, relatives, allergies, changes."""

from __future__ import annotations

import pytest
from labelled_facts import judged_flags

from medsum_core.grounding.check import check_note
from medsum_core.grounding.findings.lexicon import load_hints, load_lexicon


@pytest.mark.parametrize(
    ("note", "lay"),
    [
        ("Reports anhedonia.", "I used to love fishing and now I can't be bothered."),
        ("Unintentional weight loss.", "My belt is on the last notch."),
        ("Has constipation.", "Those iron tablets bind me up."),
        ("Has CAD.", "They put two stents in."),
        ("Has tinnitus.", "It's like crickets in here."),
        ("Has urinary frequency.", "I'm in there every half hour."),
        ("Has epilepsy.", "He has fits."),
    ],
)
def test_a_finding_in_lay_words_is_found(note: str, lay: str) -> None:
    assert judged_flags(note, "How are you?", lay) == []
    assert judged_flags(note, "How are you?", "My shirt is blue and I drove here.") != []


def test_words_of_a_hint_must_be_near_each_other() -> None:
    near = "They cracked my chest."
    far = "I cracked two eggs, mixed them with milk and flour and sugar and baked a cake. It is in the chest."
    assert judged_flags("Has CAD.", "And?", near) == []
    assert judged_flags("Has CAD.", "And?", far) == [("CAD", "not_found")]


def test_hints_name_known_findings() -> None:
    assert set(load_hints()) <= set(load_lexicon().concepts)


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        ("Cephalexin has been tolerated.", ("And Keflex?", "Fine too.")),
        ("Peanut anaphylaxis.", ("Why the EpiPen?", "Two times, both peanuts.")),
        ("History of TIA.", ("Was it a full stroke?", "No, a mini one.")),
        ("No rash or prolonged morning stiffness.", ("Stiff in the morning?", "Yes, five minutes. No rash.")),
        ("Sister had angioedema.", ("Any swelling of the lips?", "No, that was my sister.")),
        ("Maternal aunt had ovarian cancer.", ("Cancer?", "My mother's sister had ovarian cancer.")),
        ("Mother had a psychiatric illness.", ("Family?", "My son's bipolar. My mother was odd.")),
        ("Family history of premature CAD.", ("Family?", "Dad had a stent at forty-four.")),
        ("Levothyroxine is decreased.", ("Last time I doubled your levothyroxine.", "And now?")),
        ("Levothyroxine 75 mcg.", ("Same dose for the thyroid, seventy-five.", "Good.")),
        ("Elects cholecystectomy.", ("What about surgery?", "Take it out.")),
        ("Has shoulder pain.", ("Which shoulder?", "This one, since I lifted the boat.")),
        ("Takes naloxone.", ("And?", "I take Suboxone.")),
        ("Amoxicillin one teaspoon.", ("And?", "Amoxicillin, a teaspoon.")),
        ("Metformin BID.", ("Metformin?", "One with breakfast, one with supper.")),
        ("Admitted in 1998.", ("When did they admit you to hospital?", "Ninety-eight.")),
        ("Brother had a stroke at about age 40.", ("Family?", "My brother had a stroke at forty-one.")),
        ("An 85-year-old.", ("When did she break it?", "She was eighty-one, so four years ago.")),
        ("Born at 41 weeks.", ("Born on time?", "A week late.")),
        ("Regular 28-day cycles.", ("You're every twenty-eight days?", "Like clockwork.")),
        ("Gabapentin 600 mg.", ("Gabapentin?", "Three hundreds. Two of them.")),
        ("30 pack-year smoking history.", ("Smoke?", "A pack a day since I was twenty, and I'm fifty.")),
        ("Hemoglobin 11.3.", ("The hemoglobin is eleven three.", "Good.")),
        ("The remaining right kidney is normal.", ("Kidney?", "I gave the left kidney away.")),
        ("Pressure 19 bilaterally.", ("Pressures?", "Nineteen both.")),
    ],
)
def test_what_the_dialogue_leaves_open_is_not_flagged(note: str, lines: tuple[str, ...]) -> None:
    assert judged_flags(note, *lines) == []


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        ("Takes atenolol.", ("And?", "I take metoprolol, the same dose.")),
        ("Had a hysterectomy.", ("Surgery?", "They did a tonsillectomy. Took it out.")),
        ("Father had ovarian cancer.", ("Family?", "My mother's sister had ovarian cancer. Dad is fine.")),
        ("Levothyroxine is decreased.", ("I will double your levothyroxine.", "Fine.")),
        ("No snoring.", ("Does she snore?", "Like a trucker.")),
        ("Takes etanercept.", ("And?", "I stopped the Enbrel.")),
        ("Has been taking tamsulosin.", ("And the Flomax?", "I never picked it up.")),
        ("Uses propranolol.", ("And?", "Propranolol made me slow, so that's gone.")),
        ("No hematochezia.", ("And?", "I had a red streak on the paper.")),
        ("Metformin BID.", ("Metformin?", "Once a day.")),
        ("Admitted in 1997.", ("When did they admit you to hospital?", "Ninety-eight.")),
        ("An 87-year-old.", ("When did she break it?", "She was eighty-one, so four years ago.")),
        ("40 pack-year smoking history.", ("Smoke?", "Half a pack a day for forty years.")),
        ("Penicillin allergy.", ("Penicillin?", "I'm not allergic to penicillin.")),
    ],
)
def test_what_the_dialogue_contradicts_is_flagged(note: str, lines: tuple[str, ...]) -> None:
    assert judged_flags(note, *lines) != []


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("Fluoxetine was decreased.", ("I'd take the Prozac up to sixty.", "OK."), "Fluoxetine was decreased"),
        ("Continue lisinopril.", ("And?", "I stopped the lisinopril."), "Continue lisinopril"),
        ("The father had gout.", ("Family?", "My sister has gout."), "father had gout"),
    ],
)
def test_the_flagged_span_includes_action_and_person(note: str, lines: tuple[str, ...], wanted: str) -> None:
    assert judged_flags(note, *lines) == [(wanted, "contradicted")]


def test_each_relative_has_the_finding_named_before_it() -> None:
    dialogue = "Patient: My mother had breast cancer, and my father heart disease."
    note = "Family history is significant for breast cancer in her mother and heart disease in her father."
    assert all(fact.is_supported for fact in check_note(note, dialogue))


def test_a_declined_procedure_was_not_done() -> None:
    dialogue = "Doctor: Can I interest you in an influenza vaccine?\nPatient: No, thanks. I don't want the flu one."
    assert all(fact.is_supported for fact in check_note("He declines the influenza vaccine.", dialogue))
