"""The LM head in blocks of vocabulary entries, so that a CPU never holds all (rows x vocabulary) logits.

Letters: M rows, H hidden size, V vocabulary, k candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medsum_core.generation.banned_tokens import Ban
from medsum_core.generation.candidates import GROUP_SIZE, Candidates, best_and_total, join
from medsum_core.kernels.decoding.packed_weights import Product, block_products

# Vocabulary entries of a matrix product, and its logits to process at a time: these fit in a CPU's cache.
CPU_BLOCK_ENTRIES = 32768
CPU_CACHED_VALUES = 1 << 19


class Head:
    """The LM head (V, H), in blocks of vocabulary entries on a CPU."""

    def __init__(self, weight_VH: Tensor, *, softcap: float | None = None) -> None:
        self._num_entries = len(weight_VH)
        block = CPU_BLOCK_ENTRIES if weight_VH.device.type == "cpu" else self._num_entries
        self._starts = range(0, self._num_entries, block)
        self._products: list[Product] = block_products(weight_VH, block)
        self._softcap = softcap

    def candidates(self, hidden_MH: Tensor, num_candidates: int, ban: Ban | None = None) -> Candidates:
        """The candidates for the last layer's normed output."""
        best, tokens, totals = [], [], []
        for start, logits in self._logits(hidden_MH):
            if self._softcap is not None:
                logits = torch.tanh(logits / self._softcap) * self._softcap
            values, places, total = best_and_total(logits, num_candidates, ban, start)
            best.append(values)
            tokens.append(places + start)
            totals.append(total)
        return join(torch.cat(best, -1), torch.cat(tokens, -1), torch.stack(totals, -1).logsumexp(-1), num_candidates)

    def _logits(self, hidden_MH: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first entry's index and the fp32 logits of consecutive vocabulary entries; on a GPU of all of them."""
        width = CPU_CACHED_VALUES // len(hidden_MH) // GROUP_SIZE * GROUP_SIZE
        if hidden_MH.device.type != "cpu":
            width = self._num_entries
        for start, product in zip(self._starts, self._products, strict=True):
            for part in product(hidden_MH).split(max(GROUP_SIZE, width), dim=1):
                yield start, part.float()
                start += part.shape[1]
