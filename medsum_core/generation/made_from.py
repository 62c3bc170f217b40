"""What notes were made from: hashes of the rows, and the settings; they decide whether a call may resume with them.

A row is identified by its content, not its id alone: two visits in different files may share an id. No text is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.data.records import Record
from medsum_core.errors import InputError, differing_names

if TYPE_CHECKING:  # it imports transformers, for which a wrong flag need not wait
    from medsum_core.data.prompt import PromptRenderer

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """The rows and settings of a call that writes notes."""

    settings: dict[str, Any]  # model, adapter, prompt and decoding
    rows: tuple[str, ...]  # `row_sha256` of each row of the input, in its order
    memory: dict[str, Any] = field(default_factory=dict)  # chosen by free memory; affects notes by rounding only

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; `from_json` gives an equal record back."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, values: Any) -> MadeFrom:
        """The record that `to_json` wrote. Raises ValueError for anything else."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError(f"not a record of format {FORMAT}")
        settings, rows = values.get("settings"), values.get("rows")
        if (
            not isinstance(settings, dict)
            or not isinstance(rows, list)
            or not all(isinstance(row, str) for row in rows)
        ):
            raise ValueError("not the settings and rows of a call")
        return cls(settings=settings, rows=tuple(rows), memory=dict(values.get("memory", {})))

    def check_rows(self, rows: Iterable[str], *, path: Path) -> None:
        """Raise InputError unless every row that `path` was made from is among `rows`, with the same content."""
        missing = len(set(self.rows) - set(rows))
        if missing:
            raise InputError(
                f"{path}: made from another input; {missing} of its {len(self.rows)} rows are not in this one (same "
                "id, section and dialogue). Give the former input back, or write to another --output_file"
            )

    def check_settings(self, settings: Mapping[str, Any], *, path: Path) -> None:
        """Raise InputError that names the settings in which this call differs from the one that `path` was made by."""
        current = json.loads(json.dumps(dict(settings)))
        if differing := differing_names(self.settings, current):
            raise InputError(
                f"{path}: made with other settings ({', '.join(differing)}). Give the former ones back, or write to "
                "another --output_file"
            )


def row_sha256(record: Record) -> str:
    """The sha256 (hex) of a row's id and the parts of its prompt."""
    fields = [record.id, *record.parts.values()]
    return hashlib.sha256(json.dumps(fields).encode("ascii")).hexdigest()


def prompt_sha256(renderer: PromptRenderer, max_prompt_tokens: int) -> str:
    """The sha256 (hex) of what all prompts share: fixed pieces, stop tokens and maximum length."""
    pieces = [*renderer.fixed_ids, renderer.stop_token_ids, max_prompt_tokens]
    return hashlib.sha256(json.dumps(pieces).encode("ascii")).hexdigest()


def function_names(**functions: Any) -> dict[str, str]:
    """The names of the functions that are given, for the settings; None: left out."""
    given = {name: function for name, function in functions.items() if function is not None}
    return {name: getattr(function, "__qualname__", repr(function)) for name, function in given.items()}
