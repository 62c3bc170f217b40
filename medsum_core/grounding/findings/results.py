"""The result of a test: "breath test negative" is contradicted by "The breath test, and it was positive."."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.scope import NEGATIONS

Result = Literal["good", "bad"]
WORDS: dict[str, frozenset[str]] = {
    "bad": bag("positive abnormal elevated high low reactive failed inconclusive detected"),
    "good": bag("negative normal clear clean fine unremarkable perfect spotless flat okay ok good undetectable passed"),
}
NEAR = 4  # words of a note around a test
BEFORE = 2  # words of a dialogue before a test: "high [triglycerides]"
TURNS_AFTER = 1
PRAISE = bag("good okay ok fine clear perfect")  # "Sounds good." is of no test
TOLD = bag("it that they all everything both came results")
ENDS = bag(", ; but . ? !")


def result_in_note(finding: Finding, note: FindingScan) -> Result | None:
    """The result that a note gives a test next to its name."""
    sentence = note.sentence_of(finding)
    before = range(max(sentence.first, finding.first - 2), finding.first)
    after = range(finding.last, min(sentence.last, finding.last + NEAR))
    found = [_result(note.words[i].text) for i in before]
    for i in after:
        if note.words[i].text in ENDS or note.words[i].text in ("and", "with"):
            break
        found.append(_result(note.words[i].text))
    return next((result for result in found if result), None)


def results_in_talk(said: Sequence[Finding], index: FindingIndex) -> set[Result]:
    """The results that a dialogue gives a test where it names it, and in the answer."""
    found: set[Result] = set()
    for other in said:
        own = [s for s in index.sentences_of[other.turn] if s.last > other.first]
        answer = [s for k in range(1, TURNS_AFTER + 1) for s in index.sentences_of.get(other.turn + k, ())]
        for k, sentence in enumerate([*own[:2], *answer[:2]]):
            told = k == 0 or index.scan.words[sentence.first].text in TOLD
            for i in range(max(sentence.first, other.first - BEFORE), sentence.last):
                text = index.scan.words[i].text
                result = _result(text) if told or text not in PRAISE else None
                if result:
                    denied = NEGATIONS & {word.text for word in index.scan.words[max(i - 3, sentence.first) : i]}
                    found.add(result if not denied else "bad" if result == "good" else "good")
    return found


def is_contradicted(note: Result | None, said: set[Result]) -> bool:
    """Whether the dialogue gives only the other result."""
    return note is not None and bool(said) and note not in said


def _result(text: str) -> Result | None:
    return "good" if text in WORDS["good"] else "bad" if text in WORDS["bad"] else None
