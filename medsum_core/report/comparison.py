"""Base against tuned: both generate notes for the same rows, and each note is measured, a number a row.

Same weights in memory, same precision, same prompt, same decoding; for the base the adapter is disabled. `Comparison`
holds ids and numbers but no text, so that the report and the model card cannot leak any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.generation.generate import Decoder
from medsum_core.generation.note_rows import GeneratedNote
from medsum_core.generation.notes import generate_notes
from medsum_core.generation.part_file import PartFile
from medsum_core.grounding.check import check_note, count_unsupported
from medsum_core.score.evaluate import strip_tags
from medsum_core.score.rouge import METRICS, score_rows

SIDES = ("base", "tuned")  # in the order in which their notes are written


@dataclass(frozen=True, kw_only=True)
class Side:
    """Measurements of the notes of the references, the base or the tuned model, in the order of `Comparison.ids`."""

    rouge: Mapping[str, tuple[float, ...]]  # F-measures from 0 to 1 by ROUGE name; empty for the references
    num_tokens: tuple[int, ...]
    hit_limit: tuple[bool, ...]  # all False for the references
    num_facts: tuple[int, ...]
    num_unsupported: tuple[int, ...]  # facts that the dialogue does not say, or contradicts

    def select(self, rows: Sequence[int]) -> Side:
        """The same side for some rows, by position."""
        return Side(
            rouge=_select(self.rouge, rows),
            num_tokens=tuple(self.num_tokens[row] for row in rows),
            hit_limit=tuple(self.hit_limit[row] for row in rows),
            num_facts=tuple(self.num_facts[row] for row in rows),
            num_unsupported=tuple(self.num_unsupported[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """References, base and tuned over the same rows; no text."""

    ids: tuple[str, ...]
    shared_ids: frozenset[str]  # rows whose dialogue is also in the training data
    copied_dialogue: Mapping[str, tuple[float, ...]]  # ROUGE of the dialogue itself, tags stripped: a floor
    references: Side
    base: Side
    tuned: Side
    max_new_tokens: int
    num_beams: int
    no_repeat_ngram_size: int = 0

    @property
    def decoding(self) -> str:
        """The decoding of both sides, in words."""
        search = f"beam search of width {self.num_beams}" if self.num_beams > 1 else "greedy decoding"
        rule = f", no {self.no_repeat_ngram_size} tokens of a note in a row twice" if self.no_repeat_ngram_size else ""
        return search + rule

    def without_shared(self) -> Comparison:
        """The comparison without the rows in `shared_ids`."""
        rows = [row for row, id in enumerate(self.ids) if id not in self.shared_ids]
        return Comparison(
            ids=tuple(self.ids[row] for row in rows),
            shared_ids=frozenset(),
            copied_dialogue=_select(self.copied_dialogue, rows),
            references=self.references.select(rows),
            base=self.base.select(rows),
            tuned=self.tuned.select(rows),
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )


def compare_base_and_tuned(
    model: Any,
    renderer: PromptRenderer,
    records: Sequence[Record],
    *,
    shared_ids: Collection[str] = (),
    max_length: int,
    max_new_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    batch_size: int = 16,
    show_progress: bool = True,
    decoder: Decoder | None = None,
    open_part: Callable[[str], AbstractContextManager[PartFile | None]] = lambda side: nullcontext(),
) -> tuple[Comparison, list[GeneratedNote], list[GeneratedNote]]:
    """Generate the notes of `records` with the PeftModel's adapter off and on: (numbers, base notes, tuned notes).

    Facts are looked up in the whole dialogue, even where the prompt held a truncated one. The two lists hold text and
    are meant for `write_blind_sheet` only. `open_part("base")` and `open_part("tuned")` keep notes as they end.
    """
    notes: dict[str, list[GeneratedNote]] = {}
    for name in SIDES:
        with open_part(name) as part, model.disable_adapter() if name == "base" else nullcontext():
            notes[name] = generate_notes(
                model,
                renderer,
                records,
                max_length=max_length,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                length_penalty=length_penalty,
                no_repeat_ngram_size=no_repeat_ngram_size,
                batch_size=batch_size,
                label=f"{name} notes",
                show_progress=show_progress,
                decoder=decoder,
                part=part,
            )
    comparison = Comparison(
        ids=tuple(record.id for record in records),
        shared_ids=frozenset(record.id for record in records if record.id in shared_ids),
        copied_dialogue=_rouge(records, [strip_tags(record.source_text) for record in records]),
        references=_reference_side(renderer, records),
        base=_model_side(records, notes["base"]),
        tuned=_model_side(records, notes["tuned"]),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    return comparison, notes["base"], notes["tuned"]


def _select(rouge: Mapping[str, tuple[float, ...]], rows: Sequence[int]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values[row] for row in rows) for name, values in rouge.items()}


def _rouge(records: Sequence[Record], notes: Sequence[str]) -> dict[str, tuple[float, ...]]:
    rows = score_rows([record.note for record in records], notes)
    return {name: tuple(getattr(rows, name)) for name in METRICS}


def _facts(notes: Sequence[str], records: Sequence[Record]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    facts = [check_note(note, record.source_text) for note, record in zip(notes, records, strict=True)]
    return tuple(len(row) for row in facts), tuple(count_unsupported(row) for row in facts)


def _model_side(records: Sequence[Record], notes: Sequence[GeneratedNote]) -> Side:
    texts = [note.note for note in notes]
    num_facts, num_unsupported = _facts(texts, records)
    return Side(
        rouge=_rouge(records, texts),
        num_tokens=tuple(note.num_tokens for note in notes),
        hit_limit=tuple(note.hit_limit for note in notes),
        num_facts=num_facts,
        num_unsupported=num_unsupported,
    )


def _reference_side(renderer: PromptRenderer, records: Sequence[Record]) -> Side:
    num_facts, num_unsupported = _facts([record.note for record in records], records)
    return Side(
        rouge={},
        num_tokens=tuple(len(renderer.note_ids(record.note)) - 1 for record in records),
        hit_limit=(False,) * len(records),
        num_facts=num_facts,
        num_unsupported=num_unsupported,
    )
