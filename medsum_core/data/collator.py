"""Examples to micro-batches, padded or packed. How a window is cut into micro-batches never changes its gradient.

B rows, T positions. A window is the rows of one optimiser update; a micro-batch is what goes through the model at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """The rows of one forward and backward pass. All tensors are int64, [B, T]; no attention mask is needed.

    `document_lengths` (and positions that restart at 0) separate the documents of a row. Padding comes after the last
    document of a row, where causal attention does not reach it.
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    targets_BT: Tensor  # already shifted; IGNORE_INDEX on prompts, on padding and at each document's last position
    document_lengths: tuple[tuple[int, ...], ...]
    ids: tuple[str, ...]
    num_targets: int
    num_tokens: int  # without padding

    @cached_property
    def read_M(self) -> Tensor:  # noqa: N802 - M: the number of these positions
        """(M,) int64, ascending: indices into the flat B x T of the positions with a target, which a loss may read."""
        return (self.targets_BT.flatten() != IGNORE_INDEX).nonzero()[:, 0]

    @cached_property
    def document_starts(self) -> Tensor:
        """int32: each document's start in the flat B x T, then B x T; a row's padding counts as a document."""
        lengths = padded_lengths(self.document_lengths, self.input_ids_BT.shape[1])
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)

    def with_tensors(self, change: Callable[[Tensor], Tensor], **fields: Any) -> MicroBatch:
        """A copy with `change` applied to each tensor, and with the given values of other fields."""
        names = ("input_ids_BT", "position_ids_BT", "targets_BT")
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed, **fields)

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same batch on `device`, copied without waiting for a GPU's earlier work."""

        def moved(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor  # else the copy would wait
            return pinned.to(device, non_blocking=True)

        batch = self.with_tensors(moved)
        for name in ("read_M", "document_starts"):  # computed on the CPU: nonzero() on a GPU would wait for it
            batch.__dict__[name] = moved(getattr(self, name))
        return batch


class Collate(Protocol):
    """How a window becomes micro-batches: pass another one to `train_loop.main`."""

    def __call__(
        self, examples: Sequence[Example], *, batch_size: int, pack_tokens: int, pad_token_id: int
    ) -> list[MicroBatch]:
        """Micro-batches that together hold each example exactly once, by its id.

        Its tokens and targets may be changed. The loss is still divided by the window's number of targets before.
        """
        ...


def each_row_once(micro_batches: list[MicroBatch], examples: Sequence[Example]) -> list[MicroBatch]:
    """The micro-batches, unchanged. Raises InputError unless they hold each example exactly once."""
    found = sorted(id for batch in micro_batches for id in batch.ids)
    if found != sorted(example.id for example in examples):
        raise InputError(
            f"the collator was given {len(examples)} rows and returned {len(found)}, or others: its micro-batches must "
            "hold each row exactly once; to leave a row out, leave it out of the data"
        )
    return micro_batches


def padded_lengths(document_lengths: Sequence[Sequence[int]], num_tokens: int) -> list[int]:
    """The document lengths of all rows, concatenated; the padding of a row counts as one more document."""
    lengths: list[int] = []
    for row in document_lengths:
        lengths += [*row, num_tokens - sum(row)] if sum(row) < num_tokens else row
    return lengths


def pad_rows(examples: Sequence[Example], *, pad_token_id: int) -> MicroBatch:
    """One document a row, padded on the right to the longest: [B, T]. `pad_token_id` has no effect on the result."""
    width = max(example.num_tokens for example in examples)
    return _micro_batch(
        examples,
        input_ids=[[*row.input_ids, *[pad_token_id] * (width - row.num_tokens)] for row in examples],
        position_ids=[list(range(width)) for _ in examples],
        targets=[[*row.targets, *[IGNORE_INDEX] * (width - row.num_tokens)] for row in examples],
        document_lengths=tuple((example.num_tokens,) for example in examples),
    )


def pack_rows(examples: Sequence[Example]) -> MicroBatch:
    """The documents concatenated in one row, [1, T]. In each, positions restart at 0 and the last has no target."""
    return _micro_batch(
        examples,
        input_ids=[[token for row in examples for token in row.input_ids]],
        position_ids=[[position for row in examples for position in range(row.num_tokens)]],
        targets=[[target for row in examples for target in row.targets]],
        document_lengths=(tuple(example.num_tokens for example in examples),),
    )


def split_window(
    examples: Sequence[Example], *, batch_size: int, pack_tokens: int, pad_token_id: int
) -> list[MicroBatch]:
    """A window as micro-batches, each row in exactly one.

    `pack_tokens` 0: `batch_size` rows each, in order, padded. Above 0: packed rows of at most `pack_tokens` tokens.
    Documents are packed from the longest to the shortest; each goes into the row with the least free space that is
    enough for it, or else into a new row (best-fit decreasing). One longer than `pack_tokens` gets a row of its own.
    The largest micro-batch comes first, so that later ones fit into the memory that it frees.
    """
    if pack_tokens == 0:
        starts = range(0, len(examples), batch_size)
        return [pad_rows(examples[start : start + batch_size], pad_token_id=pad_token_id) for start in starts]
    packed = [pack_rows(row) for row in _best_fit_decreasing(examples, pack_tokens)]
    return sorted(packed, key=lambda batch: -batch.num_tokens)


def _best_fit_decreasing(examples: Sequence[Example], pack_tokens: int) -> list[list[Example]]:
    rows: list[list[Example]] = []
    free: list[int] = []
    for example in sorted(examples, key=lambda example: -example.num_tokens):
        fitting = [index for index, space in enumerate(free) if space >= example.num_tokens]
        if fitting:
            index = min(fitting, key=lambda index: free[index])
            rows[index].append(example)
            free[index] -= example.num_tokens
        else:
            rows.append([example])
            free.append(pack_tokens - example.num_tokens)
    return rows


def _micro_batch(
    examples: Sequence[Example],
    *,
    input_ids: list[list[int]],
    position_ids: list[list[int]],
    targets: list[list[int]],
    document_lengths: tuple[tuple[int, ...], ...],
) -> MicroBatch:
    return MicroBatch(
        input_ids_BT=torch.tensor(input_ids, dtype=torch.int64),
        position_ids_BT=torch.tensor(position_ids, dtype=torch.int64),
        targets_BT=torch.tensor(targets, dtype=torch.int64),
        document_lengths=document_lengths,
        ids=tuple(example.id for example in examples),
        num_targets=sum(example.num_targets for example in examples),
        num_tokens=sum(example.num_tokens for example in examples),
    )
