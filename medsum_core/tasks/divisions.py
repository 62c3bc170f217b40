"""The four divisions of a visit note that ACI-Bench trains on and scores, found by the headings of its sections.

The headings and the two ways of dividing are those of ACI-Bench's section tagger (github.com/wyim/aci-bench,
`sectiontagger.py`; Yim et al., 2023). A heading is at the beginning of a line, in any case. Most need a colon or a
separate line; some also count if more words follow ("Results of ..."), even where that is hardly a heading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SUBJECTIVE, OBJECTIVE_EXAM, OBJECTIVE_RESULTS, ASSESSMENT_AND_PLAN = DIVISIONS = (
    "subjective",
    "objective_exam",
    "objective_results",
    "assessment_and_plan",
)

# Headings followed by a colon (possibly after blanks), or alone on their line.
_HEADINGS = {
    SUBJECTIVE: (
        *("cc", "reason for visit", "history", "interval history", "interval hx", "subjective"),
        *("ros", "review of system", "review of systems"),
    ),
    OBJECTIVE_EXAM: ("pe", "physical findings", "examination", "exam"),
    OBJECTIVE_RESULTS: ("findings",),
    ASSESSMENT_AND_PLAN: (
        *("assessment", "a", "plan", "plan of care", "p", "medical decision-making plan", "ap", "a / p"),
        *("assessment & plan", "disposition / plan"),
    ),
}
# Headings that may be followed by any text.
_PREFIXES = {
    SUBJECTIVE: ("chief complaint", "history of present illness", "hpi", "social history", "past history"),
    OBJECTIVE_EXAM: ("physical exam", "vitals reviewed"),
    OBJECTIVE_RESULTS: ("results",),
    ASSESSMENT_AND_PLAN: ("summary plan", "assessment and plan"),
}
_UNSPACED = ("a", "p")  # "a :" begins no section, "a:" does
_IMPRESSION = re.compile(r"\s*IMPRESSION")  # in capitals only: ACI-Bench's results have impressions of their own


def _pattern(division: str) -> re.Pattern[str]:
    """The pattern of a line that begins a section of this division; blanks within a heading may be absent."""

    def spaced(heading: str) -> str:
        return r"\s*".join(map(re.escape, heading.split()))

    with_colon = "|".join(
        spaced(heading) + ("" if heading in _UNSPACED else r"\s*") + r"(?::|\s*$)" for heading in _HEADINGS[division]
    )
    prefixes = "|".join(map(spaced, _PREFIXES[division]))
    return re.compile(rf"\s*(?:{with_colon}|{prefixes})", re.IGNORECASE)


_PATTERNS = {division: _pattern(division) for division in DIVISIONS}


def split_divisions(note: str) -> dict[str, str]:
    """Each division's text, in the order of `DIVISIONS`, "" for absent ones, as ACI-Bench's data is divided.

    Every section belongs to the division of its heading, wherever it is; headings stay in the text, and a section
    without a known heading belongs to the one before it. Text before the first heading is subjective, as in scoring
    (the published files of divisions lack it, but no published note has such text). Nothing is dropped.
    """
    parts = dict.fromkeys(DIVISIONS, "")
    headings = _find_headings(note)
    ends = [start for _, start in headings[1:]] + [len(note)]
    for (division, start), end in zip(headings, ends, strict=True):
        parts[division] += note[start:end]
    return parts


def split_for_scoring(note: str) -> dict[str, str]:
    """As `split_divisions`, but a division runs from its first heading to the first of another division.

    This is how ACI-Bench's evaluation divides a note (`divide_note_by_metasections`). It differs where a division's
    heading occurs again after that of another division: there the text belongs to the other one.
    """
    firsts: dict[str, int] = {}
    for division, start in _find_headings(note):
        firsts.setdefault(division, start)
    ends = [*firsts.values(), len(note)][1:]  # found from the top down, so in the order of the note
    found = {division: note[start:end] for (division, start), end in zip(firsts.items(), ends, strict=True)}
    return {division: found.get(division, "") for division in DIVISIONS}


def join_divisions(parts: Mapping[str, str]) -> str:
    """Join divisions to a note, in the order of `DIVISIONS`, with an empty line in between; empty ones are left out.

    The inverse of `split_divisions`, up to empty lines, for a note whose divisions are in this order. Raises ValueError
    for a name that is no division.
    """
    if unknown := sorted(set(parts) - set(DIVISIONS)):
        raise ValueError(f"{', '.join(unknown)}: no division; there are {', '.join(DIVISIONS)}")
    return "\n\n".join(parts[name].strip("\n") for name in DIVISIONS if parts.get(name, "").strip())


def _find_headings(note: str) -> list[tuple[str, int]]:
    """(division, offset) of each line that begins a section, in order; the first line always does."""
    found = []
    offset = 0
    for line in note.split("\n"):
        division = next((name for name, pattern in _PATTERNS.items() if pattern.match(line)), None)
        if division is None and _IMPRESSION.match(line):
            division = ASSESSMENT_AND_PLAN
        if division is None and offset == 0:
            division = SUBJECTIVE
        if division is not None:
            found.append((division, offset))
        offset += len(line) + 1
    return found
