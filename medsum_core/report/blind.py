"""Does a model use its images? Compare its answers with those it gives blind: without images, with others or grey ones.

A model that has learnt what is usually answered scores well without seeing anything. Only what it scores above its own
blind answers comes from the images.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medsum_core.data.image_tokens import BLANK_KEY, SEPARATOR, split_keys
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.question_only import question_only
from medsum_core.data.records import Record
from medsum_core.generation.note_rows import GeneratedNote
from medsum_core.report.markdown import estimate, table
from medsum_core.score.bootstrap import Estimate, mean_difference, mean_estimate
from medsum_core.score.rouge import score_rows
from medsum_core.score.short_answers import ShortAnswers, short_answers
from medsum_core.tasks.task import IMAGES, SHORT_ANSWER, Task

QUESTION_ONLY, SHUFFLED, BLANK = "question only", "images shuffled", "images blank"
WAYS = (QUESTION_ONLY, SHUFFLED, BLANK)
SEED = 0
FEWEST_ROWS = 6  # a sign test of fewer can't reach 5 %, even if every row gains: 2 / 2 ** 5


@dataclass(frozen=True, kw_only=True)
class Blind:
    """A score a row of base, tuned and the tuned model's blind answers, by name.

    `is_closed`: which questions are answered yes or no; empty where rows are scored by ROUGE-1.
    """

    scores: Mapping[str, tuple[float, ...]]
    is_closed: tuple[bool, ...] = ()

    def select(self, rows: Sequence[int]) -> Blind:
        """The same for some rows, by position."""
        scores = {name: tuple(values[row] for row in rows) for name, values in self.scores.items()}
        return Blind(scores=scores, is_closed=tuple(self.is_closed[row] for row in rows) if self.is_closed else ())

    def gains(self) -> dict[str, Estimate]:
        """The tuned model's score minus that of each blind answer, paired."""
        return {way: mean_difference(self.scores["tuned"], self.scores[f"tuned, {way}"]) for way in WAYS}


def blind_notes(
    write: Callable[..., list[GeneratedNote]], renderer: PromptRenderer, records: Sequence[Record]
) -> dict[str, list[GeneratedNote]]:
    """The blind answers to each record; `write(renderer, records, label=)` writes notes."""
    shown = {QUESTION_ONLY: records, SHUFFLED: shuffled(records), BLANK: [_blank(record) for record in records]}
    bare = question_only(renderer)
    return {
        f"tuned, {way}": write(bare if way == QUESTION_ONLY else renderer, rows, label=way)
        for way, rows in shown.items()
    }


def measure_blind(records: Sequence[Record], notes: Mapping[str, Sequence[GeneratedNote]], task: Task) -> Blind:
    """The scores of each side's notes."""
    truth = [record.note for record in records]
    texts = {side: [note.note for note in rows] for side, rows in notes.items()}
    if SHORT_ANSWER not in task.metrics:
        return Blind(scores={side: tuple(score_rows(truth, rows).rouge1) for side, rows in texts.items()})
    answers = {side: short_answers(truth, rows) for side, rows in texts.items()}
    closed = next(iter(answers.values())).is_closed
    return Blind(scores={side: rows.scores for side, rows in answers.items()}, is_closed=closed)


def shuffled(records: Sequence[Record]) -> list[Record]:
    """Each record with the images of another one that has as many; blank where there is no other."""
    groups: dict[int, list[str]] = {}
    for images in sorted({record.parts[IMAGES] for record in records}):
        groups.setdefault(len(split_keys(images)), []).append(images)
    others: dict[str, str] = {}
    for group in groups.values():
        random.Random(SEED).shuffle(group)
        others |= dict(zip(group, [*group[1:], group[0]], strict=True)) if len(group) > 1 else {}
    return [
        replace(record, parts={**record.parts, IMAGES: others[record.parts[IMAGES]]})
        if record.parts[IMAGES] in others
        else _blank(record)
        for record in records
    ]


def blind_table(blind: Blind) -> str:
    """Every side's score with its interval, and what the tuned model has more than each of its blind answers."""
    gains = {f"tuned, {way}": gain for way, gain in blind.gains().items()}
    title = "score a row" if blind.is_closed else "ROUGE-1"
    header = [
        "",
        *(["yes or no: accuracy", "open: word F1"] if blind.is_closed else []),
        title,
        "tuned \N{MINUS SIGN} this",
    ]
    lines = []
    for side, scores in blind.scores.items():
        row: list[Any] = [side]
        if blind.is_closed:
            answers = ShortAnswers(scores=scores, is_closed=blind.is_closed)
            row += [estimate(value) for value in (answers.closed_accuracy, answers.open_f1)]
        gain = gains.get(side)
        lines.append([*row, estimate(mean_estimate(scores)), "" if gain is None else estimate(gain, signed=True)])
    return table(header, lines)


def blind_verdict(blind: Blind) -> str:
    """Whether the tuned model looks at the images, plainly: it must beat each of its blind answers."""
    level, num_rows = [way for way, gain in blind.gains().items() if not gain.low > 0], len(blind.scores["tuned"])
    if not level and num_rows < FEWEST_ROWS:
        return f"**Too few rows ({num_rows}, not {FEWEST_ROWS}) to tell whether the tuned model uses the images.**"
    if not level:
        return "The tuned model uses the images: it scores above each of its own blind answers, by intervals above 0."
    return (
        f"**The tuned model does no better than blind** ({', '.join(level)}): by these rows nothing shows that it uses "
        "the images. Do not read its answers as findings."
    )


def _blank(record: Record) -> Record:
    grey = SEPARATOR.join(BLANK_KEY for _ in split_keys(record.parts[IMAGES]))
    return replace(record, parts={**record.parts, IMAGES: grey})
