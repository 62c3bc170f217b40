"""Compares the actions on a drug, a test or a habit in note and dialogue: started or stopped, done or only planned.

A note is contradicted if the dialogue has only opposite actions: "continue lisinopril" against "stop it".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.actions import COMPATIBLE, OPPOSITE, REVERSED, Action, actions_in, is_action
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import (
    asks_openly,
    is_question,
    opens_with_no,
    read_reply,
    says_all_is_well,
)
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

CHANGED = ("medication", "substance", "procedure")
POSSIBLE_ACTIONS: Mapping[str, tuple[Action, ...]] = {  # the actions that each kind can have
    "medication": ("changed", "taper", "start", "stop", "keep", "use", "up", "down", "same", "plan", "declined"),
    "substance": ("taper", "start", "stop", "keep", "use", "down", "declined"),
    "procedure": ("done", "plan", "declined", "keep", "stop", "use"),
}
NOTE_ACTIONS: Mapping[str, tuple[Action, ...]] = {
    "medication": POSSIBLE_ACTIONS["medication"],
    "substance": ("stop",),
    "procedure": ("done", "plan", "declined", "stop"),
}  # fmt: skip
# A note with one of these is contradicted if the dialogue does not mention the action.
ALWAYS_STATED: tuple[Action, ...] = ("stop", "up", "down", "taper")
# Word pairs of a sentence about an earlier action.
EARLIER_TIMES = (("last", "time"), ("last", "visit"), ("last", "month"), ("last", "year"), ("back", "then"))
ANAPHORA = word_set("it that them those both one this some any")
OFFER_WORDS = word_set(
    "would could should shall want like maybe might suggest recommend offer consider how what let's i'd"
)
USE_WORDS = word_set("take takes taking use uses using on still smoke smoking drink drinking")
DOSE_WORDS = word_set("mg mcg daily nightly bedtime twice once weekly morning puffs units prn needed")
ADVICE_WORDS = word_set(
    "help helps wants want like try trying tried advised counseled encouraged discussed attempt attempts"
)
DELIBERATION = word_set("consider considered considering reconsidered possible possibly")
PERFORMED_VERBS = word_set(
    "excised biopsied sutured stapled lanced drained transfused intubated amputated cauterized debrided resected "
    "stented ablated vaccinated immunized splinted casted"
)
WISH_WORDS = word_set("like likes wants requests requesting")
GENERIC = frozenset(("medication", "referral"))  # they do not end the context of a mention: "refer you for that"
LIST_WORDS, CLAUSE_BOUNDARIES = word_set(", and or the a my your plus"), word_set(", and but then so or while ;")
LATER_TURNS, FRAGMENT_TURNS = 4, 2  # turns after a mention with "it", or with a short sentence, that can be about it
LATER_SENTENCES = 8  # sentences after a mention that can be about it
FRAGMENT = 7  # most words of a sentence that can be about an earlier mention without "it"
ANSWER_WORDS = 15  # words of an answer
AUXILIARIES = word_set("will be been to")  # "[simvastatin will be continued]"
SPAN_REACH = 8  # words around a finding in which the word of its action is highlighted with it
WORDS_BEFORE, WORDS_AFTER = 6, 8  # words around a finding in a note that are searched for its action


class NoteAction(NamedTuple):
    """The action on a finding in a note, and `further` ones after it: "offered and [declined]"."""

    action: Action
    further: tuple[Action, ...]


def action_in_note(finding: Finding, note: FindingScan) -> NoteAction | None:
    """The action on a finding in a note; None if there is none, or if it belongs to a nearer finding."""
    words, first, last, kind = note.words, finding.first, finding.last, finding.kind
    begin, end, stops = _action_window(finding, note)
    if (ADVICE_WORDS if kind == "substance" else WISH_WORDS) & set(texts_of(words, begin, first)):
        return None
    before = _possible_in_note(finding, _outside_findings(note, begin, first))
    rest = _possible_in_note(finding, _outside_findings(note, last, end))
    clause = next((i for i in range(last, end) if words[i].text in (",", ";", "and", "but")), end) - last
    after = [action for i, action in rest if i < clause]
    further = () if after and after[0] not in ("plan", "stop") else tuple(action for i, action in rest if i >= clause)
    if any(action == "stop" for _, action in _possible_in_note(finding, texts_of(words, end, stops))):
        further += ("stop",)  # "was put on it, and when her pulse was fifty it was stopped"
    if after[:1] == ["plan"] and len(after) > 1 and kind == "medication":
        after = after[1:]  # "to be increased"
    nearest = before[-1][1] if before else after[0] if after else None
    if finding.assertion == "past_or_stopped" and nearest in (None, "use"):
        return None  # "formerly on warfarin"
    if nearest in ("use", "plan") and not DELIBERATION.isdisjoint(texts_of(words, last, end)):
        return None  # "to be considered later"
    if after and after[0] not in ("use", "plan"):
        return NoteAction(after[0], further)
    if nearest is not None:
        return NoteAction(nearest, further)
    if words[first].text in PERFORMED_VERBS:
        return NoteAction("done", ())
    dosed = kind == "medication" and finding.assertion == "present" and not finding.allergy
    return NoteAction("use", ()) if dosed and DOSE_WORDS & set(texts_of(words, last, end)) else None


def _action_window(finding: Finding, note: FindingScan) -> tuple[int, int, int]:
    """The words `[begin, end)` of a note that can hold a finding's action, and the start of the next drug or test.

    The window begins after the previous one, unless both are in a list: "stop [metformin] and [glipizide]".
    """
    words, sentence, first, last = note.words, note.sentence_of(finding), finding.first, finding.last
    named = note.between(sentence.first, sentence.last)
    others = [o for o in named if o.kind in CHANGED and o.first != first and not ROOTS.issuperset(o.names)]
    earlier = [o.last for o in others if o.last <= first]
    before = [last for last in earlier if not {",", "and", "or"}.issuperset(texts_of(words, last, first))]
    begin = max([sentence.first, first - WORDS_BEFORE, *before])
    breaks = (";", ":", ",", "and", "but") if before and begin == max(before) else (";", ":")
    marks = (i for i in range(first - 1, begin - 1, -1) if words[i].text in breaks)
    begin = next((i + 1 for i in marks), begin)
    stops = next((o.first for o in others if o.first >= last), sentence.last)
    end = min(last + WORDS_AFTER, stops)
    return begin, next((i for i in range(last, end) if words[i].text == ";"), end), stops


def _outside_findings(note: FindingScan, first: int, last: int) -> list[str]:
    """The words `[first, last)` of a note, "" for those of symptoms and conditions: "causes [increased thirst]"."""
    inside = {i for o in note.between(first, last) if o.kind not in CHANGED for i in range(o.first, o.last)}
    return ["" if i in inside else note.words[i].text for i in range(first, last)]


def _possible_in_note(finding: Finding, texts: Sequence[str]) -> list[tuple[int, Action]]:
    return [pair for pair in actions_in(texts, spoken=False) if pair[1] in NOTE_ACTIONS[finding.kind]]


def evidence_for(finding: Finding, index: FindingIndex) -> list[Finding]:
    """The dialogue's mentions of a note's finding or, if none, those of broader concepts."""
    return index.named(finding.names) or index.exact(index.broader(finding.names))


def actions_in_dialogue(finding: Finding, index: FindingIndex) -> list[Action]:
    """The actions on a finding in a dialogue: in the sentences that name it, in answers, in later ones with "it"."""
    return index.cached(("actions", finding.kind, finding.names), lambda: _dialogue_actions(finding, index))


def _dialogue_actions(finding: Finding, index: FindingIndex) -> list[Action]:
    kind = finding.kind
    evidence = evidence_for(finding, index)
    positions = [(other.first, index.scan.sentence_of(other)) for other in evidence] or index.sentences_with(
        finding.names
    )
    names = {name for other in evidence for name in other.names} or set(finding.names)
    others = {o.first for o in index.scan.findings if o.kind == kind and not GENERIC.issuperset(o.names)}
    named = sorted(others | {first for first, _ in positions})
    other_sentences = {index.scan.sentence_of(o).first for o in index.scan.findings if _is_other(o, names, index)}
    found: list[Action] = []
    for first, own in positions:
        if kind == "procedure" or not _is_earlier(index, own):
            found += _actions_of_mention(first, own, named, other_sentences - {own.first}, index)
    if kind == "procedure":  # "leave it alone" of a procedure means not to do it
        found = ["declined" if action == "same" else action for action in found]
    found = [action for action in found if action in POSSIBLE_ACTIONS[kind]]
    not_planned: list[Action] = [action for action in found if action != "plan"]
    return not_planned if not_planned and kind == "medication" else found


def _is_other(finding: Finding, names: Set[str], index: FindingIndex) -> bool:
    """Whether a finding is another drug, test or habit; a "cardiologist" is not, only who did it."""
    is_performer = any("referral" in index.lexicon.ancestors[name] for name in finding.names)
    other = names.isdisjoint(finding.names) and not ROOTS.issuperset(finding.names)
    return finding.kind in CHANGED and other and not is_performer


def _actions_of_mention(
    first: int, own: Sentence, named: Sequence[int], other_sentences: Set[int], index: FindingIndex
) -> list[Action]:
    """The actions on a mention at word `first`.

    `named`: the first words of all mentions of its kind; `other_sentences`: those of sentences about other findings.
    """
    words = index.scan.words
    k = bisect_left(named, first)
    before = max(own.first, named[k - 1] + 1 if k else 0)
    after = min([own.last, *named[k + 1 : k + 2]])
    if words[first - 1].text == "except":
        return ["stop"]  # "Go on with all of them except [it]."
    asks = _asks(own, index)
    further = actions_in(texts_of(words, first + 1, after), spoken=True) if after < own.last else []
    begin, end = _clause(words, own, before, first, after)
    texts = texts_of(words, begin, end)
    found = [action for _, action in actions_in(texts, spoken=True)]
    if "never" in texts and "declined" in found and not asks:
        return ["declined"]  # "they gave me the pills and I never filled them"
    if any(action == "switch" for _, action in further):
        found.append("stop")  # "the Cipro isn't working, so I'm changing you to Macrobid"
    reach = next((i for i in named[k + 1 :] if i >= own.last), len(words))
    later = _later_sentences(own, reach, index)
    answer = _answer(own, later, index)
    if answer is not None:
        found = _with_answer(found, own, texts, answer, index, asks=asks)
    elif asks:
        found = []
    if reach < len(words) and index.scan.sentence_at(reach).turn <= own.turn + LATER_TURNS:
        to_next = texts_of(words, index.scan.sentence_at(reach).first, reach)
        if any(action == "switch" for _, action in actions_in(to_next, spoken=True)):
            found.append("stop")  # "We'll change you to losartan, then."
    for sentence in (s for s in later if s.first not in other_sentences):
        answers = asks and answer is not None and sentence.first == answer[0]
        found += _later_actions(sentence, index, is_near=sentence.turn <= own.turn + FRAGMENT_TURNS, answers=answers)
    return found


def _clause(words: Sequence[Word], own: Sentence, before: int, first: int, after: int) -> tuple[int, int]:
    """The words of a sentence that belong to the mention at word `first`, if it has others of the kind.

    The previous mention ends before word `before`, the next begins at `after`: "Cut the one in half [and come off the
    other]". An action on a list is one on each item.
    """
    begin, end = before, after
    if before > own.first and LIST_WORDS.issuperset(texts_of(words, before, first)):
        begin = own.first
    elif before > own.first:
        begin = next((i for i in range(first - 1, before - 1, -1) if words[i].text in CLAUSE_BOUNDARIES), before)
    if after < own.last and not LIST_WORDS.issuperset(texts_of(words, first + 1, after)):
        end = next((i for i in range(after - 1, first, -1) if words[i].text in CLAUSE_BOUNDARIES), after)
    return begin, end


def _asks(sentence: Sentence, index: FindingIndex) -> bool:
    return is_question(index.scan.words, sentence, is_clinician=index.turns[sentence.turn].is_clinician)


def _later_actions(sentence: Sentence, index: FindingIndex, *, is_near: bool, answers: bool) -> list[Action]:
    """The actions of a later sentence, if it has "it" or the like, is short and near, or is the answer."""
    words = index.scan.words
    texts = texts_of(words, sentence.first, sentence.last)
    found = [
        action for _, action in actions_in(texts, spoken=True) if is_near or action not in ("declined", "done", "use")
    ]
    implied = is_near and not {"up", "down"}.isdisjoint(found)  # a dose: "We could bring you down to fifty."
    if not (answers or implied or (is_near and len(texts) <= FRAGMENT) or ANAPHORA & set(texts)):
        return []
    if sentence.asks and not asks_openly(words, sentence):
        return []  # but "When did you stop?"
    return ["stop" if action == "switch" else action for action in found]  # "They switched me."


def _later_sentences(own: Sentence, reach: int, index: FindingIndex) -> list[Sentence]:
    """The sentences after one, before word `reach`, that may still be about what it names."""
    later = [s for s in index.scan.sentences_of[own.turn] if s.first > own.first]
    for turn in range(own.turn + 1, own.turn + 1 + LATER_TURNS):
        later += index.scan.sentences_of.get(turn, ())
    other = next((s.first for s in later if _names_the_other(texts_of(index.scan.words, s.first, s.last))), reach)
    return [s for s in later if s.last <= reach and s.first < other][:LATER_SENTENCES]


def _names_the_other(texts: Sequence[str]) -> bool:
    """Whether a sentence turns to another drug or test without its name: "What does [the other one] do?"."""
    return any(texts[i : i + 3] == ["the", "other", "one"] for i in range(len(texts)))


def _answer(own: Sentence, after: Sequence[Sentence], index: FindingIndex) -> tuple[int, int] | None:
    """The words `[first, last)` of the turn that answers a sentence; None if none does."""
    number = own.turn + 1
    is_last = not any(s.turn == own.turn and s.last - s.first > FRAGMENT for s in after)
    if not is_last or number >= len(index.turns):
        return None
    asks_back = _asks(own, index) and not index.turns[own.turn].is_clinician and index.turns[number].is_clinician
    answers = index.turns[own.turn].is_clinician and not index.turns[number].is_clinician
    return index.scan.turns[number] if answers or asks_back else None


def _with_answer(
    found: list[Action],
    own: Sentence,
    texts: Sequence[str],
    answer: tuple[int, int],
    index: FindingIndex,
    *,
    asks: bool,
) -> list[Action]:
    """The actions of a sentence, resolved by its answer: an offer accepted or refused, a use denied."""
    words = index.scan.words
    reply = read_reply(words, *answer)[0]
    replied = texts_of(words, answer[0], min(answer[1], answer[0] + ANSWER_WORDS))
    refused = opens_with_no(words, *answer) or (reply == "no" and not says_all_is_well(words, *answer))
    answered = [action for _, action in actions_in(replied, spoken=True)]
    asked = set(texts)
    offered = bool(OFFER_WORDS & asked) or (not asks and not {"start", "plan"}.isdisjoint(found))
    if replied[:2] == ["not", "yet"]:
        return ["plan", "declined"]
    if not asks:
        return ["declined"] if offered and "declined" in answered else found
    if offered and not USE_WORDS & asked:
        return ["declined"] if refused or "declined" in answered else ["plan", "start"] if reply == "yes" else []
    if "plan" in answered or "declined" in answered or asks_openly(words, own):
        return []
    if USE_WORDS & asked and reply in ("yes", "no"):
        once = reply == "no" and "again" in asked  # "Did you take it again?"
        return [] if once else ["use" if reply == "yes" else "stop"]
    if refused:
        return [REVERSED.get(action, action) for action in found]
    return [action for action in found if action not in ("use", "keep")]


def agrees(note: NoteAction, stated: Sequence[Action]) -> bool:
    """Whether one of the dialogue's actions `stated` supports the note's."""
    return any(not COMPATIBLE[action].isdisjoint(stated) for action in (note.action, *note.further))


def is_opposed(note: NoteAction, stated: Sequence[Action], *, once: bool, must_be_stated: bool) -> bool:
    """Whether the dialogue's actions `stated` contradict the note's: all are opposite, or a required one is missing.

    `once`: an operation, which is no longer planned once done. `must_be_stated`: one of `ALWAYS_STATED` is contradicted
    if the dialogue does not mention it.
    """
    if once and note.action == "plan" and "done" in stated and {"done", "stop", "use"}.issuperset(stated):
        return True
    if note.action == "plan" and {"done", "declined"} == set(stated):
        return True  # "You had the echo last month, so you don't need another."
    if agrees(note, stated):
        return False
    if note.action == "done" and "plan" in stated:
        stated = [action for action in stated if action != "use"]  # "I'd like to take that mole off"
    return (must_be_stated and note.action in ALWAYS_STATED) or (
        bool(stated) and OPPOSITE[note.action].issuperset(stated)
    )


def is_open(evidence: Sequence[Finding], action: Action, actions: Sequence[Action], index: FindingIndex) -> bool:
    """Whether the dialogue leaves the present action open: the finding is past, or only an earlier action is stated."""
    over = action == "stop" and any(other.assertion == "past_or_stopped" for other in evidence)
    return over or (not actions and any(_is_earlier(index, index.scan.sentence_of(other)) for other in evidence))


def _is_earlier(index: FindingIndex, sentence: Sentence) -> bool:
    """Whether a sentence is about an earlier action: "[Last time] I doubled it."."""
    return any(pair in EARLIER_TIMES for pair in pairwise(texts_of(index.scan.words, sentence.first, sentence.last)))


def span_with_action(finding: Finding, note: FindingScan) -> tuple[int, int]:
    """The characters of a finding and the word of its action: "[continue lisinopril]"."""
    near = range(max(finding.first - SPAN_REACH, 0), min(finding.last + SPAN_REACH, len(note.words)))
    places = [i for i in near if is_action(note.words[i].text)]
    if not places:
        return finding.start, finding.end
    first = min(places, key=lambda i: min(abs(i - finding.first), abs(i - finding.last)))
    last = next((i for i in range(first, len(note.words)) if note.words[i].text not in AUXILIARIES), first)
    return min(finding.start, note.words[first].start), max(finding.end, note.words[last].end)
