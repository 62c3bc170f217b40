"""The turns that support each sentence of a note."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from medsum_core.grounding.evidence import MAX_TURNS, evidence, sentences

DIALOGUE = (
    "Doctor: How old are you?\n"
    "Patient: I'm seventy six years old.\n"
    "Doctor: What brings you in?\n"
    "Patient: My left knee has been swollen for two weeks.\n"
    "Doctor: Do you take anything?\n"
    "Patient: Ibuprofen, and lisinopril for my blood pressure."
)


def test_each_sentence_gets_its_supporting_turns() -> None:
    note = "The patient is 76 years old. Left knee swelling for 14 days. Takes lisinopril and ibuprofen."
    found = evidence(note, DIALOGUE)
    assert [support.turns[0] for support in found] == [1, 3, 5]
    assert [note[s.start : s.end] for s in found][1] == "Left knee swelling for 14 days."
    assert not any(support.low_support for support in found)


def test_an_invented_sentence_has_low_support() -> None:
    found = evidence("Left knee swelling. Chest radiograph showed cardiomegaly and pulmonary oedema.", DIALOGUE)
    assert [support.low_support for support in found] == [False, True]
    assert found[0].score > found[1].score


def test_a_question_is_evidence_with_its_answer_and_a_statement_comes_first() -> None:
    dialogue = "Doctor: Any chest pain?\nPatient: No.\nDoctor: Nausea?\nPatient: No, no nausea.\nDoctor: Good."
    pain, nausea = evidence("She denies chest pain. She denies nausea.", dialogue)
    assert pain.turns == (0, 1)
    assert nausea.turns[0] == 3
    assert not pain.low_support and not nausea.low_support


def test_typical_note_words_do_not_count() -> None:
    (none,) = evidence("None.", DIALOGUE)
    assert not none.low_support
    (long,) = evidence("The patient reports a history of left knee swelling.", DIALOGUE)
    (short,) = evidence("Left knee swelling.", DIALOGUE)
    assert long.score == short.score


def test_a_number_absent_from_the_dialogue_lowers_the_score() -> None:
    (right,) = evidence("Knee swollen for 2 weeks.", DIALOGUE)
    (wrong,) = evidence("Knee swollen for 9 weeks.", DIALOGUE)
    assert right.score > wrong.score


def sentence_texts(note: str) -> list[str]:
    return [note[start:end] for start, end in sentences(note)]


def test_sentences_do_not_end_at_abbreviations() -> None:
    note = "1.  Gout. 2.  Seen by Dr. Smith at 3.5 cm.\nTakes it b.i.d. with food! Why?"
    pieces = sentence_texts(note)
    assert sentence_texts("Died at 60. Well at 9.") == ["Died at 60.", "Well at 9."]
    assert pieces == ["1.  Gout.", "2.  Seen by Dr. Smith at 3.5 cm.", "Takes it b.i.d. with food!", "Why?"]


def test_a_sentence_without_content_words_is_not_flagged() -> None:
    (support,) = evidence("It is.", DIALOGUE)
    assert support.score == 1.0 and not support.low_support


@given(st.text(alphabet="ab1. \n?!Dr", max_size=80), st.text(alphabet="ab1: \nDr.", max_size=80))
def test_spans_cover_the_note_in_order_and_scores_are_shares(note: str, dialogue: str) -> None:
    found = evidence(note, dialogue)
    assert "".join(note[s.start : s.end] for s in found).split() == note.split() or all(
        note[a.end : b.start].strip() == "" for a, b in pairwise(found)
    )
    for support in found:
        assert 0.0 <= support.score <= 1.0 + 1e-9
        assert len(support.turns) == len(set(support.turns)) <= MAX_TURNS
    assert found == evidence(note, dialogue)


def test_a_contradicting_turn_is_never_a_supporting_one() -> None:
    dialogue = (
        "Doctor: How are you?\nPatient: I do feel short of breath when I climb the stairs.\n"
        "Doctor: Any chest pain?\nPatient: No.\nDoctor: Do you smoke?\nPatient: No, never."
    )
    denied, smoker = evidence("He denies chest pain and shortness of breath. He smokes.", dialogue)
    assert denied.contradicting == (1,) and 1 not in denied.turns and denied.turns == (2, 3)
    assert denied.low_support and denied.score == 0.0  # one unsupported fact makes the sentence unsupported
    assert [(fact.verdict, fact.turn) for fact in denied.facts] == [("supported", 2), ("contradicted", 1)]
    assert smoker.contradicting == (4, 5) and smoker.turns == ()


def test_a_contradicting_turn_with_common_words_does_not_support() -> None:
    dialogue = "Doctor: Hello.\nPatient: I get short of breath when I climb the stairs."
    (denied,) = evidence("No shortness of breath when climbing the stairs.", dialogue)
    assert (denied.contradicting, denied.turns) == ((1,), ())
