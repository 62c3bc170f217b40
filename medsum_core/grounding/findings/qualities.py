"""Is a finding as certain in the dialogue as in the note, of the same course, a test of the same result?

Not "diagnosed with pneumonia" where "it could be pneumonia" is all, "numbness has resolved" where "if anything it's
spread", "negative breath test" where "it came back positive". Of each the note's word is next to the finding; it is
contradicted where the dialogue has only words of the opposite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import asks_openly, read_reply
from medsum_core.grounding.findings.scope import NEGATIONS
from medsum_core.grounding.findings.stems import texts_of

SURE = bag("diagnosed diagnosis known confirmed definite proven established documented")
PROVED = bag("confirmed shows showed definitely proved proves positive came biopsy diagnosed")
SURE_BEFORE, SURE_AFTER = 4, 2  # words of a note before a finding and after it

Course = Literal["gone", "better", "lasting", "worse"]
COURSES: Mapping[Course, frozenset[str]] = {
    "gone": bag("resolved gone subsided disappeared quit stopped vanished completely"),
    "better": bag("better improved improving easing eased"),
    "lasting": bag("persists persistent persisting persist ongoing unchanged still same constant constantly"),
    "worse": bag("worse worsened worsening progressing spread spreading spreads"),
}
OPPOSED: Mapping[Course, frozenset[Course]] = {
    "gone": frozenset({"lasting", "worse"}),
    "better": frozenset({"worse"}),
    "lasting": frozenset({"gone"}),
    "worse": frozenset({"better", "gone"}),
}
OVER: Mapping[Course, Course] = {"gone": "lasting", "lasting": "gone", "better": "worse", "worse": "better"}
LEAVING_OPEN = bag("when after with if at by during until sometimes usually night morning")  # "worse at night"
CONTINUING = bag("continues ongoing still persistent")  # before a finding
COURSE_NEAR = 3  # words of a note before and after a finding

Result = Literal["good", "bad"]
RESULTS: Mapping[Result, frozenset[str]] = {
    "bad": bag("positive abnormal elevated high low reactive failed inconclusive detected"),
    "good": bag("negative normal clear clean fine unremarkable perfect spotless flat okay ok good undetectable passed"),
}
RESULT_AFTER = 4  # words of a note after a test
RESULT_BEFORE = 2  # words before it: "high [triglycerides]"
PRAISE = bag("good okay ok fine clear perfect")  # "Sounds good." is of no test
TOLD = bag("it that they all everything both came results")
ENDS = bag(", ; but . ? ! and with")


def other_certainty(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> int | None:
    """The turn that leaves open what the note is sure of, or settles what the note leaves open; None if none does."""
    if finding.kind != "condition" or not said:
        return None
    of_clinician = [other for other in said if index.turns[other.turn].is_clinician]
    if finding.assertion == "present" and SURE & _around(note, finding):
        told = of_clinician or said  # whose word it is
        return told[0].turn if all(other.assertion == "uncertain" for other in told) else None
    told = [other for other in of_clinician if other.reply is None]
    if finding.assertion != "uncertain" or len(told) < len(said):
        return None
    denied = all(other.assertion == "denied" for other in told)
    proved = all(other.assertion == "present" and PROVED & set(_sentence(index, other)) for other in told)
    return told[0].turn if denied or proved else None


def _around(note: FindingScan, finding: Finding) -> set[str]:
    first = max(note.sentence_of(finding).first, finding.first - SURE_BEFORE)
    return {word.text for word in (*note.words[first : finding.first], *note.after(finding, SURE_AFTER))}


def _sentence(index: FindingIndex, finding: Finding) -> list[str]:
    sentence = index.scan.sentence_of(finding)
    return texts_of(index.scan.words, sentence.first, sentence.last)


def other_course(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> int | None:
    """The turn that gives a note's symptom the opposite course only; None if none does."""
    if finding.kind not in ("symptom", "substance") or finding.assertion == "denied":
        return None
    after = [word.text for word in note.after(finding, COURSE_NEAR)]
    first = max(note.sentence_of(finding).first, finding.first - COURSE_NEAR)
    stated = None if LEAVING_OPEN & set(after) else next(iter(_courses(after)), None)
    if stated is None and CONTINUING & set(texts_of(note.words, first, finding.first)):
        stated = "lasting"
    if stated is None:
        return None
    told = [(course, other.turn) for other in said for course in _told(other, index)]
    opposed = [turn for course, turn in told if course in OPPOSED[stated]]
    return opposed[0] if opposed and len(opposed) == len(told) else None


def _courses(texts: Iterable[str]) -> list[Course]:
    return [course for text in texts for course, words in COURSES.items() if text in words]


def _told(finding: Finding, index: FindingIndex) -> list[Course]:
    """What a sentence of the dialogue, with the answer to it, says of a finding's course."""
    sentence, texts = index.scan.sentence_of(finding), _sentence(index, finding)
    asked = _courses(texts)
    if not sentence.asks and finding.reply is None:
        return [] if (LEAVING_OPEN | NEGATIONS) & set(texts) else asked
    if sentence.turn + 1 >= len(index.turns) or asks_openly(index.scan.words, sentence):
        return []
    first, last = index.scan.turns[sentence.turn + 1]
    told = _courses(texts_of(index.scan.words, first, index.scan.sentences_of[sentence.turn + 1][0].last))
    reply = read_reply(index.scan.words, first, last)[0]
    if told or reply not in ("yes", "no"):
        return told
    return asked if reply == "yes" else [OVER[course] for course in asked]


def other_result(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> bool:
    """Whether the dialogue gives a note's test only the other result."""
    sentence = note.sentence_of(finding)
    before = texts_of(note.words, max(sentence.first, finding.first - RESULT_BEFORE), finding.first)
    after = [word.text for word in note.after(finding, RESULT_AFTER)]
    end = next((k for k, text in enumerate(after) if text in ENDS), len(after))
    stated = next(filter(None, map(_result, [*before, *after[:end]])), None)
    told = {result for other in said for result in _results(other, index)} if stated else set()
    return bool(told) and stated not in told


def _results(finding: Finding, index: FindingIndex) -> Iterable[Result]:
    """The results that a dialogue gives a test where it names it, and in the answer."""
    words, turn = index.scan.words, finding.turn
    own = [s for s in index.scan.sentences_of[turn] if s.last > finding.first]
    for k, sentence in enumerate([*own[:2], *index.scan.sentences_of.get(turn + 1, [])[:2]]):
        told = k == 0 or words[sentence.first].text in TOLD
        for i in range(max(sentence.first, finding.first - RESULT_BEFORE), sentence.last):
            result = _result(words[i].text) if told or words[i].text not in PRAISE else None
            if result:
                denied = NEGATIONS & set(texts_of(words, max(i - 3, sentence.first), i))
                yield result if not denied else "bad" if result == "good" else "good"


def _result(text: str) -> Result | None:
    return next((result for result, words in RESULTS.items() if text in words), None)
