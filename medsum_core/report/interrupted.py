"""An interrupted report keeps the notes written so far in the run folder, for the next start of the run.

`base_notes.part.jsonl` and `tuned_notes.part.jsonl`, for their owner only, hold patient text while the report is being
written, and until a run that was interrupted then is resumed; a finished report leaves neither. A resumed report has
the notes of an uninterrupted one up to the rounding of sums: fewer notes may be written side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsum_core.config.report_parts import part_path
from medsum_core.data.records import Record
from medsum_core.errors import InputError, StoppedBySignal, differing_names
from medsum_core.generation.batch import Forward
from medsum_core.generation.decoding_memory import DecodingChoice
from medsum_core.generation.generate import Decoder, own_modules
from medsum_core.generation.made_from import MadeFrom, prompt_sha256, row_sha256
from medsum_core.generation.note_rows import GeneratedNote
from medsum_core.generation.part_file import PartFile, read_part
from medsum_core.report.comparison import SIDES
from medsum_core.training.run import Run
from medsum_core.training.signals import StopFlag

DECISIVE = ("base_weights", "base_config", "environment", "functions")  # of the run's fingerprints


@dataclass(frozen=True, kw_only=True)
class ReportNotes:
    """The part files of a report's notes, one for each side."""

    folder: Path  # the run's
    rows: tuple[str, ...]  # `row_sha256` of each record of the report
    settings: Mapping[str, Any]  # what decides the base's notes
    adapter: Mapping[str, str]  # the adapter's hashes, which decide the tuned notes besides
    memory: Mapping[str, Any]  # `DecodingChoice.to_json`

    @contextmanager
    def open_part(self, side: str) -> Iterator[PartFile]:
        """The notes of a side, those of an interrupted report included if they were made from the same."""
        settings = {**self.settings, "adapter": dict(self.adapter) if side == "tuned" else None}
        made_from = MadeFrom(settings=settings, rows=self.rows, memory=dict(self.memory))
        path = part_path(self.folder, side)
        with closing(PartFile(path, made_from, _notes_found(path, made_from))) as part:
            yield part


def report_notes(
    run: Run, records: Sequence[Record], *, adapter: Mapping[str, str], choice: DecodingChoice
) -> ReportNotes:
    """The part files of this run's report. `adapter`: hashes of the one in the run folder."""
    data, model = run.config.data, run.config.model
    settings = {
        **{name: run.fingerprints[name] for name in DECISIVE},
        "precision": model.precision,
        "dequantize": model.dequantize,
        "kernels": run.kernels.name,
        "prompt": prompt_sha256(run.renderer, data.max_prompt_tokens),
        "max_new_tokens": data.max_new_tokens,
        "no_repeat_ngram_size": data.no_repeat_ngram_size,
        **({"grounded": True} if data.grounded else {}),
    }
    rows = tuple(row_sha256(record) for record in records)
    return ReportNotes(folder=run.folder, rows=rows, settings=settings, adapter=adapter, memory=choice.to_json())


def remove_parts(folder: Path) -> None:
    """Delete the notes of a report that is finished, or that is not asked for any more."""
    for side in SIDES:
        part_path(folder, side).unlink(missing_ok=True)


def stopping_between_tokens(decoder: Decoder | None, stop: StopFlag) -> Decoder:
    """The same forward pass, which raises StoppedBySignal before it where a stop is requested."""

    @contextmanager
    def decode(model: Any) -> Iterator[Forward]:
        with (decoder or own_modules)(model) as forward:

            def forward_unless_stopped(*arguments: Any) -> Any:
                if stop.requested:
                    raise StoppedBySignal(
                        "in the report; resume with --resume_from_checkpoint auto. Until then the notes that are "
                        "written so far, which hold patient text, stay in the run folder"
                    )
                return forward(*arguments)

            yield forward_unless_stopped

    return decode


def _notes_found(path: Path, made_from: MadeFrom) -> dict[str, GeneratedNote]:
    """The notes of an interrupted report that are still wanted; none where they were made from something else."""
    if not path.exists():
        return {}
    try:
        earlier = read_part(path)
    except InputError:
        print(f"{path}: can't be read, or not what an interrupted report leaves; written anew", file=sys.stderr)
        return {}
    if earlier is None:
        return {}
    if differing := differing_names(earlier.made_from.settings, made_from.to_json()["settings"]):
        print(f"{path}: made with other settings ({', '.join(differing)}); written anew", file=sys.stderr)
        return {}
    return {row: note for row, note in earlier.notes.items() if row in made_from.rows}
