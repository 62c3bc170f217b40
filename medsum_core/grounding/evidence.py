"""The turns of a dialogue that support each sentence of a note: lexical, deterministic, without a model.

Rarer words of the dialogue have a higher weight; plurals and medical terms match their singular and lay forms. Facts
are matched by meaning, so that "76-year-old" is found in "I'm seventy six".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from medsum_core.data.turns import read_turns
from medsum_core.grounding.check import Fact, check_note
from medsum_core.grounding.facts.anatomy import STOPWORDS, stem
from medsum_core.grounding.facts.tokens import word_set

LOW_SUPPORT = 0.3  # a sentence with a lower score should be read by a person
MAX_TURNS = 3
FACT_WEIGHT = 3.0  # a number weighs as much as this many common words
QUESTION_PENALTY = 0.01  # subtracted from a question: a statement with the same words is preferred
NOTE_WORDS = word_set(  # typical words of notes, without content
    "denies denied denying reports reported states stated presents presented complains noted none noncontributory "
    "unremarkable significant positive negative history assessment plan exam examination shows"
)
ABBREVIATIONS = word_set("dr mr mrs ms no vs st")
PREFIX = 5  # words match if their first letters do: "hypertension", "hypertensive"


@dataclass(frozen=True, kw_only=True)
class Support:
    """The support for a sentence at characters `[start, end)` of the note.

    `turns`: the turns (from 0) that support it, best first. `score`: the share of the sentence's weight found in these
    turns, 0 to 1; 1 for a sentence without a content word, 0 for one with an unsupported fact. `low_support`: the score
    is below LOW_SUPPORT. `contradicting`: the turns that contradict it, each question with its answer; none of them is
    in `turns`. `facts`: the sentence's facts.
    """

    start: int
    end: int
    turns: tuple[int, ...]
    score: float
    low_support: bool
    contradicting: tuple[int, ...] = ()
    facts: tuple[Fact, ...] = ()


def evidence(note: str, dialogue: str) -> list[Support]:
    """The support for each sentence of `note`: up to three turns of `dialogue`. Offsets are into `note`."""
    dialogue_turns = read_turns(dialogue)
    turns = [_stems(turn.text) for turn in dialogue_turns]
    weights = _weights(turns)
    asks = [turn.text.endswith("?") for turn in dialogue_turns]
    facts = check_note(note, dialogue)
    return [_support(note, span, turns, weights, facts, asks) for span in sentences(note)]


def sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of `text` as `[start, end)` without blanks around them. "1." and "Dr." do not end a sentence."""
    ends: list[int] = []
    for match in re.finditer(r"[.!?]+(?=\s)|\n+", text):
        if _ends_sentence(text[ends[-1] if ends else 0 : match.start()], match[0]):
            ends.append(match.end())
    trimmed = []
    for begin, end in pairwise([0, *ends, len(text)]):
        body = text[begin:end]
        begin += len(body) - len(body.lstrip())
        if body.strip():
            trimmed.append((begin, begin + len(body.strip())))
    return trimmed


def _ends_sentence(sentence: str, mark: str) -> bool:
    words = sentence.split()
    if not words or not mark.startswith("."):
        return bool(words)
    word = words[-1].lower()
    if word.isdigit():
        return len(words) > 1  # "1." numbers a list
    return word not in ABBREVIATIONS and "." not in word and len(word) > 1


def _stems(text: str) -> Counter[str]:
    words = (stem(word) for word in re.findall(r"[A-Za-z]+", text) if word.lower() not in NOTE_WORDS)
    return Counter(word[:PREFIX] for word in words if len(word) > 2 and word not in STOPWORDS)


def _weights(turns: Sequence[Counter[str]]) -> dict[str, float]:
    """The weight of each stem: the inverse document frequency over the turns, 1 for a stem in every turn."""
    spread = Counter(word for turn in turns for word in turn)
    return {word: 1.0 + math.log(len(turns) / count) for word, count in spread.items()}


def _support(
    note: str,
    span: tuple[int, int],
    turns: Sequence[Counter[str]],
    weights: dict[str, float],
    facts: Sequence[Fact],
    asks: Sequence[bool],
) -> Support:
    start, end = span
    own = [fact for fact in facts if start <= fact.start < end]
    against = {fact.turn for fact in own if fact.verdict == "contradicted" and fact.turn is not None}
    inside = [fact for fact in own if fact.turn is not None or fact.is_unsupported]  # others are matched by their words
    words = _stems(_without(note, span, inside))
    unseen = 1.0 + math.log(len(turns) + 1)
    total = sum(weights.get(word, unseen) for word in words) + FACT_WEIGHT * len(inside)
    found, chosen = 0.0, list[int]()
    remaining_words, remaining_facts = set(words), {i for i, fact in enumerate(inside) if fact.is_supported}
    while len(chosen) < MAX_TURNS:
        gains = [
            sum(weights[word] for word in remaining_words if word in turn)
            + FACT_WEIGHT * sum(inside[i].turn == number for i in remaining_facts)
            if number not in against
            else 0.0
            for number, turn in enumerate(turns)
        ]
        best = max(range(len(gains)), key=lambda k: gains[k] - QUESTION_PENALTY * asks[k], default=-1)
        if best < 0 or gains[best] <= 0:
            break
        chosen.append(best)
        found += gains[best]
        remaining_words -= set(turns[best])
        remaining_facts = {i for i in remaining_facts if inside[i].turn != best}
    score = found / total if total else 1.0
    score = (
        0.0 if any(fact.is_unsupported for fact in own) else score
    )  # one unsupported fact makes the sentence unsupported
    contradicting = _with_answers(sorted(against), asks)
    return Support(
        start=start,
        end=end,
        turns=tuple(turn for turn in _with_answers(chosen, asks) if turn not in contradicting),
        score=score,
        low_support=score < LOW_SUPPORT,
        contradicting=contradicting,
        facts=tuple(own),
    )


def _with_answers(turns: Sequence[int], asks: Sequence[bool]) -> tuple[int, ...]:
    """The turns, each question followed by its answer: "Any chest pain?" alone does not support "denies chest pain"."""
    found: list[int] = []
    for turn in turns:
        answer = [turn + 1] if asks[turn] and turn + 1 < len(asks) else []
        found += [k for k in (turn, *answer) if k not in found]
    return tuple(found[:MAX_TURNS])


def _without(note: str, span: tuple[int, int], facts: Sequence[Fact]) -> str:
    """The sentence with its facts replaced by blanks, so that their words do not count twice."""
    text = note[span[0] : span[1]]
    for fact in facts:
        first, last = fact.start - span[0], min(fact.end, span[1]) - span[0]
        text = text[:first] + " " * (last - first) + text[last:]
    return text
