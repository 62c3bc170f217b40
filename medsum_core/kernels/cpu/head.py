"""Tiles of the LM head on a CPU: products in its fastest dtype, the running softmax in one compiled loop.

Letters: C positions and W vocabulary entries of a tile, H hidden size.
"""

from __future__ import annotations

from torch import Tensor

from medsum_core.kernels.cpu.bf16_products import product, product_transposed
from medsum_core.kernels.cpu.elementwise import array_of, running_softmax


class CpuHead:
    """`training.loss.HeadArithmetic` for CPUs."""

    def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
        """The logits of a tile, (C, W), written to `out`."""
        return product(hidden_CH, head_WH, out=out)

    def product_transposed(self, probability_CW: Tensor, head_WH: Tensor) -> Tensor:
        """(C, H): a tile's part of the gradient of the hidden states, from its probabilities."""
        return product_transposed(probability_CW, head_WH)

    def add_tile(self, logits_CW: Tensor, column_C: Tensor, *totals: Tensor) -> None:
        """Overwrite logits by their probabilities so far, the target's by 0; update the totals (C,)."""
        running_softmax(array_of(logits_CW), array_of(column_C), *(array_of(total_C) for total_C in totals))
