"""What the answer to a question says of the findings in it: of whom, present or denied.

An answer that names the finding itself decides; else one that answers several questions in turn, repeats another
finding of the question, names relatives, or tells of a symptom; else yes and no, as `replies` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from medsum_core.data.turns import Turn
from medsum_core.grounding.facts.corrections import REACH, is_correction
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings import replies
from medsum_core.grounding.findings.finding import ACTIONABLE, Assertion, Finding, FindingScan
from medsum_core.grounding.findings.kinship import holders
from medsum_core.grounding.findings.relatives import bearers
from medsum_core.grounding.findings.scope import Sentence, besides
from medsum_core.grounding.findings.stems import texts_of

ANSWER_REACH = 20  # words of an answer in which relatives have what was asked for
FINE_REACH = 3  # words at the end of a sentence
REFUSED_REACH = 8  # words from the end of a turn, which may have no full stops
REFUSED = ("symptom", "condition", "substance", "allergen")
SAME, SAME_REACH = bag("has did too also"), 8  # "And her brother?" "He has it."
HAVE_IT = bag("does do did has")
SHORT = 6  # words of a sentence after a question


def with_answers(scan: FindingScan, turns: Sequence[Turn]) -> list[Finding]:
    """The findings, those of questions with the assertion that the answer gives them."""
    talk = _Talk(scan, turns)
    found = []
    for finding, further in zip_longest(scan.findings, scan.findings[1:]):
        if further is not None and _is_taken_back(scan, finding, further):
            found.append(replace(finding, assertion="denied", reply=None))
        else:
            found.append(talk.refused(finding) if finding.reply is None else talk.replied(finding))
    return found


def _is_taken_back(scan: FindingScan, finding: Finding, further: Finding) -> bool:
    """Whether the next finding corrects this one: "Crestor, no, sorry, Lipitor"."""
    near = finding.kind == further.kind and finding.turn == further.turn and further.first - finding.last <= REACH
    return near and is_correction(texts_of(scan.words, finding.last, further.first))


@dataclass(frozen=True)
class _Talk:
    """A dialogue whose questions are answered."""

    scan: FindingScan
    turns: Sequence[Turn]

    def refused(self, finding: Finding) -> Finding:
        """A finding that a clinician's last sentence states and "No" denies: "That, or headaches." "No."."""
        words, own, number = self.scan.words, self.scan.sentences_of[finding.turn], finding.turn + 1
        ends = finding.first >= max(own[-1].first, own[-1].last - REFUSED_REACH) and not any(s.asks for s in own)
        asked = ends and self.turns[finding.turn].is_clinician and finding.kind in REFUSED
        if not asked or number >= len(self.turns) or self.turns[number].is_clinician:
            return finding
        first, end = self.scan.turns[number]
        refused = replies.opens_with_no(words, first, end) and replies.read_reply(words, first, end)[0] == "no"
        concludes = words[first : first + 1] and words[first].text == "so"  # "So no bread."
        return replace(finding, assertion="denied", reply=number) if refused and not concludes else finding

    def replied(self, finding: Finding) -> Finding:
        """A finding of a question with what the answer says of it."""
        words, here = self.scan.words, self.scan.sentence_of(finding)
        place = self._answer_to(finding, here)
        if place is None:
            return replace(finding, assertion="asked", reply=None)
        first, last, reply = place
        if besides(words, here, finding.first):
            return replace(finding, assertion="present", reply=reply)
        first_turn, last_turn = self.scan.turns[reply]
        named = self.scan.between(max(first, first_turn), last_turn)
        answer, agrees = replies.read_reply(words, first, last)
        same = next((one for one in named if one.reply is None and set(one.names) & set(finding.names)), None)
        if same and (answer in ("other", "unknown") or (answer == "yes" and same.assertion == "denied")):
            return replace(finding, assertion=same.assertion, subject=same.subject, reply=reply)
        asked = [one for one in self.scan.between(*self.scan.turns[finding.turn]) if one.reply is not None]
        each = replies.read_each(words, first, last)
        if len(each) > 1 and len(each) == len(asked):
            answer = each[asked.index(finding)]
        elif answer == "no" and self._names_another(finding, here, [one for one in named if one.first <= first + 1]):
            answer = "other"  # "Sweats, fevers?" "Fevers no."
        elif answer in ("yes", "other") and self._names_another(finding, here, named):
            if replies.offers(words, here) and not same:
                return replace(finding, assertion="denied", reply=reply)
            answer = "other"
        if answer == "no" and replies.asks_if_still(words, here):
            return replace(finding, assertion="past_or_stopped", reply=reply)
        kin = self._answering_kin(reply, first)
        if answer == "other" and replies.tells(words, first, last):
            opening = texts_of(words, first, first + SAME_REACH)
            answer = "yes" if self._is_told(finding, here, named, opening, kin) else answer
        assertion = self._from_reply(finding, here, answer, agrees=agrees)
        begins = bool(kin) and kin[0][0] <= first + 3 and self._is_of_kin(here, kin[0][0])
        of_kin = replies.asks_of_family(words, here) or (answer == "other" and begins)
        if kin and of_kin and answer in ("yes", "other") and assertion in ("present", "asked"):
            return replace(finding, assertion="present", subject=holders(kin), reply=reply)
        return replace(finding, assertion=assertion, reply=reply)

    def _answer_to(self, finding: Finding, here: Sentence) -> tuple[int, int, int] | None:
        """The words of the answer to a question and its turn; None where other sentences come between them."""
        number, sentences, bounds = finding.turn, self.scan.sentences_of, self.scan.turns
        later = [s for s in sentences[number] if s.first > here.first]
        if any(replies.is_full_question(self.scan.words, s) for s in later):
            return None
        if later and not self.turns[number].speaker and not later[0].asks:
            return later[0].first, bounds[number][1], number
        if number + 1 >= len(bounds) or not all(s.asks or s.last - s.first <= SHORT for s in later):
            return None
        if not self._asks_back(number + 1):
            return *bounds[number + 1], number + 1
        first, last = bounds[number + 3]  # "Oh, I get you. No, never."
        return (
            next((s.first for s in sentences[number + 3] if self.scan.words[s.first].text in replies.BARE), first),
            last,
            number + 3,
        )

    def _asks_back(self, number: int) -> bool:
        """Whether a turn asks what the question means, which the next explains: "What type of reaction?"."""
        own, turns = self.scan.sentences_of.get(number), self.turns
        explained = number + 2 < len(turns) and not any(s.asks for s in self.scan.sentences_of.get(number + 1, ()))
        return (
            own is not None
            and own[0].asks
            and explained
            and not turns[number].is_clinician
            and turns[number + 1].is_clinician
        )

    def _answering_kin(self, turn: int, first: int) -> list[tuple[int, str]]:
        """The relatives at the beginning of an answer who may have what was asked for."""
        words, found = self.scan.words, []
        for sentence in self.scan.sentences_of.get(turn, ()):
            kin = self.scan.kin_between(max(first, sentence.first), min(first + ANSWER_REACH, sentence.last))
            if kin and not replies.says_well(words, sentence.last - FINE_REACH, sentence.last):
                found += bearers(words, sentence, kin)
        return found

    def _is_of_kin(self, question: Sentence, i: int) -> bool:
        """Whether an answer that begins with the relative at word i is of him: "Do they have it?" "Mom does."."""
        words = self.scan.words
        after = words[i + 1].text if i + 1 < len(words) else ""
        return not replies.asks_openly(words, question) and (
            after in HAVE_IT or not replies.turns_to_patient(words, question)
        )

    def _is_told(
        self,
        finding: Finding,
        question: Sentence,
        named: Sequence[Finding],
        opening: Sequence[str],
        kin: Sequence[tuple[int, str]],
    ) -> bool:
        """Whether an answer that only tells affirms: of a symptom, unless it names another one ("Just heartburn.")."""
        if finding.elided:
            return not SAME.isdisjoint(opening)
        symptom = finding.kind == "symptom" and finding.assertion != "denied" and not kin
        return (
            symptom
            and all(one.kind != "symptom" for one in named)
            and not replies.asks_openly(self.scan.words, question)
        )

    def _names_another(self, finding: Finding, question: Sentence, named: Sequence[Finding]) -> bool:
        """Whether the answer repeats another finding of the question: "Any fever or chills?" "Yes, chills."."""
        asked = [other for other in self.scan.between(question.first, question.last) if other is not finding]
        said = {name for other in named for name in other.names}
        return any(said & set(other.names) for other in asked)

    def _from_reply(self, finding: Finding, question: Sentence, answer: str, *, agrees: bool) -> Assertion:
        words, negated = self.scan.words, finding.assertion == "denied"
        openly = replies.asks_openly(words, question)
        if answer == "yes" and not openly:
            return "denied" if negated and agrees else "present"
        acted = finding.kind in ACTIONABLE
        granted = replies.presupposes(words, question, finding.first, phrase=finding.phrase, acted=acted)
        if answer == "no" and (negated or not (granted or openly or replies.offers(words, question))):
            return "denied"
        return "asked"
