"""What note and dialogue do with a drug, a test or a habit: started or stopped, done or only planned.

A note is contradicted where it does one thing and the dialogue only its opposite: "continue lisinopril", "stop it".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.actions import AGREE, OPPOSE, REVERSED, Action, actions_in, is_action
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import asks_openly, is_question, opens_with_no, read_reply
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

CHANGED = ("medication", "substance", "procedure")
SHARED: Mapping[str, tuple[Action, ...]] = {  # what can be done with each kind
    "medication": ("changed", "taper", "start", "stop", "keep", "use", "up", "down", "same", "plan", "declined"),
    "substance": ("taper", "start", "stop", "keep", "use", "down", "declined"),
    "procedure": ("done", "plan", "declined", "keep", "stop", "use"),
}
OF_NOTE: Mapping[str, tuple[Action, ...]] = {
    "medication": SHARED["medication"], "substance": ("stop",), "procedure": ("done", "plan", "declined", "stop"),
}  # fmt: skip
TOLD: tuple[Action, ...] = ("stop", "up", "down", "taper")  # nobody does these without a word
EARLIER = (("last", "time"), ("last", "visit"), ("last", "month"), ("last", "year"), ("back", "then"))
ANAPHORA = bag("it that them those both one this some any")
OFFERS = bag("would could should shall want like maybe might suggest recommend offer consider how what let's i'd")
ASKED_USE = bag("take takes taking use uses using on still smoke smoking drink drinking")
DOSED = bag("mg mcg daily nightly bedtime twice once weekly morning puffs units prn needed")
WISHED = bag("help helps wants want like try trying tried advised counseled encouraged discussed attempt attempts")
PERFORMED = bag(
    "excised biopsied sutured stapled lanced drained transfused intubated amputated cauterized debrided resected "
    "stented ablated vaccinated immunized splinted casted"
)
WANTED = bag("like likes wants requests requesting")
UNNAMED = frozenset(("medication", "referral"))  # "I'd like to refer you for that"
LISTING, JOINS = bag(", and or the a my your plus"), bag(", and but then so or while ;")
TURNS_AFTER, FRAGMENTS_AFTER = 4, 2
SENTENCES_AFTER = 8
FRAGMENT = 7  # words of a sentence that needs no "it" to be of what was named before
ANSWER = 15  # words of an answer
LEADING = bag("will be been to")  # "[simvastatin will be continued]"
SPAN_NEAR = 8  # words of a note around a name that may be named with it
BEFORE, AFTER = 6, 8  # words of a note around a name that are searched for what is done with it


class NoteAction(NamedTuple):
    """What a note does with a finding, and `further`: "offered and [declined]"."""

    action: Action
    further: tuple[Action, ...]


def action_in_note(finding: Finding, note: FindingScan) -> NoteAction | None:
    """What a note does with a finding; None if it says nothing, or of another one nearer."""
    words, first, last, kind = note.words, finding.first, finding.last, finding.kind
    begin, end, stops = _reach(finding, note)
    if (WISHED if kind == "substance" else WANTED) & set(texts_of(words, begin, first)):
        return None
    before = _of_kind(finding, _outside_findings(note, begin, first))
    rest = _of_kind(finding, _outside_findings(note, last, end))
    clause = next((i for i in range(last, end) if words[i].text in (",", ";", "and", "but")), end) - last
    after = [action for i, action in rest if i < clause]
    further = () if after and after[0] not in ("plan", "stop") else tuple(action for i, action in rest if i >= clause)
    if any(action == "stop" for _, action in _of_kind(finding, texts_of(words, end, stops))):
        further += ("stop",)  # "was put on it, and when her pulse was fifty it was stopped"
    if after[:1] == ["plan"] and len(after) > 1 and kind == "medication":
        after = after[1:]  # "to be increased"
    nearest = before[-1][1] if before else after[0] if after else None
    if finding.assertion == "past_or_stopped" and nearest in (None, "use"):
        return None  # "formerly on warfarin"
    if after and after[0] not in ("use", "plan"):
        return NoteAction(after[0], further)
    if nearest is not None:
        return NoteAction(nearest, further)
    if words[first].text in PERFORMED:
        return NoteAction("done", ())
    dosed = kind == "medication" and finding.assertion == "present" and not finding.allergy
    return NoteAction("use", ()) if dosed and DOSED & set(texts_of(words, last, end)) else None


def _reach(finding: Finding, note: FindingScan) -> tuple[int, int, int]:
    """The words `[begin, end)` of a note that can be of a finding, and where the next one that can be changed begins.

    It begins after the finding before, unless both are a list: "stop [metformin] and [glipizide]".
    """
    words, sentence, first, last = note.words, note.sentence_of(finding), finding.first, finding.last
    named = note.between(sentence.first, sentence.last)
    others = [o for o in named if o.kind in CHANGED and o.first != first and not ROOTS.issuperset(o.names)]
    earlier = [o.last for o in others if o.last <= first]
    before = [last for last in earlier if not {",", "and", "or"}.issuperset(texts_of(words, last, first))]
    begin = max([sentence.first, first - BEFORE, *before])
    breaks = (";", ":", ",", "and", "but") if before and begin == max(before) else (";", ":")
    marks = (i for i in range(first - 1, begin - 1, -1) if words[i].text in breaks)
    begin = next((i + 1 for i in marks if i + 1 < first or words[i].text in ";:"), begin)
    stops = next((o.first for o in others if o.first >= last), sentence.last)
    end = min(last + AFTER, stops)
    return begin, next((i for i in range(last, end) if words[i].text == ";"), end), stops


def _outside_findings(note: FindingScan, first: int, last: int) -> list[str]:
    """The words `[first, last)` of a note, those of symptoms and conditions left empty: "causes [increased thirst]"."""
    inside = {i for o in note.between(first, last) if o.kind not in CHANGED for i in range(o.first, o.last)}
    return ["" if i in inside else note.words[i].text for i in range(first, last)]


def _of_kind(finding: Finding, texts: Sequence[str]) -> list[tuple[int, Action]]:
    return [pair for pair in actions_in(texts, spoken=False) if pair[1] in OF_NOTE[finding.kind]]


def said_of(finding: Finding, index: FindingIndex) -> list[Finding]:
    """The findings of the dialogue that are a note's finding, or else the broader ones."""
    return index.named(finding.names) or index.exact(index.broader(finding.names))


def actions_in_talk(finding: Finding, index: FindingIndex) -> list[Action]:
    """What a dialogue does with a finding, where it is named, in the answers, and where "it" means it afterwards."""
    return index.cached(("actions", finding.kind, finding.names), lambda: _actions_in_talk(finding, index))


def _actions_in_talk(finding: Finding, index: FindingIndex) -> list[Action]:
    kind = finding.kind
    said = said_of(finding, index)
    places = [(other.first, index.scan.sentence_of(other)) for other in said] or index.sentences_with(finding.names)
    names = {name for other in said for name in other.names} or set(finding.names)
    others = {o.first for o in index.scan.findings if o.kind == kind and not UNNAMED.issuperset(o.names)}
    named = sorted(others | {first for first, _ in places})
    busy = {index.scan.sentence_of(o).first for o in index.scan.findings if _is_other(o, names, index)}
    found: list[Action] = []
    for first, own in places:
        if not _is_earlier(index, own):
            found += _of_mention(first, own, named, busy - {own.first}, index)
    if kind == "procedure":  # to leave alone what could be done is not to do it
        found = ["declined" if action == "same" else action for action in found]
    found = [action for action in found if action in SHARED[kind]]
    firm: list[Action] = [action for action in found if action != "plan"]
    return firm if firm and kind == "medication" else found


def _is_other(finding: Finding, names: Set[str], index: FindingIndex) -> bool:
    """Whether something else is named that can be started or done; a "cardiologist" only tells who did it."""
    told = any("referral" in index.lexicon.ancestors[name] for name in finding.names)
    other = names.isdisjoint(finding.names) and not ROOTS.issuperset(finding.names)
    return finding.kind in CHANGED and other and not told


def _of_mention(first: int, own: Sentence, named: Sequence[int], busy: Set[int], index: FindingIndex) -> list[Action]:
    """The actions of a name at word `first`; `named`: where all of the kind are; `busy`: sentences that name others."""
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
    later = _afterwards(own, reach, index)
    answer = _answer(own, later, index)
    if answer is not None:
        found = _answered(found, own, texts, answer, index, asks=asks)
    elif asks:
        found = []
    for sentence in (s for s in later if s.first not in busy):
        answers = asks and answer is not None and sentence.first == answer[0]
        found += _later(sentence, index, is_near=sentence.turn <= own.turn + FRAGMENTS_AFTER, answers=answers)
    return found


def _clause(words: Sequence[Word], own: Sentence, before: int, first: int, after: int) -> tuple[int, int]:
    """The words of a sentence that are of the name at word `first`, where others of its kind are named.

    The one before ends at word `before`, the next begins at `after`: "Cut the one in half [and come off the other]".
    What is said of a list is said of each of it.
    """
    begin, end = before, after
    if before > own.first and LISTING.issuperset(texts_of(words, before, first)):
        begin = own.first
    elif before > own.first:
        begin = next((i for i in range(first - 1, before - 1, -1) if words[i].text in JOINS), before)
    if after < own.last and not LISTING.issuperset(texts_of(words, first + 1, after)):
        end = next((i for i in range(after - 1, first, -1) if words[i].text in JOINS), after)
    return begin, end


def _asks(sentence: Sentence, index: FindingIndex) -> bool:
    return is_question(index.scan.words, sentence, is_clinician=index.turns[sentence.turn].is_clinician)


def _later(sentence: Sentence, index: FindingIndex, *, is_near: bool, answers: bool) -> list[Action]:
    """The actions of a sentence after the name, if "it" or its shortness shows that it still speaks of it."""
    words = index.scan.words
    texts = texts_of(words, sentence.first, sentence.last)
    if not (answers or (is_near and len(texts) <= FRAGMENT) or ANAPHORA & set(texts)):
        return []
    found = [
        action for _, action in actions_in(texts, spoken=True) if is_near or action not in ("declined", "done", "use")
    ]
    if sentence.asks and not asks_openly(words, sentence):
        return []  # but "When did you stop?"
    return ["stop" if action == "switch" else action for action in found]  # "They switched me."


def _afterwards(own: Sentence, reach: int, index: FindingIndex) -> list[Sentence]:
    """The sentences after one that may still speak of what it names."""
    later = [s for s in index.scan.sentences_of[own.turn] if s.first > own.first]
    for turn in range(own.turn + 1, own.turn + 1 + TURNS_AFTER):
        later += index.scan.sentences_of.get(turn, ())
    return [s for s in later if s.last <= reach][:SENTENCES_AFTER]


def _answer(own: Sentence, after: Sequence[Sentence], index: FindingIndex) -> tuple[int, int] | None:
    """The words of the turn that answers a clinician's sentence."""
    number = own.turn + 1
    is_last = not any(s.turn == own.turn and s.last - s.first > FRAGMENT for s in after)
    if not is_last or number >= len(index.turns):
        return None
    asks_back = _asks(own, index) and not index.turns[own.turn].is_clinician and index.turns[number].is_clinician
    answers = index.turns[own.turn].is_clinician and not index.turns[number].is_clinician
    return index.scan.turns[number] if answers or asks_back else None


def _answered(
    found: list[Action],
    own: Sentence,
    texts: Sequence[str],
    answer: tuple[int, int],
    index: FindingIndex,
    *,
    asks: bool,
) -> list[Action]:
    """The actions of a clinician's sentence with the patient's answer: an offer accepted or refused, a use denied."""
    words = index.scan.words
    reply = read_reply(words, *answer)[0]
    refused = opens_with_no(words, *answer)
    replied = texts_of(words, answer[0], min(answer[1], answer[0] + ANSWER))
    said = [action for _, action in actions_in(replied, spoken=True)]
    asked = set(texts)
    offered = bool(OFFERS & asked) or (not asks and not {"start", "plan"}.isdisjoint(found))
    if replied[:2] == ["not", "yet"]:
        return ["plan", "declined"]
    if not asks:
        return ["declined"] if offered and "declined" in said else found
    if offered and not ASKED_USE & asked:
        return ["declined"] if refused or "declined" in said else ["plan", "start"] if reply == "yes" else []
    if "plan" in said or "declined" in said or asks_openly(words, own):
        return []
    if ASKED_USE & asked and reply in ("yes", "no"):
        once = reply == "no" and "again" in asked  # "Did you take it again?"
        return [] if once else ["use" if reply == "yes" else "stop"]
    if refused:
        return [REVERSED.get(action, action) for action in found]
    return [action for action in found if action not in ("use", "keep")]


def agrees(note: NoteAction, said: Sequence[Action]) -> bool:
    """Whether something that is said of a finding is what the note does with it."""
    return any(not AGREE[action].isdisjoint(said) for action in (note.action, *note.further))


def is_opposed(note: NoteAction, said: Sequence[Action], *, once: bool, told: bool) -> bool:
    """Whether all that is said of a finding is the opposite of what the note does with it, or what one would say.

    `once`: an operation, which is not planned any more once it has been done. `told`: nobody stops it without a word.
    """
    if once and note.action == "plan" and "done" in said and {"done", "stop", "use"}.issuperset(said):
        return True
    if agrees(note, said):
        return False
    if note.action == "done" and "plan" in said:
        said = [action for action in said if action != "use"]  # "I'd like to take that mole off"
    return (told and note.action in TOLD) or (bool(said) and OPPOSE[note.action].issuperset(said))


def is_open(said: Sequence[Finding], action: Action, actions: Sequence[Action], index: FindingIndex) -> bool:
    """Whether the dialogue leaves open what is done now: it is named as over, or where is told what was done before."""
    over = action == "stop" and any(other.assertion == "past_or_stopped" for other in said)
    return over or (not actions and any(_is_earlier(index, index.scan.sentence_of(other)) for other in said))


def _is_earlier(index: FindingIndex, sentence: Sentence) -> bool:
    """Whether a sentence tells what was done before: "[Last time] I doubled it."."""
    return any(pair in EARLIER for pair in pairwise(texts_of(index.scan.words, sentence.first, sentence.last)))


def with_action(finding: Finding, note: FindingScan) -> tuple[int, int]:
    """The characters of a finding with the word that says what is done with it: "[continue lisinopril]"."""
    near = range(max(finding.first - SPAN_NEAR, 0), min(finding.last + SPAN_NEAR, len(note.words)))
    places = [i for i in near if is_action(note.words[i].text)]
    if not places:
        return finding.start, finding.end
    first = min(places, key=lambda i: min(abs(i - finding.first), abs(i - finding.last)))
    last = next((i for i in range(first, len(note.words)) if note.words[i].text not in LEADING), first)
    return min(finding.start, note.words[first].start), max(finding.end, note.words[last].end)
