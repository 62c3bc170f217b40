"""Compares a finding's certainty and course, and a test's result, in note and dialogue.

Contradicted: "diagnosed with pneumonia" by "it could be pneumonia", "numbness has resolved" by "if anything it's
spread", "negative breath test" by "it came back positive". The note must have a word for the quality next to the
finding, and the dialogue only words for the opposite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import asks_openly, read_reply
from medsum_core.grounding.findings.scope import NEGATIONS
from medsum_core.grounding.findings.stems import texts_of

CERTAIN_WORDS = word_set("diagnosed diagnosis known confirmed definite proven established documented")
PROOF_WORDS = word_set("confirmed shows showed definitely proved proves positive came biopsy diagnosed")
CERTAINTY_BEFORE, CERTAINTY_AFTER = 4, 2  # words of a note before and after a finding

Course = Literal["gone", "better", "lasting", "worse"]
COURSE_WORDS: Mapping[Course, frozenset[str]] = {
    "gone": word_set("resolved gone subsided disappeared quit stopped vanished completely"),
    "better": word_set("better improved improving easing eased"),
    "lasting": word_set("persists persistent persisting persist ongoing unchanged still same constant constantly"),
    "worse": word_set("worse worsened worsening progressing spread spreading spreads"),
}
CONTRADICTING: Mapping[Course, frozenset[Course]] = {
    "gone": frozenset({"lasting", "worse"}),
    "better": frozenset({"worse"}),
    "lasting": frozenset({"gone"}),
    "worse": frozenset({"better", "gone"}),
}
# What "no" to a question about a course means.
NEGATED_COURSE: Mapping[Course, Course] = {"gone": "lasting", "lasting": "gone", "better": "worse", "worse": "better"}
# "Worse at night" is no course.
QUALIFIERS = word_set("when after with if at by during until sometimes usually night morning")
CONTINUING_WORDS = word_set("continues ongoing still persistent")  # before a finding: lasting
COURSE_REACH = 3  # words of a note before and after a finding

Result = Literal["normal", "abnormal"]
RESULT_WORDS: Mapping[Result, frozenset[str]] = {
    "abnormal": word_set("positive abnormal elevated high low reactive failed inconclusive detected"),
    "normal": word_set(
        "negative normal clear clean fine unremarkable perfect spotless flat okay ok good undetectable passed"
    ),
}
RESULT_AFTER = 4  # words of a note after a test
RESULT_BEFORE = 2  # words before it: "high [triglycerides]"
GENERAL_PRAISE = word_set("good okay ok fine clear perfect")  # "Sounds good." is no result
RESULT_SUBJECTS = word_set("it that they all everything both came results")
CLAUSE_ENDS = word_set(", ; but . ? ! and with")


def contradicting_certainty(
    finding: Finding, evidence: Sequence[Finding], note: FindingScan, index: FindingIndex
) -> int | None:
    """The turn that is uncertain of a diagnosis certain in the note, or the reverse; None if there is none."""
    if finding.kind != "condition" or not evidence:
        return None
    of_clinician = [other for other in evidence if index.turns[other.turn].is_clinician]
    if finding.assertion == "present" and CERTAIN_WORDS & _around(note, finding):
        sources = of_clinician or evidence  # the clinician's statements outweigh the patient's
        return sources[0].turn if all(other.assertion == "uncertain" for other in sources) else None
    sources = [other for other in of_clinician if other.reply is None]
    if finding.assertion != "uncertain" or len(sources) < len(evidence):
        return None
    denied = all(other.assertion == "denied" for other in sources)
    proved = all(other.assertion == "present" and PROOF_WORDS & set(_sentence(index, other)) for other in sources)
    return sources[0].turn if denied or proved else None


def _around(note: FindingScan, finding: Finding) -> set[str]:
    first = max(note.sentence_of(finding).first, finding.first - CERTAINTY_BEFORE)
    return {word.text for word in (*note.words[first : finding.first], *note.after(finding, CERTAINTY_AFTER))}


def _sentence(index: FindingIndex, finding: Finding) -> list[str]:
    sentence = index.scan.sentence_of(finding)
    return texts_of(index.scan.words, sentence.first, sentence.last)


def contradicting_course(
    finding: Finding, evidence: Sequence[Finding], note: FindingScan, index: FindingIndex
) -> int | None:
    """The turn that states the opposite course of a note's symptom or habit; None unless every stated one is."""
    if finding.kind not in ("symptom", "substance") or finding.assertion == "denied":
        return None
    after = [word.text for word in note.after(finding, COURSE_REACH)]
    first = max(note.sentence_of(finding).first, finding.first - COURSE_REACH)
    stated = None if QUALIFIERS & set(after) else next(iter(_courses(after)), None)
    if stated is None and CONTINUING_WORDS & set(texts_of(note.words, first, finding.first)):
        stated = "lasting"
    if stated is None:
        return None
    courses = [(course, other.turn) for other in evidence for course in _stated_courses(other, index)]
    opposed = [turn for course, turn in courses if course in CONTRADICTING[stated]]
    return opposed[0] if opposed and len(opposed) == len(courses) else None


def _courses(texts: Iterable[str]) -> list[Course]:
    return [course for text in texts for course, words in COURSE_WORDS.items() if text in words]


def _stated_courses(finding: Finding, index: FindingIndex) -> list[Course]:
    """The courses of a finding that a sentence of the dialogue states, resolved by the answer to it."""
    sentence, texts = index.scan.sentence_of(finding), _sentence(index, finding)
    asked = _courses(texts)
    if not sentence.asks and finding.reply is None:
        return [] if (QUALIFIERS | NEGATIONS) & set(texts) else asked
    if sentence.turn + 1 >= len(index.turns) or asks_openly(index.scan.words, sentence):
        return []
    first, last = index.scan.turns[sentence.turn + 1]
    answered = _courses(texts_of(index.scan.words, first, index.scan.sentences_of[sentence.turn + 1][0].last))
    reply = read_reply(index.scan.words, first, last)[0]
    if answered or reply not in ("yes", "no"):
        return answered
    return asked if reply == "yes" else [NEGATED_COURSE[course] for course in asked]


def contradicting_result(finding: Finding, evidence: Sequence[Finding], note: FindingScan, index: FindingIndex) -> bool:
    """Whether the dialogue states only the opposite result of a note's test."""
    sentence = note.sentence_of(finding)
    before = texts_of(note.words, max(sentence.first, finding.first - RESULT_BEFORE), finding.first)
    after = [word.text for word in note.after(finding, RESULT_AFTER)]
    end = next((k for k, text in enumerate(after) if text in CLAUSE_ENDS), len(after))
    stated = next(filter(None, map(_result, [*before, *after[:end]])), None)
    results = {result for other in evidence for result in _stated_results(other, index)} if stated else set()
    return bool(results) and stated not in results


def _stated_results(finding: Finding, index: FindingIndex) -> Iterable[Result]:
    """The results of a test in the dialogue, where it is named and in the answer."""
    words, turn = index.scan.words, finding.turn
    own = [s for s in index.scan.sentences_of[turn] if s.last > finding.first]
    for k, sentence in enumerate([*own[:2], *index.scan.sentences_of.get(turn + 1, [])[:2]]):
        is_of_test = k == 0 or words[sentence.first].text in RESULT_SUBJECTS
        for i in range(max(sentence.first, finding.first - RESULT_BEFORE), sentence.last):
            result = _result(words[i].text) if is_of_test or words[i].text not in GENERAL_PRAISE else None
            if result:
                denied = NEGATIONS & set(texts_of(words, max(i - 3, sentence.first), i))
                yield result if not denied else "abnormal" if result == "normal" else "normal"


def _result(text: str) -> Result | None:
    return next((result for result, words in RESULT_WORDS.items() if text in words), None)
