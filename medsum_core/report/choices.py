"""Answers that are a choice, such as yes, no or maybe: what base and tuned model choose, and what needs no model.

A choice is measured in two ways: the option with the highest probability (where the task asks for it), and the one that
the written answer begins with. Floors: the commonest option for every row, and the likeliest option without the text
that the question is about, which shows whether that text is read at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.truncation import prompt_within
from medsum_core.generation.generate import Decoder
from medsum_core.generation.likelihood import likeliest_options
from medsum_core.generation.note_rows import GeneratedNote
from medsum_core.report.markdown import estimate, table
from medsum_core.score.bootstrap import mean_difference
from medsum_core.score.choices import choice_scores, commonest_choice

WRITTEN, LIKELIEST = "as written", "likeliest option"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The right option of each row and what was chosen for it, by who chose; "": none of the options."""

    options: tuple[str, ...]
    references: tuple[str, ...]
    given: Mapping[str, tuple[str, ...]]

    def select(self, rows: Sequence[int]) -> Choices:
        """The same for some rows, by position."""
        given = {name: tuple(answers[row] for row in rows) for name, answers in self.given.items()}
        return replace(self, references=tuple(self.references[row] for row in rows), given=given)


def written_choices(
    renderer: PromptRenderer, records: Sequence[Record], notes: Mapping[str, Sequence[GeneratedNote]]
) -> Choices | None:
    """The option that each side's written answers begin with; None for a task without a choice."""
    answer = renderer.task.answer
    if answer.choice is None:
        return None
    given = {f"{side}, {WRITTEN}": tuple(answer.split(note.note)[0] for note in rows) for side, rows in notes.items()}
    references = tuple(record.choice for record in records)
    if "majority" in renderer.task.floors:
        commonest = commonest_choice(references)
        given[f"always {commonest!r} (floor)"] = (commonest,) * len(records)
    return Choices(options=answer.choice.options, references=references, given=given)


def likeliest_choices(
    model: Any,
    renderer: PromptRenderer,
    records: Sequence[Record],
    *,
    side: str,
    max_prompt_tokens: int,
    decoder: Decoder | None,
) -> dict[str, tuple[str, ...]]:
    """The option of highest probability, by who chose: with the whole prompt, and without its source as a floor."""
    task = renderer.task
    if task.answer.choice is None or not task.answer.choice.by_likelihood:
        return {}
    asked = {f"{side}, {LIKELIEST}": list(records)}
    if "without_source" in task.floors:
        bare = [replace(record, parts={**record.parts, task.source: ""}) for record in records]
        asked[f"{side}, {LIKELIEST}, without the {task.source} (floor)"] = bare
    found = {}
    for name, rows in asked.items():
        prompts = [prompt_within(row, renderer, max_prompt_tokens=max_prompt_tokens).ids for row in rows]
        found[name] = tuple(likeliest_options(model, renderer, prompts, decoder=decoder))
    return found


def choice_table(choices: Choices) -> str:
    """Accuracy and macro F1 with their intervals, a line for each who chose."""
    lines = []
    for name, given in choices.given.items():
        scores = choice_scores(choices.references, given, options=choices.options)
        cells = [estimate(value, digits=1, percent=True) for value in (scores.accuracy, scores.macro_f1)]
        lines.append((name, *cells, str(scores.num_invalid)))
    return table(("", "accuracy", "macro F1", "no option"), lines)


def choice_differences(choices: Choices) -> str:
    """Accuracy of the tuned model against the base's, paired, as one sentence."""
    parts = []
    for how in (LIKELIEST, WRITTEN):
        sides = [choices.given.get(f"{side}, {how}") for side in ("tuned", "base")]
        if sides[0] is None or sides[1] is None:
            continue
        tuned, base = ([float(a == b) for a, b in zip(side, choices.references, strict=True)] for side in sides if side)
        difference = mean_difference(tuned, base).scaled(100)
        parts.append(f"{how} {estimate(difference, digits=1, signed=True)}")
    return f"Accuracy, tuned \N{MINUS SIGN} base, in percentage points, paired: {'; '.join(parts)}."
