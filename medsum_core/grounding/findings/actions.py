"""What a text does with a drug, a test or a habit: started, stopped, kept, raised, lowered, done, planned, declined.

The table is actions.tsv of the lexicon. Of two phrases at a word the longer one counts, and each word counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, cast

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.lexicon import TABLES, lines_of
from medsum_core.grounding.findings.scope import NEGATIONS

Action = Literal[
    "start", "stop", "keep", "use", "up", "down", "same", "done", "plan", "declined", "switch", "taper", "changed"
]

REVERSED: Mapping[str, Action] = {
    "taper": "keep",
    "stop": "keep", "start": "declined", "keep": "stop", "use": "declined", "up": "same", "down": "same",
    "done": "declined", "plan": "declined",
}  # fmt: skip
AGREE: Mapping[str, frozenset[str]] = {  # what is said that a note may write down so
    "stop": frozenset({"stop", "declined", "taper"}),
    "taper": frozenset({"taper", "stop", "down"}),
    "keep": frozenset({"keep", "use", "same", "up", "down", "start", "taper"}),
    "use": frozenset({"taper", "keep", "use", "same", "up", "down", "start", "plan", "done"}),
    "start": frozenset({"start", "plan", "keep", "use", "up"}),
    "up": frozenset({"up", "changed"}),
    "down": frozenset({"down", "taper", "changed"}),
    "same": frozenset({"same", "keep", "use"}),
    "done": frozenset({"done", "start", "stop"}),
    "plan": frozenset({"plan", "start", "keep", "use", "done", "up", "down"}),
    "declined": frozenset({"declined", "stop"}),
}
OPPOSE: Mapping[str, frozenset[str]] = {  # what it may not
    "stop": frozenset({"keep", "use", "start", "up", "down", "same"}),
    "taper": frozenset({"keep", "start", "up", "same"}),
    "keep": frozenset({"stop", "declined"}),
    "use": frozenset({"stop", "declined"}),
    "start": frozenset({"stop", "declined"}),
    "up": frozenset({"down", "same", "keep", "stop"}),
    "down": frozenset({"up", "same", "keep", "stop"}),
    "same": frozenset({"up", "down", "stop"}),
    "done": frozenset({"plan", "declined", "keep"}),
    "plan": frozenset({"declined"}),
    "declined": frozenset({"start", "plan", "done", "keep"}),
}
NEGATED = 3  # words between a denial and what it denies
GAP, GAP_WORDS = "_", 3
WISHES, REFUSED_REACH = bag("want need going gonna won't"), 6  # words
MARKS = frozenset(".,;:?!()\n")


def actions_in(texts: Sequence[str], *, spoken: bool) -> list[tuple[int, Action]]:
    """The actions that the words name, each with its first word, reversed where they deny it: "don't stop" keeps."""
    phrases = _phrases(spoken=spoken)
    found: list[tuple[int, Action]] = []
    i = 0
    while i < len(texts):
        ends = ((action, _matched(texts, i, phrase)) for phrase, action in phrases.get(texts[i], ()))
        action, end = next((pair for pair in ends if pair[1]), (None, i + 1))
        if action is not None:
            denied = action not in ("declined", "same") and texts[i] != "anymore" and _is_denied(texts, i)
            found.append((i, REVERSED.get(action, action) if denied else action))
        i = end
    return _unrefused(found, texts)


def _unrefused(found: Sequence[tuple[int, Action]], texts: Sequence[str]) -> list[tuple[int, Action]]:
    """The actions, one that is refused as its opposite: "I [don't want to take you off] it" keeps it."""
    kept: list[tuple[int, Action]] = []
    for i, action in found:
        refusal = next((k for k, one in enumerate(kept) if one[1] == "declined" and i - one[0] <= REFUSED_REACH), None)
        if refusal is None or action not in ("stop", "up", "down") or WISHES.isdisjoint(texts[kept[refusal][0] : i]):
            kept.append((i, action))
        else:
            kept[refusal:] = [(kept[refusal][0], REVERSED[action])]
    return kept


def as_of_now(note: Action, said: Sequence[Action]) -> list[Action]:
    """What is said, without a start that a stop undid, where a note keeps on: "began the statin ... stop it"."""
    return [action for action in said if action != "start" or note != "keep" or "stop" not in said]


def _is_denied(texts: Sequence[str], i: int) -> bool:
    """Whether a denial stands before word i, with no mark between."""
    before = texts[max(i - NEGATED, 0) : i]
    last = max((k for k, text in enumerate(before) if text in MARKS), default=-1)
    return bool(NEGATIONS.intersection(before[last + 1 :]))


def _matched(texts: Sequence[str], i: int, phrase: Sequence[str]) -> int:
    """The word after the phrase that begins at word i; 0 if it does not."""
    for k, word in enumerate(phrase):
        if word != GAP:
            i += k > 0 and texts[i : i + 1] == [","]  # "no, thank you"
            if i >= len(texts) or texts[i] != word:
                return 0
            i += 1
            continue
        wanted = phrase[phrase.index(GAP) + 1]
        ahead = texts[i : i + GAP_WORDS + 1]
        if wanted not in ahead or MARKS.intersection(ahead[: ahead.index(wanted)]):
            return 0
        i += ahead.index(wanted)
    return i


@lru_cache(maxsize=2)
def _phrases(*, spoken: bool) -> dict[str, list[tuple[tuple[str, ...], Action]]]:
    """The phrases of dialogues or notes by their first word, long ones first."""
    found: dict[str, list[tuple[tuple[str, ...], Action]]] = {}
    for line in lines_of(TABLES / "actions.tsv"):
        action, where, phrases = line.split("\t")
        for phrase in phrases.split("|") if (where == "talk") == spoken else ():
            words = tuple(phrase.split())
            found.setdefault(words[0], []).append((words, cast(Action, action)))
    for listed in found.values():
        listed.sort(key=lambda pair: -len(pair[0]))
    return found


def is_action(text: str) -> bool:
    """Whether a word of a note says what is done with something."""
    return any(len(words) == 1 and action != "use" for words, action in _phrases(spoken=False).get(text, ()))
