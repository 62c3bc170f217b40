"""The actions on a drug, a test or a habit in a text: started, stopped, continued, raised, done, planned, declined.

Their phrases are in `lexicon/actions.tsv`. The longest phrase at a word wins, and matches do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, cast

from medsum_core.grounding.facts.tokens import word_set
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
COMPATIBLE: Mapping[str, frozenset[str]] = {  # by a note's action: the dialogue's actions that support it
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
OPPOSITE: Mapping[str, frozenset[str]] = {  # and those that contradict it
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
NEGATION_REACH = 3  # words before an action in which a negation reverses it
GAP, GAP_WORDS = "_", 3  # in a phrase: up to three words
WISH_WORDS, REFUSAL_REACH = word_set("want need going gonna won't"), 6  # words between a refusal and the refused action
PUNCTUATION = frozenset(".,;:?!()\n")


def actions_in(texts: Sequence[str], *, spoken: bool) -> list[tuple[int, Action]]:
    """The actions in these words, each with its first word's index; a negated one is reversed: "don't stop" is keep.

    `spoken`: by the phrases of dialogues, else by those of notes.
    """
    phrases = _phrases(spoken=spoken)
    found: list[tuple[int, Action]] = []
    i = 0
    while i < len(texts):
        ends = ((action, _match_end(texts, i, phrase)) for phrase, action in phrases.get(texts[i], ()))
        action, end = next((pair for pair in ends if pair[1]), (None, i + 1))
        if action is not None:
            denied = action not in ("declined", "same") and texts[i] != "anymore" and _is_denied(texts, i)
            found.append((i, REVERSED.get(action, action) if denied else action))
        i = end
    return _with_refusals(_without_auxiliaries(found), texts)


def _without_auxiliaries(found: Sequence[tuple[int, Action]]) -> list[tuple[int, Action]]:
    """The actions without a "keep" right before a change that it only prolongs: "[remains] stopped"."""
    changed = {i for i, action in found if action in ("stop", "declined", "up", "down", "taper")}
    return [(i, action) for i, action in found if action != "keep" or i + 1 not in changed]


def _with_refusals(found: Sequence[tuple[int, Action]], texts: Sequence[str]) -> list[tuple[int, Action]]:
    """The actions, each refused one reversed: "I [don't want to take you off] it" is keep."""
    resolved: list[tuple[int, Action]] = []
    for i, action in found:
        refusal = next(
            (k for k, one in enumerate(resolved) if one[1] == "declined" and i - one[0] <= REFUSAL_REACH), None
        )
        if (
            refusal is None
            or action not in ("stop", "up", "down")
            or WISH_WORDS.isdisjoint(texts[resolved[refusal][0] : i])
        ):
            resolved.append((i, action))
        else:
            resolved[refusal:] = [(resolved[refusal][0], REVERSED[action])]
    return resolved


def without_ended_start(note: Action, stated: Sequence[Action]) -> list[Action]:
    """The dialogue's actions for a note's "keep", without a start that a stop ended: "began the statin ... stop it"."""
    return [action for action in stated if action != "start" or note != "keep" or "stop" not in stated]


def _is_denied(texts: Sequence[str], i: int) -> bool:
    """Whether a negation precedes word i without punctuation between."""
    before = texts[max(i - NEGATION_REACH, 0) : i]
    last = max((k for k, text in enumerate(before) if text in PUNCTUATION), default=-1)
    return bool(NEGATIONS.intersection(before[last + 1 :]))


def _match_end(texts: Sequence[str], i: int, phrase: Sequence[str]) -> int:
    """The index after the phrase if it matches at word i, else 0."""
    for k, word in enumerate(phrase):
        if word != GAP:
            i += k > 0 and texts[i : i + 1] == [","]  # "no, thank you"
            if i >= len(texts) or texts[i] != word:
                return 0
            i += 1
            continue
        wanted = phrase[phrase.index(GAP) + 1]
        ahead = texts[i : i + GAP_WORDS + 1]
        if wanted not in ahead or PUNCTUATION.intersection(ahead[: ahead.index(wanted)]):
            return 0
        i += ahead.index(wanted)
    return i


@lru_cache(maxsize=2)
def _phrases(*, spoken: bool) -> dict[str, list[tuple[tuple[str, ...], Action]]]:
    """The phrases of dialogues or notes by their first word, longest first."""
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
    """Whether a word of a note is an action by itself, other than a use."""
    return any(len(words) == 1 and action != "use" for words, action in _phrases(spoken=False).get(text, ()))
