"""The definition of a task: the labelled parts of its prompt, the answer to be learnt, and the metrics.

A prompt is the instruction and then the parts in order, each after its label: on the same line, or as a block below it:

    Write one section of a clinical note from the dialogue below. ...

    Section: Chief complaint                <- a part on one line

    Dialogue:
    Doctor: What brings you in?             <- a block, which loses whole turns where it is too long
    Patient: My knee.

The answer is a text. It may begin with a choice, one of a few options on a separate line (yes, no, maybe), which has
its own scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medsum_core.tasks.section_names import section_name

IMAGES = "image"  # the part of a task that holds images
DIVISION = "division"  # the part of a task with `divide` that names the division to write
SECTION = "section_header"  # the part of a task that names a section
ROW_FIELDS = ("id", "note", "choice")  # what a row has besides the parts of its prompt
SHORT_ANSWER = "short_answer"  # accuracy where the reference is yes or no, F1 of words elsewhere
METRICS = ("rouge", "accuracy", "macro_f1", SHORT_ANSWER)
FLOORS = ("copied_source", "majority", "without_source", "blind")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the prompt. `columns`: the file's columns for it, the first found counts; none: the task makes it.

    `form`: `line` is on the line of its label with white space collapsed, `block` below it; `images` are files, before
    the instruction and without label. `is_section`: an MTS-Dialog code is expanded to its name, and `--section` may
    replace the column.
    """

    name: str
    label: str
    columns: tuple[str, ...]
    form: Literal["line", "block", "images"] = "block"
    is_section: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The first line of an answer: one of `options`. `by_likelihood`: the likeliest option is scored too."""

    columns: tuple[str, ...]
    options: tuple[str, ...]
    by_likelihood: bool = False
    is_section: bool = False  # the options are names of sections, and files hold their codes

    def option(self, value: str) -> str | None:
        """The option that a cell names, in any case; None where it is none of them."""
        wanted = section_name(value) if self.is_section else value.strip()
        return next((option for option in self.options if option.casefold() == wanted.casefold()), None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer: `label` precedes it in a plain prompt, `columns` are the file's columns for its text."""

    label: str
    columns: tuple[str, ...]
    choice: Choice | None = None

    def split(self, answer: str) -> tuple[str, str]:
        """Choice and text of a written answer; the choice is "" where it begins with none of the options.

        The text is what follows the option's line or a punctuation mark after it. Else it is the whole answer: without
        its first word, "No fracture is seen" would say the opposite.
        """
        if self.choice is None:
            return "", answer
        names = "|".join(re.escape(option) for option in sorted(self.choice.options, key=len, reverse=True))
        end = r"(?P<end>[*_]*[^\S\n]*(?:[.,:;]|[-–—](?!\S)|(?=\n)|\Z)[*_]*\s*)?"
        found = re.match(rf"\W*({names})(?!\w){end}", answer, re.IGNORECASE)
        if found is None:
            return "", answer
        return self.choice.option(found[1]) or "", answer if found["end"] is None else answer[found.end() :]


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Which part of a too long prompt is shortened, by whole turns of speakers or whole paragraphs (lines)."""

    part: str
    unit: Literal["turns", "paragraphs"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task; see the module. `name` is used in messages and the report.

    `truncate`: the part that the answer is written from (`source`), and how it is shortened; None: it is the last part,
    nothing may be truncated, and rows that are too long are set aside. `facts_from`: the part against
    which facts of an answer are checked; None: they are not checked. `divide`: a row is a whole visit, whose note is
    learnt and generated as four divisions, each named in the part DIVISION, and joined again. `floors`: baselines in
    the report.
    """

    name: str
    instruction: str
    parts: tuple[Part, ...]
    answer: Answer
    id_columns: tuple[str, ...] = ("ID",)
    truncate: Truncation | None = None
    facts_from: str | None = None
    metrics: tuple[str, ...] = ("rouge",)
    floors: tuple[str, ...] = ()
    divide: bool = False

    @property
    def source(self) -> str:
        """Name of the part from which the answer is written: the one that may be truncated, else the last."""
        return self.truncate.part if self.truncate else self.parts[-1].name

    @property
    def names_section(self) -> bool:
        """Whether the answer begins with the name of a section."""
        return self.answer.choice is not None and self.answer.choice.is_section

    @property
    def images_part(self) -> Part | None:
        """The part that holds images; None for most tasks."""
        return self.parts[0] if self.parts[0].form == "images" else None

    def without_images(self) -> Task:
        """The same task without its images."""
        return replace(self, parts=tuple(part for part in self.parts if part.form != "images"))

    @property
    def section_part(self) -> Part | None:
        """The part that names a section; None for most tasks."""
        return next((part for part in self.parts if part.is_section), None)


def task_problems(task: Task) -> list[str]:
    """Problems of a task, a line each: what is unknown, ambiguous, or without effect."""
    problems = [f"instruction, parts and their labels: {what} is empty" for what in _empty(task)]
    if not task.parts:
        return problems
    problems += _part_problems(task.parts, divide=task.divide) + _source_problems(task)
    for key, values, known in (("metrics", task.metrics, METRICS), ("floors", task.floors, FLOORS)):
        problems += [
            f"{key}: unknown {value!r}; known are {', '.join(known)}" for value in values if value not in known
        ]
    return problems + _answer_problems(task)


def _part_problems(parts: Sequence[Part], *, divide: bool) -> list[str]:
    names, forms = [part.name for part in parts], [part.form for part in parts]
    problems = []
    if len(set(names)) < len(names):
        problems.append("parts: two have the same name")
    problems += [
        f"parts: {name!r} is the name of a row's own field; call the part otherwise, whatever its columns are called"
        for name in ROW_FIELDS
        if name in names
    ]
    if "images" in forms and (forms.index("images"), forms.count("images"), names[0]) != (0, 1, IMAGES):
        problems.append(f"parts: images are the first part, which is named {IMAGES!r}, and no other")
    if forms == ["images"]:
        problems.append("parts: images alone ask nothing; add a part with a question or an indication")
    if any(part.is_section and (part.name, part.form) != (SECTION, "line") for part in parts):
        problems.append(f"parts: is_section is of one part, which is named {SECTION!r} and stands on a line")
    if divide and DIVISION not in names:
        problems.append(f"divide: needs a part {DIVISION!r}, which names the division to write")
    for part in parts:
        is_made = divide and part.name == DIVISION
        if is_made == bool(part.columns):
            problems.append(
                f"parts: {part.name!r} {'is made by divide, so it has no' if is_made else 'has no'} columns"
            )
    return problems


def _source_problems(task: Task) -> list[str]:
    names = [part.name for part in task.parts if part.form != "images"]
    blocks = [part.name for part in task.parts if part.form == "block"]
    problems = []
    for key, name in (("truncate", task.truncate and task.truncate.part), ("facts_from", task.facts_from)):
        if name is not None and name not in names:
            problems.append(f"{key}: there is no part {name!r}; the parts are {', '.join(names)}")
    if task.truncate and task.truncate.part in set(names) - set(blocks):
        problems.append(f"truncate: {task.truncate.part!r} stands on a line; only a block can lose turns or paragraphs")
    if task.truncate is None and blocks not in ([], names[-1:]):
        problems.append(
            f"truncate: missing, so that it is not clear which of {', '.join(names)} the answer is written from: name "
            "it there, or make it the last part and the only block, if nothing may be truncated"
        )
    return problems


def _answer_problems(task: Task) -> list[str]:
    choice, problems = task.answer.choice, []
    if choice is None and set(task.metrics) & {"accuracy", "macro_f1"}:
        problems.append("metrics: accuracy and macro_f1 are of a choice, and the answer has none")
    if "blind" in task.floors and task.images_part is None:
        problems.append("floors: blind is of a task that shows images, and this one shows none")
    if "majority" in task.floors and choice is None:
        problems.append("floors: majority is of a choice, and the answer has none")
    has_block = any(part.name == task.source and part.form == "block" for part in task.parts)
    if "without_source" in task.floors and not (choice and choice.by_likelihood and has_block):
        problems.append("floors: without_source is of a choice by_likelihood about a text that is a block")
    if choice is not None and task.divide:
        problems.append("divide: the answer has a choice, and can't be divided")
    if choice is not None and len({option.casefold() for option in choice.options}) < max(2, len(choice.options)):
        problems.append("answer: a choice has at least two options, all different")
    if choice is None and not task.answer.columns:
        problems.append("answer: neither a column nor a choice")
    return problems


def _empty(task: Task) -> list[str]:
    named = {"the instruction": task.instruction, "the list of parts": "".join(part.name for part in task.parts)}
    labelled = [part for part in task.parts if part.form != "images"]
    named |= {f"the label of {part.name!r}": part.label for part in labelled}
    named |= {"the answer's label": task.answer.label}
    return [what for what, text in named.items() if not text.strip()]
