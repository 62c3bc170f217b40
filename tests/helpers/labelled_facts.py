"""The labelled facts of `grounding/cases/*.jsonl`: fictional dialogues, notes with each fact marked by hand.

A mark is `[[kind|verdict|text]]`; verdicts: + supported, - not in the dialogue, ! the dialogue says otherwise.
Rules were tuned on the cases with an even number and scored on the odd ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medsum_core.grounding.check import NUMERIC_KINDS, Fact, check_note

MARK = re.compile(r"\[\[(\w+)\|([+!-])\|(.*?)\]\]")
FOLDER = Path(__file__).parents[1] / "grounding" / "cases"


@dataclass(frozen=True, kw_only=True)
class LabelledFact:
    start: int
    end: int
    kind: str
    unsupported: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    number: int
    dialogue: str
    note: str
    facts: tuple[LabelledFact, ...]


def read_cases(name: str = "cases.jsonl") -> list[Case]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [_case(json.loads(line)) for line in lines]


def _case(row: dict[str, str]) -> Case:
    note, facts, last = "", [], 0
    for mark in MARK.finditer(row["note"]):
        note += row["note"][last : mark.start()]
        facts.append(
            LabelledFact(start=len(note), end=len(note) + len(mark[3]), kind=mark[1], unsupported=mark[2] != "+")
        )
        note += mark[3]
        last = mark.end()
    note += row["note"][last:]
    return Case(number=int(row["case"]), dialogue=row["dialogue"], note=note, facts=tuple(facts))


def numeric_facts(note: str, dialogue: str) -> list[Fact]:
    """The facts of the kinds that these files label: all but findings."""
    return [fact for fact in check_note(note, dialogue) if fact.kind in NUMERIC_KINDS]


def outcomes(case: Case) -> Iterator[tuple[str, str, int, int]]:
    """(kind, hit | missed | false | passed, start, end): each label, and each flag that overlaps no label."""
    flags = [fact for fact in numeric_facts(case.note, case.dialogue) if fact.verdict != "supported"]
    for label in case.facts:
        flagged = any(flag.start < label.end and label.start < flag.end for flag in flags)
        names = {(True, True): "hit", (True, False): "missed", (False, True): "false", (False, False): "passed"}
        yield label.kind, names[label.unsupported, flagged], label.start, label.end
    for flag in flags:
        if not any(flag.start < label.end and label.start < flag.end for label in case.facts):
            yield flag.kind, "false", flag.start, flag.end


def dialogue_of(*lines: str) -> str:
    """A dialogue of these lines, by doctor and patient in turn."""
    return "\n".join(f"{('Doctor', 'Patient')[k % 2]}: {line}" for k, line in enumerate(lines))


def flagged(note: str, dialogue: str) -> list[str]:
    """The words of a note that the check finds unsupported, in order."""
    return [note[fact.start : fact.end] for fact in check_note(note, dialogue) if fact.is_unsupported]


def flags(note: str, *lines: str) -> list[str]:
    """`flagged`, against a dialogue of these lines."""
    return flagged(note, dialogue_of(*lines))


def judged_flags(note: str, *lines: str) -> list[tuple[str, str]]:
    """`flags`, each with its verdict."""
    facts = check_note(note, dialogue_of(*lines))
    return [(note[fact.start : fact.end], fact.verdict) for fact in facts if fact.is_unsupported]
