"""What a note says in other words than its dialogue is no error: lay words, answers, relatives, allergies, changes."""

from __future__ import annotations

import pytest

from medsum_core.grounding.check import check_note
from medsum_core.grounding.findings.lexicon import load_hints, load_lexicon


def flags(note: str, *lines: str) -> list[tuple[str, str]]:
    speakers = ("Doctor", "Patient")
    talk = "\n".join(f"{speakers[k % 2]}: {line}" for k, line in enumerate(lines))
    return [(note[fact.start : fact.end], fact.verdict) for fact in check_note(note, talk) if fact.is_unsupported]


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
def test_a_finding_in_a_patients_words_is_not_missing(note: str, lay: str) -> None:
    assert flags(note, "How are you?", lay) == []
    assert flags(note, "How are you?", "My shirt is blue and I drove here.") != []


def test_words_of_a_hint_must_be_near_each_other() -> None:
    near = "They cracked my chest."
    far = "I cracked two eggs, mixed them with milk and flour and sugar and baked a cake. It is in the chest."
    assert flags("Has CAD.", "And?", near) == []
    assert flags("Has CAD.", "And?", far) == [("CAD", "not_found")]


def test_hints_name_known_findings() -> None:
    assert set(load_hints()) <= set(load_lexicon().concepts)
