"""Limits of a model, checked before any weight is loaded: number of positions and token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PretrainedConfig

from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.generation.generate import check_token_ids, num_positions


def check_positions(max_length: int, config: PretrainedConfig) -> None:
    """Raise InputError unless rows of `max_length` tokens fit the model's positions.

    A prompt and its note together have at most `max_length` tokens, in training as in the report.
    """
    room = num_positions(config)
    if room is not None and max_length > room:
        raise InputError(f"--max_length {max_length}: this model has room for {room} tokens; give at most that many")


def check_rows(rows: Iterable[Example], stop_token_ids: Sequence[int], config: PretrainedConfig) -> None:
    """Raise InputError where a row's or a stop token's id is beyond the model's embedding."""
    check_token_ids([*stop_token_ids, *(max(row.input_ids) for row in rows)], config)
