"""The checks of notes against their dialogue, in the form of the server's answers: offsets and counts, no text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsum_core.data.turns import read_turns
from medsum_core.grounding.check import count_checked
from medsum_core.grounding.evidence import Support, evidence
from medsum_core.grounding.omissions import NONE_STATED, check_omissions, has_statements
from medsum_core.tasks.task import Task


def with_plain_newlines(dialogue: str) -> str:
    """The dialogue with LF newlines and without byte-order marks, every character still at its offset."""
    return dialogue.replace("\ufeff", " ").replace("\r\n", " \n").replace("\r", "\n")


def turns_of(dialogue: str) -> list[dict[str, Any]]:
    """The turns as offsets into the dialogue, with their speakers."""
    return [{"start": turn.start, "end": turn.end, "speaker": turn.speaker} for turn in read_turns(dialogue)]


def check_of_note(note: str, text: str, task: Task) -> dict[str, Any]:
    """The facts of a note and each sentence's turns, looked up in `text`; nothing where a task gives no such text."""
    supports = evidence(note, text) if task.facts_from is not None else []
    facts = [fact for support in supports for fact in support.facts]
    against = [fact for fact in facts if fact.verdict == "contradicted" and fact.turn is not None]
    return {
        "checked": count_checked(facts),
        "unsupported": [[fact.start, fact.end, fact.kind, fact.verdict] for fact in facts if fact.is_unsupported],
        "evidence": [
            {"start": one.start, "end": one.end, "turns": list(one.turns), "verdict": _verdict(one)} for one in supports
        ],
        "contradicted_by": [{"start": fact.start, "end": fact.end, "turn": fact.turn} for fact in against],
    }


def check_of_set(notes: Sequence[str], dialogue: str, task: Task) -> dict[str, Any]:
    """The facts of the dialogue that none of the notes contains."""
    found = check_omissions("\n\n".join(notes), dialogue) if has_statements(task) else NONE_STATED
    omitted = [{"turn": one.turn, "start": one.start, "end": one.end, "kind": one.kind} for one in found.omitted]
    return {"omitted": omitted, "stated": found.stated}


def _verdict(support: Support) -> str:
    """The worst of a sentence's facts, else whether its words are found."""
    verdicts = {fact.verdict for fact in support.facts}
    for worst in ("contradicted", "not_found"):
        if worst in verdicts:
            return worst
    return "little_support" if support.low_support else "supported"
