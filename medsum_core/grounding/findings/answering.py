"""Gives the findings of questions the assertion and the subject that the answer implies.

In order of precedence: an answer that names the finding itself; one that answers several questions in turn, names
another finding of the question, names relatives, or describes a symptom; else yes or no, as `replies` reads them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.corrections import REACH, is_correction
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings import replies
from medsum_core.grounding.findings.finding import ACTIONABLE, Assertion, Finding, FindingScan
from medsum_core.grounding.findings.kinship import join_relatives
from medsum_core.grounding.findings.relatives import PATIENT, possible_subjects
from medsum_core.grounding.findings.scope import Sentence, is_set_aside
from medsum_core.grounding.findings.stems import texts_of

ANSWER_REACH = 20  # words of an answer in which a relative can be the one who has the finding
END_WORDS = 3  # words at the end of a sentence
LAST_WORDS = 8  # words from the end of a turn, which may have no full stops
DENIABLE = ("symptom", "condition", "substance", "allergen")  # kinds that a bare "No" to a statement denies
SAME_ANSWER, SAME_REACH = word_set("has did too also"), 8  # words; "And her brother?" "He has it."
HAVE_VERBS = word_set("does do did has")
SHORT_SENTENCE = 6  # words of a sentence after a question
MOST_BETWEEN = 40  # sentences between a question and its answer


def with_answers(scan: FindingScan, turns: Sequence[Turn]) -> list[Finding]:
    """All findings in order; those of questions with the assertion that the answer implies ("asked" if none)."""
    dialogue = _Dialogue(scan, turns)
    found = []
    for finding, following in zip_longest(scan.findings, scan.findings[1:]):
        if following is not None and _is_corrected(scan, finding, following):
            found.append(replace(finding, assertion="denied", reply=None))
        else:
            found.append(dialogue.denied_by_no(finding) if finding.reply is None else dialogue.with_answer(finding))
    return found


def _is_corrected(scan: FindingScan, finding: Finding, following: Finding) -> bool:
    """Whether the next finding corrects this one: "Crestor, no, sorry, Lipitor"."""
    near = finding.kind == following.kind and finding.turn == following.turn and following.first - finding.last <= REACH
    return near and is_correction(texts_of(scan.words, finding.last, following.first))


def _outweighs(repeated: Finding, answer: str) -> bool:
    """Whether what an answer says of a finding by name outweighs its yes or no: "My back's okay. I had [chills]."."""
    own = repeated.kind in ("symptom", "condition") and repeated.subject == PATIENT
    return (answer, repeated.assertion) == ("yes", "denied") or (
        own and (answer, repeated.assertion) == ("no", "present")
    )


@dataclass(frozen=True)
class _Dialogue:
    """A dialogue whose questions are matched with their answers."""

    scan: FindingScan
    turns: Sequence[Turn]

    def denied_by_no(self, finding: Finding) -> Finding:
        """A finding that is denied if it ends a clinician's turn and "No" follows: "That, or headaches." "No."."""
        words, own, number = self.scan.words, self.scan.sentences_of[finding.turn], finding.turn + 1
        ends_turn = finding.first >= max(own[-1].first, own[-1].last - LAST_WORDS) and not any(s.asks for s in own)
        asked = ends_turn and self.turns[finding.turn].is_clinician and finding.kind in DENIABLE
        if not asked or number >= len(self.turns) or self.turns[number].is_clinician:
            return finding
        first, end = self.scan.turns[number]
        denies = replies.opens_with_no(words, first, end) and replies.read_reply(words, first, end)[0] == "no"
        concludes = words[first : first + 1] and words[first].text == "so"  # "So no bread."
        return replace(finding, assertion="denied", reply=number) if denies and not concludes else finding

    def with_answer(self, finding: Finding) -> Finding:
        """The finding of a question with the assertion and the subject of the answer."""
        words, question = self.scan.words, self.scan.sentence_of(finding)
        span = self._answer_to(finding, question)
        if span is None:
            return replace(finding, assertion="asked", reply=None)
        first, last, reply = span
        if is_set_aside(words, question, finding.first):
            return replace(finding, assertion="present", reply=reply)
        first_turn, last_turn = self.scan.turns[reply]
        named = self.scan.between(max(first, first_turn), last_turn)
        answer, agrees = replies.read_reply(words, first, last)
        repeated = next((one for one in named if one.reply is None and set(one.names) & set(finding.names)), None)
        if repeated and (answer in ("other", "unknown") or _outweighs(repeated, answer)):
            return replace(finding, assertion=repeated.assertion, subject=repeated.subject, reply=reply)
        asked = [one for one in self.scan.between(*self.scan.turns[finding.turn]) if one.reply is not None]
        answers = replies.read_each(words, first, last)
        if len(answers) > 1 and len(answers) == len(asked):
            answer = answers[asked.index(finding)]
        elif answer == "no" and self._names_other_finding(
            finding, question, [one for one in named if one.first <= first + 1]
        ):
            answer = "other"  # "Sweats, fevers?" "Fevers no."
        elif answer in ("yes", "other") and self._names_other_finding(finding, question, named):
            if replies.offers_alternatives(words, question) and not repeated:
                return replace(finding, assertion="denied", reply=reply)
            answer = "other"
        if answer == "no" and replies.asks_if_still(words, question):
            return replace(finding, assertion="past_or_stopped", reply=reply)
        kin = self._kin_in_answer(reply, first)
        if answer == "other" and replies.is_plain_statement(words, first, last):
            opening = texts_of(words, first, first + SAME_REACH)
            answer = "yes" if self._affirms(finding, question, named, opening, kin) else answer
        assertion = self._from_reply(finding, question, answer, agrees=agrees)
        begins = bool(kin) and kin[0][0] <= first + 3 and self._answers_for_relative(question, kin[0][0])
        for_relative = replies.asks_of_family(words, question) or (answer == "other" and begins)
        if kin and for_relative and answer in ("yes", "other") and assertion in ("present", "asked"):
            return replace(finding, assertion="present", subject=join_relatives(kin), reply=reply)
        return replace(finding, assertion=assertion, reply=reply)

    def _answer_to(self, finding: Finding, question: Sentence) -> tuple[int, int, int] | None:
        """The words `[first, last)` of the answer to a question, and its turn; None if other sentences come between."""
        number, sentences, bounds = finding.turn, self.scan.sentences_of, self.scan.turns
        begin = bisect_right(sentences[number], question.first, key=lambda sentence: sentence.first)
        later = sentences[number][begin : begin + MOST_BETWEEN + 1]
        if len(later) > MOST_BETWEEN or any(replies.is_full_question(self.scan.words, s) for s in later):
            return None
        if later and not self.turns[number].speaker and not later[0].asks:
            return later[0].first, bounds[number][1], number
        if number + 1 >= len(bounds) or not all(s.asks or s.last - s.first <= SHORT_SENTENCE for s in later):
            return None
        if not self._asks_back(number + 1):
            return *bounds[number + 1], number + 1
        first, last = bounds[number + 3]  # "Oh, I get you. No, never."
        return (
            next(
                (s.first for s in sentences[number + 3] if self.scan.words[s.first].text in replies.BARE_ANSWERS), first
            ),
            last,
            number + 3,
        )

    def _asks_back(self, number: int) -> bool:
        """Whether a patient's turn asks for clarification, which the next turn gives: "What type of reaction?"."""
        own, turns = self.scan.sentences_of.get(number), self.turns
        explained = number + 2 < len(turns) and not any(s.asks for s in self.scan.sentences_of.get(number + 1, ()))
        return (
            own is not None
            and own[0].asks
            and explained
            and not turns[number].is_clinician
            and turns[number + 1].is_clinician
        )

    def _kin_in_answer(self, turn: int, first: int) -> list[tuple[int, str]]:
        """The relatives at the beginning of an answer who may have the finding asked about."""
        words, found = self.scan.words, []
        for sentence in self.scan.sentences_of.get(turn, ()):
            kin = self.scan.kin_between(max(first, sentence.first), min(first + ANSWER_REACH, sentence.last))
            if kin and not replies.says_all_is_well(words, sentence.last - END_WORDS, sentence.last):
                found += possible_subjects(words, sentence, kin)
        return found

    def _answers_for_relative(self, question: Sentence, i: int) -> bool:
        """Whether an answer that begins with the relative at word i is about him: "Any asthma?" "Mom does."."""
        words = self.scan.words
        after = words[i + 1].text if i + 1 < len(words) else ""
        return not replies.asks_openly(words, question) and (
            after in HAVE_VERBS or not replies.asks_of_patient(words, question)
        )

    def _affirms(
        self,
        finding: Finding,
        question: Sentence,
        named: Sequence[Finding],
        opening: Sequence[str],
        kin: Sequence[tuple[int, str]],
    ) -> bool:
        """Whether a plain statement implies yes: for a symptom, unless it names another one ("Just heartburn.")."""
        if finding.elided:
            return not SAME_ANSWER.isdisjoint(opening)
        is_present_symptom = finding.kind == "symptom" and finding.assertion != "denied" and not kin
        return (
            is_present_symptom
            and all(one.kind != "symptom" for one in named)
            and not replies.asks_openly(self.scan.words, question)
        )

    def _names_other_finding(self, finding: Finding, question: Sentence, named: Sequence[Finding]) -> bool:
        """Whether the answer names another finding of the question: "Any fever or chills?" "Yes, chills."."""
        asked = [other for other in self.scan.between(question.first, question.last) if other is not finding]
        answered = {name for other in named for name in other.names}
        return any(answered & set(other.names) for other in asked)

    def _from_reply(self, finding: Finding, question: Sentence, answer: str, *, agrees: bool) -> Assertion:
        words, negated = self.scan.words, finding.assertion == "denied"
        openly = replies.asks_openly(words, question)
        if answer == "yes" and not openly:
            return "denied" if negated and agrees else "present"
        actionable = finding.kind in ACTIONABLE
        presupposed = replies.presupposes(words, question, finding.first, phrase=finding.phrase, actionable=actionable)
        if answer == "no" and (negated or not (presupposed or openly or replies.offers_alternatives(words, question))):
            return "denied"
        return "asked"
