"""`read_turns` reads every style of speaker tags, for truncation, scoring and grounding alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsum_core.data.truncation import split_turns
from medsum_core.data.turns import read_turns
from medsum_core.grounding.check import check_note
from medsum_core.score.evaluate import strip_tags

SAID = ("Does the left knee hurt?", "No, the right one.", "Since when? The BP: 120. Pain: bad.", "Two weeks.")
WHO = ("Doctor", "Patient", "Doctor", "Patient")
STYLES = {
    "colon": "{who}: {text}\n",
    "spaced colon": "{who} : {text}\n",
    "small letters": "{low}: {text}\n",
    "bracket": "[{low}] {text}\n",
    "bracket and colon": "[{who}]: {text}\n",
    "bold": "**{who}:** {text}\n",
    "bold before the colon": "**{who}**: {text}\n",
    "angle": "<{who}> {text}\n",
    "dash": "{who} - {text}\n",
    "long dash": "{who} – {text}\n",
    "full-width colon": "{who}： {text}\n",
    "own line": "{who}:\n{text}\n\n",
    "own line without colon": "{who}\n{text}\n",
    "time before": "00:0{k} {who}: {text}\n",
    "time in brackets before": "[00:00:0{k}] {who}: {text}\n",
    "time after": "{who} (00:0{k}): {text}\n",
    "time after, own line": "{who}   0:0{k}\n{text}\n",
    "time after the colon's place": "{who} [10:0{k}]: {text}\n",
    "one line": "{who}: {text} ",
    "one line, bold": "**{who}:** {text} ",
    "one line, brackets": "[{low}] {text} ",
    "one line, times": "00:0{k} {who}: {text} ",
    "numbered": "{k}. {who}: {text}\n",
    "Windows newlines": "{who}: {text}\r\n",
}


def written(style: str) -> str:
    lines = enumerate(zip(WHO, SAID, strict=True))
    return "".join(STYLES[style].format(who=who, low=who.lower(), text=text, k=k) for k, (who, text) in lines)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_speaker_tags_gives_the_same_turns(style: str) -> None:
    dialogue = written(style)
    turns = read_turns(dialogue)
    assert [turn.text for turn in turns] == list(SAID)
    assert [turn.speaker.lower() for turn in turns] == [who.lower() for who in WHO]
    assert [turn.is_clinician for turn in turns] == [True, False, True, False]
    assert [dialogue[turn.text_start : turn.end] for turn in turns] == list(SAID)
    assert len(split_turns(dialogue)) == len(SAID)
    assert strip_tags(dialogue) == " ".join(SAID)


@pytest.mark.parametrize("style", STYLES)
def test_a_denied_side_is_contradicted_in_every_style(style: str) -> None:
    assert [fact.verdict for fact in check_note("Left knee pain.", written(style)) if fact.kind == "laterality"] == [
        "contradicted"
    ]


def test_without_tags_each_line_is_a_turn() -> None:
    turns = read_turns("How are you?\n\n  Well, thanks. Note: my BP: 120.\n")
    assert [(turn.speaker, turn.text) for turn in turns] == [
        ("", "How are you?"),
        ("", "Well, thanks. Note: my BP: 120."),
    ]
    assert read_turns(" \n") == []


def test_labels_remarks_and_reported_speech_are_not_speaker_tags() -> None:
    dialogue = (
        "Doctor: I told the doctor: no. Then Plan: rest.\nAssessment: to be discussed\n[laughs] fine\n"
        "Patient: My last doctor said, Doctor: it is late.\nNote: recording paused\n12:30 was the last dose.\n"
        "Right - I see\nPatient: Okay."
    )
    assert [turn.text.split("\n")[0] for turn in read_turns(dialogue)] == [
        "I told the doctor: no. Then Plan: rest.",
        "My last doctor said, Doctor: it is late.",
        "Okay.",
    ]


def test_names_are_speaker_tags_if_they_recur_or_if_no_role_occurs() -> None:
    assert [turn.speaker for turn in read_turns("Doctor: Hi.\nAnna: Hello.\nDoctor: Well?\nAnna: Yes.")] == [
        "Doctor", "Anna", "Doctor", "Anna",
    ]  # fmt: skip
    assert [turn.speaker for turn in read_turns("Anna: Hello.\nSmith: Well?")] == ["Anna", "Smith"]
    assert [turn.speaker for turn in read_turns("Intro\nDr. Smith: Hi.\nMrs Jones: Yes.\nGuest_family_2: No.")] == [
        "", "Dr. Smith", "Mrs Jones", "Guest_family_2",
    ]  # fmt: skip


def test_a_tag_has_at_most_five_words_for_roles() -> None:
    """Else the time would be quadratic: a model that repeats "doctor doctor ..." 7,000 times took minutes."""
    names = ["Doctor nurse nurse nurse nurse", "Doctor nurse nurse nurse nurse nurse"]
    assert [turn.speaker for turn in read_turns(f"{names[0]}: Hi.\n{names[1]}: Hi.")] == names[:1]


@given(st.text(st.sampled_from("Doctor:Patient [](){}<>*-\n 0:12.?ab"), max_size=80))
def test_turns_are_in_order_and_cover_the_text(text: str) -> None:
    turns = read_turns(text)
    for turn, after in zip(turns, [*turns[1:], None], strict=False):
        assert turn.start <= turn.text_start <= turn.end
        assert after is None or turn.end <= after.start
        assert text[turn.text_start : turn.end] == turn.text
    outside = [
        text[a:b] for a, b in zip([0, *(t.end for t in turns)], [*(t.start for t in turns), len(text)], strict=True)
    ]
    assert "".join(outside).strip() == ""
