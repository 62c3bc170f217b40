"""Findings of notes and dialogues: names, assertion, subject, and the verdict on a note's finding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_facts import dialogue_of, judged_flags

from medsum_core.data.turns import read_turns
from medsum_core.errors import InputError
from medsum_core.grounding.check import FINDING_KINDS, Fact, check_note
from medsum_core.grounding.findings.finding import Finding
from medsum_core.grounding.findings.reading import read_findings


def dialogue_assertions(*lines: str) -> dict[str, str]:
    """The assertion of each finding of a dialogue."""
    text = dialogue_of(*lines)
    return {finding.names[0]: finding.assertion for finding in read_findings(text, read_turns(text))}


def note_assertions(note: str) -> dict[str, str]:
    return {finding.names[0]: finding.assertion for finding in read_findings(note)}


def facts_of(note: str, *lines: str) -> list[Fact]:
    return [fact for fact in check_note(note, dialogue_of(*lines)) if fact.kind in FINDING_KINDS]


@pytest.mark.parametrize(
    ("note", "lay"),
    [
        ("Reports dyspnea.", "I get short of breath."),
        ("Reports SOB.", "I'm out of breath on the stairs."),
        ("Diarrhoea and emesis.", "I've had the runs and I threw up."),
        ("Takes acetaminophen.", "I take Tylenol."),
        ("On an antihypertensive.", "I take lisinopril."),
        ("Ankle edema.", "My ankles are swollen."),
        ("Knee pain.", "My knee really hurts."),
        ("History of myocardial infarction.", "I had a heart attack."),
        ("EKG was done.", "They did an E K G."),
        ("Has HTN.", "I have high blood pressure."),
        ("Status post cholecystectomy.", "They took my gallbladder out."),
        ("Takes levothyroxin.", "I take levothyroxine."),
    ],
)
def test_lay_and_clinical_names_brands_classes_and_spellings_are_one(note: str, lay: str) -> None:
    assert judged_flags(note, "What is it?", lay) == []
    assert judged_flags(note, "What is it?", "My car broke down on the way.") != []


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (("Any fever or chills?", "No."), {"fever": "denied", "chills": "denied"}),
        (("Any fever or chills?", "Nope, never."), {"fever": "denied", "chills": "denied"}),
        (("Any fever?", "Mm-hm, since Monday."), {"fever": "present"}),
        (("Do you have diabetes?", "I do."), {"diabetes": "present"}),
        (("Do you have diabetes?", "I don't."), {"diabetes": "denied"}),
        (("Any nausea or vomiting?", "Not really, just a bit of a cough."),
         {"nausea": "denied", "vomiting": "denied", "cough": "present"}),
        (("Does it come with wheezing?", "Absolutely not!"), {"wheezing": "denied"}),
        (("No burning when you pee?", "Right."), {"dysuria": "denied"}),
        (("You have asthma?", "Yes."), {"asthma": "present"}),
        (("Any headaches?", "I don't know."), {}),
        (("How are you?", "I have a cough but no fever, chills or wheezing."),
         {"cough": "present", "fever": "denied", "chills": "denied", "wheezing": "denied"}),
        (("Besides the cough, any other problems?", "No."), {"cough": "present"}),
        (("Still vomiting?", "No."), {"vomiting": "past_or_stopped"}),
        (("And?", "It might be pneumonia."), {"pneumonia": "uncertain"}),
        (("I will order an MRI.", "Fine."), {"mri": "planned"}),
    ],
)  # fmt: skip
def test_answers_decide_the_assertion_of_a_question(lines: tuple[str, ...], wanted: dict[str, str]) -> None:
    found = dialogue_assertions(*lines)
    assert {name: found[name] for name in wanted} == wanted if wanted else "headache" not in found


@pytest.mark.parametrize(
    ("note", "wanted"),
    [
        ("Denies fever, chills, or cough, but has a rash.",
         {"fever": "denied", "chills": "denied", "cough": "denied", "rash": "present"}),
        ("No nausea or vomiting. Positive for diarrhea.", {"nausea": "denied", "vomiting": "denied", "diarrhea": "present"}),
        ("Negative for hematuria, dysuria.", {"hematuria": "denied", "dysuria": "denied"}),
        ("No change in cough.", {"cough": "uncertain"}),
        ("Possible pneumonia.", {"pneumonia": "uncertain"}),
        ("History of asthma.", {"asthma": "past_or_stopped"}),
        ("Nonsmoker, afebrile.", {"tobacco": "denied", "fever": "denied"}),
        ("Negative EKG.", {"ekg": "present"}),
        ("Has not had syncope since he is on metoprolol.", {"syncope": "denied", "metoprolol": "present"}),
        ("No wheezing on albuterol.", {"wheezing": "denied", "albuterol": "present"}),
        ("Unable to sleep because of cough.", {"cough": "present"}),
        ("Cough is denied.", {"cough": "denied"}),
    ],
)  # fmt: skip
def test_the_scope_of_a_negation(note: str, wanted: dict[str, str]) -> None:
    found = note_assertions(note)
    assert {name: found.get(name) for name in wanted} == wanted


def test_the_demo_note() -> None:
    lines = ("How are you?", "I do feel short of breath when I climb the stairs.", "Any chest pain?", "No.")
    pain, dyspnea = facts_of("He denies chest pain and shortness of breath.", *lines)
    assert (pain.verdict, pain.turn) == ("supported", 2)
    assert (dyspnea.verdict, dyspnea.turn) == ("contradicted", 1)


@pytest.mark.parametrize(
    ("note", "lines", "wanted"),
    [
        ("She denies fever.", ("Fever?", "Yes, since Monday."), "contradicted"),
        ("She has a fever.", ("Fever?", "No."), "contradicted"),
        ("She has a fever.", ("How are you?", "Fine."), "not_found"),
        ("Left ankle swelling.", ("Are your ankles swollen?", "No, they're fine."), "contradicted"),
        ("Takes losartan.", ("What do you take?", "Lisinopril."), "not_found"),
        ("She has coronary artery disease.", ("Any heart disease?", "No."), "contradicted"),
        ("Father had diabetes.", ("Your family?", "My mom has diabetes, and my dad had a stroke."), "contradicted"),
        ("The patient has diabetes.", ("Your family?", "My brother has diabetes."), "contradicted"),
    ],
)
def test_replaced_invented_and_negated_findings(note: str, lines: tuple[str, ...], wanted: str) -> None:
    assert {fact.verdict for fact in facts_of(note, *lines)} == {wanted}


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        ("No significant pain.", ("Pain?", "A little.")),
        ("Quit smoking.", ("Do you smoke?", "No, I quit.")),
        ("Chest pain has resolved.", ("Any chest pain?", "No, it went away.")),
        ("Mother and father have diabetes.", ("Family?", "My mom and dad both have diabetes.")),
        ("Diabetes in his brother.", ("Family?", "My brother and sister both have diabetes.")),
        ("Migraine.", ("You have a headache?", "No I have a really bad migraine.")),
        ("Her appetite is poor with loss of appetite.", ("Do you eat?", "No, I'm not hungry.")),
        ("Right knee pain.", ("Does the left knee hurt?", "No, the right one.")),
    ],
)
def test_paraphrases_are_not_flagged(note: str, lines: tuple[str, ...]) -> None:
    assert [fact for fact in facts_of(note, *lines) if fact.is_unsupported] == []


def test_findings_have_turn_offsets_and_subject() -> None:
    text = "[doctor] Any chest pain?\n[patient] No. My father had a stroke."
    pain, stroke = read_findings(text, read_turns(text))
    assert (text[pain.start : pain.end], pain.turn, pain.reply) == ("chest pain", 0, 1)
    assert (text[stroke.start : stroke.end], stroke.turn, stroke.subject, stroke.reply) == ("stroke", 1, "father", None)


def test_a_users_lexicon_adds_names_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("# our own\nmedication\tzentol\tzentola|~little green pill\tantibiotic\n", encoding="utf-8")
    dialogue = dialogue_of("What do you take?", "Nothing.")
    assert check_note("Takes Zentol.", dialogue) == []
    assert [fact.verdict for fact in check_note("Takes Zentol.", dialogue, lexicon=str(path))] == ["not_found"]
    green = dialogue_of("What do you take?", "The little green pill.")
    assert [fact.verdict for fact in check_note("Takes Zentola.", green, lexicon=str(path))] == ["supported"]
    for bad in ("drug\tzentol\n", "medication\n", "medication\ta\tb\tc\td\n"):
        path.with_name("bad.tsv").write_text(bad, encoding="utf-8")
        with pytest.raises(InputError, match=r"--lexicon .*bad.tsv, line 1: not kind, name"):
            check_note("", "", lexicon=str(path.with_name("bad.tsv")))
    with pytest.raises(InputError, match="cannot be read"):
        check_note("", "", lexicon=str(tmp_path / "none.tsv"))


TEXT = (
    "patient denies no chest pain fever, . ? ! and but never left knee hurts swollen Tylenol allergic to penicillin mother "
    "he she I yes not stopped smoking ( ) : \n E K G isn't"
)
WORDS = st.sampled_from(TEXT.split(" "))


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=25), st.lists(WORDS, max_size=40))
def test_any_text_is_read_with_valid_offsets(note_words: list[str], dialogue_words: list[str]) -> None:
    note, dialogue = " ".join(note_words), " ".join(dialogue_words)
    facts = check_note(note, dialogue)
    assert facts == check_note(note, dialogue)
    for fact in facts:
        assert 0 <= fact.start < fact.end <= len(note)
        assert fact.turn is None or 0 <= fact.turn < len(read_turns(dialogue))
    found: list[Finding] = read_findings(dialogue, read_turns(dialogue))
    assert all(0 <= finding.start < finding.end <= len(dialogue) for finding in found)


def test_british_spelling_and_body_parts_distinguish_findings() -> None:
    assert set(note_assertions("Diarrhoea, anaemia.")) == {"diarrhea", "anemia"}
    assert judged_flags("Ankle swelling.", "What is it?", "My face is swollen.") == [("Ankle swelling", "not_found")]
    assert judged_flags("Face swelling.", "What is it?", "My face is swollen.") == []
    assert judged_flags("She has chest pain.", "Any chest pain?", "No.") == [("chest pain", "contradicted")]
