"""Started, stopped, raised, lowered or kept: what note and dialogue do with a medication or a habit.

A note is contradicted where it does one thing and the dialogue only the opposite: "continue lisinopril", "stop it".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word

WORDS_OF = {
    "stop": bag(
        "stop stopped stopping discontinue discontinued quit weaned held pause paused dropped ceased cessation throw "
        "deferred"
    ),
    "keep": bag(
        "continue continues continued continuing keep keeps remain remains remaining stay stays maintain maintained "
        "resume still"
    ),
    "start": bag(
        "start started starting begin begins began initiate initiated prescribe prescribed restart restarted restarting"
    ),
    "up": bag("increase increased increasing raise raised double doubled bump bumped uptitrate"),
    "down": bag("decrease decreased decreasing reduce reduced lower lowered lowering taper tapered halve halved"),
}
IN_NOTE = bag("takes taking uses using treated")  # "takes it": it goes on
IN_TALK = bag("take takes taking use uses using")  # "I take it": it goes on
OPPOSITE = {
    "stop": bag("keep start"),
    "keep": bag("stop"),
    "start": bag("stop"),
    "up": bag("down"),
    "down": bag("up"),
    "same": bag("up down stop"),
}
REVERSED = {"stop": "keep", "start": "stop", "keep": "stop"}
PHRASES = {("go", "back", "on"): "start", ("put", "you", "on"): "start", ("put", "him", "on"): "start",
           ("put", "her", "on"): "start", ("go", "on", "with"): "keep",
           ("carry", "on"): "keep", ("keep", "going"): "keep",
           ("cut", "down"): "down", ("come", "off"): "stop", ("no", "longer"): "stop", ("no", "more"): "stop",
           ("weaned", "off"): "stop", ("cut", "back"): "down", ("instead", "of"): "stop",
           ("used", "to"): "stop", ("use", "to"): "stop", ("never", "miss"): "keep",
           ("never", "picked"): "stop", ("never", "filled"): "stop", ("never", "took"): "stop",
           ("that's", "gone"): "stop",
           ("quit", "working"): "stop", ("stopped", "working"): "stop", ("in", "the", "drawer"): "stop",
           ("give", "you"): "start"}  # fmt: skip
PAIRED = {  # a verb and a particle with words between them: "bring the sertraline down"
    "down": (bag("bring cut come go take turn get"), bag("down")),
    "up": (bag("bump bring go take turn push move"), bag("up")),
    "stop": (bag("come came go went get got been done taken weaned take took"), bag("off")),
}
EARLIER = (("last", "time"), ("last", "visit"), ("last", "month"), ("last", "year"), ("back", "then"))
ANAPHORA = bag("it that them those both one")
SENTENCES_AFTER = 3
NEGATED = 3  # words between a denial and what it denies
BEFORE, AFTER = 5, 4  # words around a name that are searched for what is done with it


def action_in_note(words: Sequence[Word], sentence: Sentence, first: int, last: int, others: Iterable[int]) -> str:
    """What a note does with the finding at words `[first, last)`; "" if it says nothing, or of another one nearer.

    `others`: the first words of the sentence's other findings.
    """
    begin = max(
        [sentence.first, first - BEFORE, *(i + 1 for i in others if i < first and not _listed(words, i, first))]
    )
    end = min([sentence.last, last + AFTER, *(i for i in others if i >= last)])
    begin = next((i + 1 for i in range(first - 1, begin - 1, -1) if words[i].text == "," and i + 1 < first), begin)
    end = next((i for i in range(last, end) if words[i].text == ","), end)
    before = [words[i].text for i in range(begin, first)]
    after = [words[i].text for i in range(last, end)]
    if "unchanged" in after or "same" in after:
        return "same"
    return _action(before) or _action(after) or ("keep" if IN_NOTE.intersection(before) else "")


def actions_in_talk(
    words: Sequence[Word], sentences: Sequence[Sentence], places: Iterable[tuple[int, int]], named: Sequence[int]
) -> set[str]:
    """What a dialogue does with a finding named at `places`, there and where "it" means it in the sentences after.

    `named`: the first words of all medications in order, which end the reach of "it".
    """
    begins = [sentence.first for sentence in sentences]
    found: set[str] = set()
    for first, last in places:
        number = bisect_right(begins, first) - 1
        own = sentences[number]
        k = bisect_left(named, first)
        begin = max(own.first, named[k - 1] if k else 0)
        end = min(own.last, next((i for i in named[k : k + 2] if i >= last), own.last))
        if not own.asks and not _is_earlier(words, own):
            found.add(_action([words[i].text for i in range(begin, end)], spoken=True))
        reach = next((i for i in named[k : k + 2] if i >= own.last), len(words))
        for after in sentences[number + 1 : number + 1 + SENTENCES_AFTER]:
            if after.last > reach:
                break
            texts = [words[i].text for i in range(after.first, after.last)]
            if not after.asks and (len(texts) <= AFTER or ANAPHORA & set(texts)):
                found.add(_action(texts, spoken=True, of_it=len(texts) > AFTER))
    return found - {""}


def _is_earlier(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a sentence tells what was done before: "[Last time] I doubled it."."""
    texts = [words[i].text for i in range(sentence.first, sentence.last)]
    return any(pair in EARLIER for pair in pairwise(texts))


def is_action(text: str) -> bool:
    """Whether a word of a note says that something is started, stopped, kept, raised or lowered."""
    return text in IN_NOTE or any(text in verbs for verbs in WORDS_OF.values())


def is_opposed(note: str, said: set[str]) -> bool:
    """Whether all that is said of a finding is the opposite of what the note does with it."""
    return bool(said) and said <= OPPOSITE.get(note, frozenset())


def _listed(words: Sequence[Word], i: int, first: int) -> bool:
    """Whether another finding and this one are a list: "stop [metformin] and [glipizide]"."""
    return all(words[k].text in (",", "and", "or") for k in range(i + 1, first))


def _action(texts: Sequence[str], *, spoken: bool = False, of_it: bool = False) -> str:
    """The first action that the words name, reversed where they deny it; "" if none. `of_it`: "it" must follow."""
    for phrase, action in PHRASES.items():
        size = len(phrase)
        if phrase[0] in texts and any(tuple(texts[k : k + size]) == phrase for k in range(len(texts))):
            return action
    said = set(texts)
    for action, (verbs, particles) in PAIRED.items():
        if verbs & said and particles & said:
            return action
    for k, text in enumerate(texts):
        action = next((action for action, verbs in WORDS_OF.items() if text in verbs), "")
        action = "keep" if not action and spoken and text in IN_TALK else action
        if action and (not of_it or ANAPHORA.intersection(texts[k : k + 4])):
            negated = bool(NEGATIONS.intersection(texts[max(k - NEGATED, 0) : k]))
            return REVERSED.get(action, "") if negated else action
    return ""
