"""Micro-batches padded to few shapes, so that few CUDA graphs serve a whole run.

T tokens of a packed row, M positions that the loss reads, N documents.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad

from medsum_core.data.collator import MicroBatch
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.errors import InputError

# T and M are rounded up to multiples of these: smaller ones waste less work, but need more graphs.
TOKENS, READ = 512, 256
LEAST_DOCUMENTS = 4  # N becomes a power of two from here on


def padded_to_bucket(batch: MicroBatch) -> MicroBatch:
    """The packed row with T, M and N rounded up; same loss and gradient.

    The padding is one more document; empty ones follow, up to a power of two. (More of them would slow down a single
    long document: the deterministic backward pass of FlashAttention 2 gives each document and head the share
    1 / (N x heads) of a GPU's processors.) The positions that are read in addition have no target, and count nothing
    in `note_nll`; each position is read once at most. `document_lengths` becomes one document of T tokens: Python reads
    it, so a graph would repeat the lengths of its first batch. Raises InputError for a batch of several rows.
    """
    num_rows, num_tokens = batch.input_ids_BT.shape
    if num_rows > 1:
        raise InputError("--kernels graphs: takes packed rows only; leave --pack_tokens out")
    length = _rounded(num_tokens, TOKENS)
    missing = length - num_tokens
    padding_1P = torch.arange(missing)[None]
    padded = replace(
        batch,
        input_ids_BT=pad(batch.input_ids_BT, (0, missing)),
        position_ids_BT=torch.cat((batch.position_ids_BT, padding_1P), 1),
        targets_BT=pad(batch.targets_BT, (0, missing), value=IGNORE_INDEX),
        document_lengths=((length,),),
    )
    starts = [*batch.document_starts.tolist(), length]
    num_documents = len(starts) - 1
    starts += [length] * (max(LEAST_DOCUMENTS, 1 << (num_documents - 1).bit_length()) - num_documents)
    padded.__dict__["document_starts"] = torch.tensor(starts, dtype=torch.int32)
    padded.__dict__["read_M"] = _read(padded)
    return padded


def _read(batch: MicroBatch) -> torch.Tensor:
    """The positions with a target, then the first ones without, up to a multiple of READ or all T."""
    is_ignored_T = batch.targets_BT[0] == IGNORE_INDEX
    num_targets = int((~is_ignored_T).sum())
    return is_ignored_T.sort(stable=True).indices[: _rounded(max(num_targets, 1), READ)]


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
