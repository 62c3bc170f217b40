"""Omissions: the facts that fictional dialogues state, labelled by hand, and which of them a note omits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from labelled_facts import read_cases

from medsum_core.data.turns import read_turns
from medsum_core.grounding.dialogue_facts import read_dialogue_facts
from medsum_core.grounding.findings.lexicon import load_lexicon
from medsum_core.grounding.omissions import NONE_STATED, check_omissions, has_statements
from medsum_core.tasks.find import find_task

MARK = re.compile(r"\[\[(\w+)\|([+-])\|(.*?)\]\]")

# `[[kind|+|words]]`: stated and in the note; `-`: stated and omitted; words without a label state no fact.
LABELLED = {
    "answers count, questions do not": (
        "Doctor: How long have you had the cough? Is it three weeks?\n"
        "Patient: It has been [[duration|+|five days]], and I have a [[symptom|-|fever]].\n"
        "Doctor: Do you take lisinopril or warfarin?\n"
        "Patient: What is that?",
        "Five days of a cough.",
    ),
    "a question with its yes or no is stated": (
        "Doctor: Any [[symptom|+|chest pain]]?\nPatient: No.\n"
        "Doctor: Do you have [[condition|-|diabetes]]?\nPatient: Yes, I do.\n"
        "Doctor: Are you taking [[dose|-|40 milligrams]]?\nPatient: Yes.",
        "Denies chest pain.",
    ),
    "small talk is not stated": (
        "Doctor: Good morning. Sorry that you waited twenty minutes, it is half past nine already, 9:30.\n"
        "Patient: No problem, one of us was late. I have [[symptom|-|headaches]], [[symptom|-|nausea]] and [[condition|-|gout]].",
        "Seen in clinic.",
    ),
    "what is said several times counts once, where it is said first": (
        "Patient: I have had [[symptom|-|dizziness]] and [[symptom|-|nausea]] for [[duration|-|14 days]].\n"
        "Doctor: So you were dizzy for two weeks?\nPatient: Yes, dizzy for two weeks.",
        "Follow-up visit.",
    ),
    "a narrower name says the wider one too": (
        "Patient: The pain is bad. It is [[symptom|+|chest pain]].\nDoctor: I see, the pain.",
        "Complains of chest pain.",
    ),
    "a note that says the opposite does not hold it": (
        "Patient: I have [[symptom|-|nausea]] and I never had [[condition|+|asthma]].",
        "Denies nausea. No history of asthma.",
    ),
    "other words and units hold it": (
        "Patient: I get [[symptom|+|short of breath]] since [[duration|+|two weeks]].\n"
        "Doctor: I will start [[medication|+|Lasix]] at [[dose|+|forty milligrams]].",
        "Dyspnea for 14 days. Furosemide 40 mg.",
    ),
    "the other side is no side of it": (
        "Patient: My [[laterality|-|left]] ear and my [[laterality|+|right]] [[symptom|+|knee hurts]].",
        "Pain of the right knee.",
    ),
    "the same side of another part is no side of it": (
        "Patient: My [[laterality|-|left]] ear is blocked.",
        "The left ankle is stable.",
    ),
    "a relative's finding is not the patient's": (
        "Patient: My mother has [[condition|-|diabetes]]. I have [[condition|+|hypertension]].",
        "The patient has hypertension and his father had diabetes.",
    ),
    "without a known fact, sentences with content words are stated": (
        "Doctor: Hello, who is at home with you?\n"
        "Patient: [[statement|+|Well, I share a flat with my roommate]].\n"
        "Doctor: That sounds nice! Do you enjoy it?\n"
        "Patient: I really do. [[statement|-|I teach physics at a college]].",
        "Sharing an apartment.",
    ),
    "beside a fact or two, other sentences are stated": (
        "Patient: [[statement|-|I share a flat with my roommate]]. I have a [[symptom|-|fever]].",
        "Seen in clinic.",
    ),
    "beside three facts, sentences are not stated": (
        "Patient: I share a flat with my roommate. I have a [[symptom|-|fever]], [[symptom|-|nausea]] and "
        "[[condition|-|gout]].",
        "Seen in clinic.",
    ),
    "a question with its yes is a sentence": (
        "Doctor: [[statement|+|Do you live alone]]?\nPatient: Yes.\nDoctor: [[statement|-|Are you retired]]?\nPatient: Yes.",
        "Lives alone.",
    ),
    "a related word holds a sentence": (
        "Doctor: [[statement|+|Are you retired]]?\nPatient: Yes.",
        "Since retirement.",
    ),
    "a denied sentence is not in a note that denies nothing": (
        "Doctor: [[statement|-|Do you live alone]]?\nPatient: No.",
        "Lives alone.",
    ),
    "a denied sentence is in a note that denies it, or all": (
        "Doctor: [[statement|+|Anybody sick in the family]]?\nPatient: No.",
        "Noncontributory.",
    ),
    "a note that nothing is known holds what nobody could tell": (
        "Doctor: [[statement|+|Any accidents with her bicycle]]?\nGuest_family: No idea, she never told me her story.",
        "Unknown.",
    ),
    "a summary of the family holds what is denied of relatives, not of the patient": (
        "Doctor: Does [[condition|+|diabetes]] run in the family?\nPatient: No. I don't have [[condition|-|asthma]]. I do "
        "have [[condition|-|gout]].",
        "No significant family history.",
    ),
    "a summary of the family under its heading is one of a long note too": (
        "Doctor: Does [[condition|+|diabetes]] run in the family?\nPatient: No. I don't have [[condition|-|asthma]]. I do "
        "have [[condition|+|gout]].",
        "He has gout.\nHe was seen today.\nFAMILY HISTORY\nNoncontributory.",
    ),
    "one line of a long note does not sum the visit up": (
        "Doctor: Any [[symptom|-|headaches]]?\nPatient: No. I have [[condition|+|gout]] and [[symptom|+|nausea]].",
        "He has gout.\nHe has nausea.\nSURGICAL HISTORY\nNone.",
    ),
    "one thing that is not known does not hold what was told": (
        "Patient: [[statement|-|I build violins at home]]. I have a [[symptom|+|fever]].",
        "Fever of unknown origin.",
    ),
    "a part that is normal sums nothing up": (
        "Doctor: Any [[symptom|-|headaches]]?\nPatient: No.",
        "Gait normal.",
    ),
    "small talk tells nothing": ("Doctor: Good morning, how are you?\nPatient: I am fine, thank you, doctor.", "None."),
}


def parse_labels(marked: str) -> tuple[str, list[tuple[int, int, str, bool]]]:
    """The dialogue without its labels, and these as start, end, kind and whether the note omits it."""
    text, labels, last = "", [], 0
    for mark in MARK.finditer(marked):
        text += marked[last : mark.start()]
        labels.append((len(text), len(text) + len(mark[3]), mark[1], mark[2] == "-"))
        text += mark[3]
        last = mark.end()
    return text + marked[last:], labels


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_statements_and_omissions(name: str) -> None:
    marked, note = LABELLED[name]
    dialogue, labels = parse_labels(marked)
    stated = [(one.start, one.end, one.kind) for one in read_dialogue_facts(dialogue, load_lexicon()).found]
    assert stated == [label[:3] for label in labels]
    found = check_omissions(note, dialogue)
    assert found.stated == len(labels)
    assert [(one.start, one.end, one.kind) for one in found.omitted] == [label[:3] for label in labels if label[3]]


def all_dialogues() -> list[str]:
    """The dialogues of this file and those of `cases/`."""
    return [parse_labels(marked)[0] for marked, _ in LABELLED.values()] + [case.dialogue for case in read_cases()]


def test_a_note_with_all_statements_omits_nothing() -> None:
    num_stated = 0
    for dialogue in all_dialogues():
        found = check_omissions(dialogue, dialogue)
        assert found.omitted == (), dialogue
        num_stated += found.stated
    assert num_stated > 300


def test_an_empty_note_omits_everything() -> None:
    for dialogue in all_dialogues():
        found = check_omissions("", dialogue)
        assert len(found.omitted) == found.stated
        for one in found.omitted:
            turn = read_turns(dialogue)[one.turn]
            assert turn.text_start <= one.start < one.end <= turn.end  # never in a speaker's tag


STYLES = ("Doctor: {}\nPatient: {}", "[doctor] {}\n[patient] {}", "  **Doctor:** {}\r\n\n**Patient:** {}\r\n")


@pytest.mark.parametrize("style", STYLES)
def test_offsets_are_into_the_dialogue_as_given(style: str) -> None:
    dialogue = style.format("Tell me.", "I take 20 mg of Lasix, and I have a fever.")
    found = check_omissions("", dialogue)
    assert [dialogue[one.start : one.end] for one in found.omitted] == ["20 mg", "Lasix", "fever"]
    assert {one.turn for one in found.omitted} == {1}


def test_other_languages_state_nothing() -> None:
    german = "Doctor: Seit wann haben Sie Fieber und Husten?\nPatient: Ich habe seit drei Wochen Fieber, und ich nehme 20 mg."
    assert check_omissions("", german) == NONE_STATED


def test_a_finding_of_the_users_lexicon_is_stated(tmp_path: Path) -> None:
    table = tmp_path / "more.tsv"
    table.write_text("condition\tplumbosis\tlead lung\t\n")
    dialogue = "Patient: I have a fever and lead lung."
    assert [one.kind for one in check_omissions("", dialogue).omitted] == ["symptom"]
    assert len(check_omissions("", dialogue, lexicon=str(table)).omitted) == 2
    assert check_omissions("Fever, plumbosis.", dialogue, lexicon=str(table)).omitted == ()


def test_only_notes_of_dialogues_have_omissions() -> None:
    assert has_statements(find_task("section")) and has_statements(find_task("visit"))
    assert not has_statements(find_task("pubmedqa")) and not has_statements(find_task("medquad"))


def test_spelt_letters_are_no_frequency() -> None:
    omitted = check_omissions("Follows a diet.", "Patient: I have A D H D and I keep to the A D A diet.").omitted
    assert [one.kind for one in omitted] == ["condition"]  # not "a d", once a day
