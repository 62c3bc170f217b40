"""Base against tuned: both generate notes for the same rows, and each note is measured, a number a row.

Same weights in memory, same precision, same prompt, same decoding; for the base the adapter is disabled. `Comparison`
holds ids and numbers but no text, so that the report and the model card cannot leak any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.generation.generate import Decoder
from medsum_core.generation.note_rows import GeneratedNote, whole_notes
from medsum_core.generation.notes import generate_notes
from medsum_core.generation.part_file import PartFile
from medsum_core.grounding.check import check_record, count_checked, count_unsupported
from medsum_core.grounding.omissions import omissions_of_record
from medsum_core.report.blind import Blind, blind_notes, measure_blind
from medsum_core.report.choices import Choices, likeliest_choices, written_choices
from medsum_core.score.evaluate import strip_tags
from medsum_core.score.rouge import METRICS, score_rows
from medsum_core.score.visits import division_scores
from medsum_core.tasks.task import Task

SIDES = ("base", "tuned")  # in the order in which their notes are written
Rouge = Mapping[str, tuple[float, ...]]  # F-measures from 0 to 1 by ROUGE name, a number a row; empty: not measured


@dataclass(frozen=True, kw_only=True)
class Side:
    """Measurements of the notes of the references, the base or the tuned model, in the order of `Comparison.ids`."""

    rouge: Rouge  # empty for the references
    num_tokens: tuple[int, ...]
    hit_limit: tuple[bool, ...]  # all False for the references
    num_facts: tuple[int, ...]  # facts of the note that were looked up
    num_unsupported: tuple[int, ...]  # of these, facts that the source text does not say, or contradicts
    num_stated: tuple[int, ...]  # facts that the dialogue states; all 0 where it is no dialogue
    num_omitted: tuple[int, ...]  # of these, facts that the note does not hold

    def select(self, rows: Sequence[int]) -> Side:
        """The same side for some rows, by position."""
        return Side(
            rouge=_select(self.rouge, rows),
            num_tokens=tuple(self.num_tokens[row] for row in rows),
            hit_limit=tuple(self.hit_limit[row] for row in rows),
            num_facts=tuple(self.num_facts[row] for row in rows),
            num_unsupported=tuple(self.num_unsupported[row] for row in rows),
            num_stated=tuple(self.num_stated[row] for row in rows),
            num_omitted=tuple(self.num_omitted[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """References, base and tuned over the same rows, which for visits are whole notes; no text.

    `divisions`: by division of a visit's note, the scores of each side as `division_scores` has them.
    """

    ids: tuple[str, ...]
    shared_ids: frozenset[str]  # rows whose source text is also in the training data
    copied_dialogue: Rouge  # ROUGE of the source text itself, tags stripped: a floor
    references: Side
    base: Side
    tuned: Side
    max_new_tokens: int
    no_repeat_ngram_size: int = 0
    grounded: bool = False  # decoding could write no unsupported fact
    checks_facts: bool = True  # False: the task has no text to look facts up in
    baseline: Rouge = field(default_factory=dict)  # of another system's notes of the same rows
    choices: Choices | None = None
    blind: Blind | None = None  # of a task that shows images
    divisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def counts_omissions(self) -> bool:
        """Whether there is a fact that a note could leave out; False where facts come from no dialogue."""
        return any(self.references.num_stated)

    @property
    def decoding(self) -> str:
        """The decoding of both sides, in words."""
        rule = f", no {self.no_repeat_ngram_size} tokens of a note in a row twice" if self.no_repeat_ngram_size else ""
        return "greedy decoding" + rule + (", no fact that the source text does not support" if self.grounded else "")

    def without_shared(self) -> Comparison:
        """The comparison without the rows in `shared_ids`, and without the scores by division."""
        rows = [row for row, id in enumerate(self.ids) if id not in self.shared_ids]
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            shared_ids=frozenset(),
            copied_dialogue=_select(self.copied_dialogue, rows),
            references=self.references.select(rows),
            base=self.base.select(rows),
            tuned=self.tuned.select(rows),
            baseline=_select(self.baseline, rows),
            choices=self.choices and self.choices.select(rows),
            blind=self.blind and self.blind.select(rows),
            divisions={},
        )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison, and what it is made of: whole records and notes, which hold text, for the blinded sheet only."""

    comparison: Comparison
    records: list[Record] = field(repr=False)
    base_notes: list[GeneratedNote] = field(repr=False)
    tuned_notes: list[GeneratedNote] = field(repr=False)


def compare_base_and_tuned(
    model: Any,
    renderer: PromptRenderer,
    records: Sequence[Record],
    *,
    shared_ids: Collection[str] = (),
    baseline: Mapping[str, str] | None = None,
    max_length: int,
    max_new_tokens: int,
    no_repeat_ngram_size: int = 0,
    grounded: bool = False,
    batch_size: int = 16,
    show_progress: bool = True,
    decoder: Decoder | None = None,
    open_part: Callable[[str], AbstractContextManager[PartFile | None]] = lambda side: nullcontext(),
) -> Compared:
    """Generate the notes of `records` greedily, with the PeftModel's adapter off and on, and measure them.

    Facts are looked up in the whole source text, even where the prompt held a truncated one. `baseline`: another
    system's notes by id. `open_part("base")` and `open_part("tuned")` keep notes as they end.
    """
    notes: dict[str, list[GeneratedNote]] = {}
    likeliest: dict[str, tuple[str, ...]] = {}
    write = partial(
        generate_notes,
        model,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        no_repeat_ngram_size=no_repeat_ngram_size,
        grounded=grounded,
        batch_size=batch_size,
        show_progress=show_progress,
        decoder=decoder,
    )
    for name in SIDES:
        with open_part(name) as part, model.disable_adapter() if name == "base" else nullcontext():
            notes[name] = write(renderer, records, label=f"{name} notes", part=part)
            budget = max_length - max_new_tokens
            likeliest |= likeliest_choices(
                model, renderer, records, side=name, max_prompt_tokens=budget, decoder=decoder
            )
    choices = written_choices(renderer, records, notes)
    choices = choices and replace(choices, given={**likeliest, **choices.given})
    blind = {**notes, **blind_notes(write, renderer, records)} if "blind" in renderer.task.floors else None
    decoding: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "grounded": grounded,
    }
    decoding |= {"choices": choices, "blind": blind and measure_blind(records, blind, renderer.task)}
    return _measure(renderer, records, notes, shared_ids=shared_ids, baseline=baseline, **decoding)


def _measure(
    renderer: PromptRenderer,
    records: Sequence[Record],
    notes: Mapping[str, list[GeneratedNote]],
    *,
    shared_ids: Collection[str],
    baseline: Mapping[str, str] | None,
    **measured: Any,
) -> Compared:
    """The comparison of the written notes, which are whole from here on: the divisions of a visit are joined."""
    task = renderer.task
    visits, base_notes = whole_notes(records, notes["base"], task)
    _, tuned_notes = whole_notes(records, notes["tuned"], task)
    _, references = whole_notes(records, [_as_note(record, renderer) for record in records], task)
    shared = {id.rpartition("/")[0] if task.divide else id for id in shared_ids}
    comparison = Comparison(
        ids=tuple(visit.id for visit in visits),
        shared_ids=frozenset(visit.id for visit in visits if visit.id in shared),
        copied_dialogue=_copied(visits, task),
        references=replace(_side(visits, references, task), rouge={}),
        base=_side(visits, base_notes, task),
        tuned=_side(visits, tuned_notes, task),
        checks_facts=task.facts_from is not None,
        baseline={} if baseline is None else _rouge(visits, [baseline[visit.id] for visit in visits]),
        divisions=_divisions(visits, {"base": base_notes, "tuned": tuned_notes}) if task.divide else {},
        **measured,
    )
    return Compared(comparison=comparison, records=visits, base_notes=base_notes, tuned_notes=tuned_notes)


def _as_note(record: Record, renderer: PromptRenderer) -> GeneratedNote:
    num_tokens = len(renderer.note_ids(record.answer)) - 1
    return GeneratedNote(id=record.id, note=record.answer, num_tokens=num_tokens, hit_limit=False)


def _copied(records: Sequence[Record], task: Task) -> Rouge:
    if "copied_source" not in task.floors:
        return {}
    return _rouge(records, [strip_tags(record.source_text) for record in records])


def _divisions(
    visits: Sequence[Record], notes: Mapping[str, Sequence[GeneratedNote]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by division, then side (the reverse of the input), as the report has a line for each division."""
    truth = [visit.note for visit in visits]
    by_side = {side: division_scores(truth, [[note.note for note in rows]]) for side, rows in notes.items()}
    return {name: {side: scores[name] for side, scores in by_side.items()} for name in by_side["base"]}


def _select(rouge: Rouge, rows: Sequence[int]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values[row] for row in rows) for name, values in rouge.items()}


def _rouge(records: Sequence[Record], notes: Sequence[str]) -> dict[str, tuple[float, ...]]:
    rows = score_rows([record.note for record in records], notes)
    return {name: tuple(getattr(rows, name)) for name in METRICS}


def _side(records: Sequence[Record], notes: Sequence[GeneratedNote], task: Task) -> Side:
    texts = [task.answer.split(note.note)[1] for note in notes]
    facts = [check_record(text, record, task) for text, record in zip(texts, records, strict=True)]
    omissions = [omissions_of_record(text, record, task) for text, record in zip(texts, records, strict=True)]
    return Side(
        rouge=_rouge(records, texts) if "rouge" in task.metrics else {},
        num_tokens=tuple(note.num_tokens for note in notes),
        hit_limit=tuple(note.hit_limit for note in notes),
        num_facts=tuple(count_checked(row) for row in facts),
        num_unsupported=tuple(count_unsupported(row) for row in facts),
        num_stated=tuple(row.stated for row in omissions),
        num_omitted=tuple(len(row.omitted) for row in omissions),
    )
