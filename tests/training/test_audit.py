"""The audit of the training notes: facts counted one by one, rows named, no text."""

from __future__ import annotations

from medsum_core.grounding.check import Fact, check_note, merge_unsupported
from medsum_core.training.audit import TargetAudit, audit_targets


def test_audit_counts_facts_and_names_rows() -> None:
    notes = {"a": "40-year-old", "b": "41-year-old, 2 dogs", "c": "None."}
    facts = {id: check_note(note, "Patient: I am forty.") for id, note in notes.items()}
    audit, rows = audit_targets(facts, choice="mask")
    assert audit == TargetAudit(choice="mask", num_notes=3, num_notes_flagged=1, num_facts=3, num_unsupported=2)
    assert rows == [{"id": "b", "unsupported": 2}]
    assert audit.sentence == (
        "2 of 3 checkable facts in the training notes (66.7 %) are not in their source text, or against it, in 1 of 3 notes: "
        "their tokens are left out of the loss"
    )


def test_nothing_to_check_and_nothing_found_are_told_apart() -> None:
    assert audit_targets({}, choice="keep")[0].sentence == ""
    facts = {"a": check_note("40-year-old", "Patient: I am forty.")}
    clean, rows = audit_targets(facts, choice="keep")
    assert rows == []
    assert (
        clean.sentence
        == "0 of 1 checkable facts in the training notes (0.0 %) are not in their source text, or against it"
    )


def test_two_facts_that_overlap_are_two_facts_of_one_span() -> None:
    facts = [Fact(start=start, end=start + 4, kind="dose", verdict="not_found", turn=None) for start in (0, 2)]
    audit, rows = audit_targets({"a": facts}, choice="keep")
    assert merge_unsupported(facts) == [(0, 6)]
    assert (audit.num_facts, audit.num_unsupported) == (2, 2)
    assert rows == [{"id": "a", "unsupported": 2}]
