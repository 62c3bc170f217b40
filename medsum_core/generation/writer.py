"""All settings for writing notes, checked before any weight is loaded, and the writing of a file of notes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.generation.decoding_memory import DecodingChoice
from medsum_core.generation.generate import generate
from medsum_core.generation.likelihood import likeliest_options
from medsum_core.generation.made_from import MadeFrom, row_sha256
from medsum_core.generation.note_files import write_notes
from medsum_core.generation.notes import FittedRows, TokenBudget, fit_rows, generated_note, grounding_in
from medsum_core.generation.output_file import earlier_notes
from medsum_core.generation.part_file import PartFile, part_path, saving_notes


@dataclass(frozen=True, kw_only=True)
class Writer:
    """All settings that determine the notes, checked; the weights are loaded later by `load_model`."""

    load_model: Callable[[Sequence[Sequence[int]]], Any]  # (prompts); takes seconds to minutes
    renderer: PromptRenderer
    budget: TokenBudget
    decoding: dict[str, Any]  # arguments of `generate` that determine its notes
    forward: dict[str, Any]  # arguments of `generate` that are functions: decoder and search
    description: dict[str, Any]  # what else determines the notes: hashes of model and adapter, prompt, kernels
    choice: DecodingChoice  # chosen by free memory; affects notes by rounding only
    base_source: dict[str, Any]  # where the base's files are: name, revision, offline

    def options(self, records: Sequence[Record]) -> dict[str, Any]:
        """Arguments of `generate` for these records. Raises InputError where their facts can't be checked."""
        grounding = grounding_in(records, self.renderer) if "grounded" in self.description else None
        how = {"stop_token_ids": self.renderer.stop_token_ids, "batch_size": self.choice.batch_size}
        return {**self.decoding, **self.forward, **how, "grounding": grounding}


def write_file(
    records: Sequence[Record],
    out: Path,
    *,
    prepare: Callable[[], Writer],
    output_format: str,
    with_evidence: bool,
) -> None:
    """Write notes for all records to OUT; each is saved as it is finished, so that an interruption loses none."""
    rows = {row_sha256(record): record for record in records}
    earlier = earlier_notes(out)
    if earlier is not None:
        earlier.check_rows(rows)
    writer = prepare()
    settings = {**writer.description, **writer.decoding}
    made_from = MadeFrom(settings=settings, rows=tuple(rows), memory=writer.choice.to_json())
    if earlier is not None:
        earlier.check_settings(made_from.settings)
    fitted = fit(rows, writer)
    with saving_notes(out):
        part = PartFile(part_path(out), made_from, {} if earlier is None else earlier.notes)
    with closing(part):
        _write_missing(writer, rows, fitted, part)
    with saving_notes(out):
        write_notes(
            out,
            rows,
            part.notes,
            made_from,
            task=writer.renderer.task,
            set_aside=fitted.set_aside,
            output_format=output_format,
            with_evidence=with_evidence,
        )
        part.path.unlink()
    cut = sum(note.hit_limit for note in part.notes.values())
    print(
        f"{len(fitted.prompts)} notes in {out}; {cut} ran into the limit of {writer.budget.max_new_tokens} tokens",
        file=sys.stderr,
    )


def fit(rows: Mapping[str, Record], writer: Writer, *, needs_all: bool = False) -> FittedRows:
    """Prompts, truncated as in training, with notices on stderr.

    Raises InputError if no row is left, and with `needs_all` if one is set aside.
    """
    fitted = fit_rows(rows, writer.renderer, writer.budget)
    if not fitted.prompts or (needs_all and fitted.set_aside):
        what = "the whole note can't be written" if fitted.prompts else "no row is left to write a note for"
        raise InputError(f"{what}:\n" + "\n".join(fitted.lines(rows)))
    for line in fitted.lines(rows):
        print(line, file=sys.stderr)
    return fitted


def _write_missing(writer: Writer, rows: Mapping[str, Record], fitted: FittedRows, part: PartFile) -> None:
    """Generate the notes that `part` lacks, appending each when finished. Raises StoppedBySignal when interrupted."""
    todo = [row for row in fitted.prompts if row not in part.notes]
    if not todo:
        return
    with tqdm(total=len(fitted.prompts), initial=len(fitted.prompts) - len(todo), desc="notes", unit="note") as bar:
        choices: Sequence[str] = ()

        def keep(index: int, generation: Any) -> None:
            row = todo[index]
            note = generated_note(rows[row].id, generation, writer.renderer)
            with saving_notes(part.path):
                part.add(row, replace(note, choice=choices[index]) if choices else note)
            bar.update()

        try:
            prompts = [fitted.prompts[row] for row in todo]
            model = writer.load_model(prompts)
            choices = likeliest_options(model, writer.renderer, prompts, decoder=writer.forward["decoder"])
            generate(
                model,
                prompts,
                on_finished=keep,
                **writer.options([rows[row] for row in todo]),
            )
        except KeyboardInterrupt:
            raise StoppedBySignal(f"{len(part.notes)} notes are kept in {part.path}; go on with --resume") from None
