"""The LM head's tiles on a CPU: products in the arithmetic it is fast at, the running softmax in one compiled pass.

Letters: C positions, W words of a tile, H hidden size.
"""

from __future__ import annotations

from torch import Tensor

from medsum_core.kernels.cpu.bf16_products import product, product_transposed
from medsum_core.kernels.cpu.elementwise import array_of, running_softmax


class CpuHead:
    """`training.loss.HeadArithmetic` for a CPU."""

    def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
        """The logits of a tile, (C, W), written to `out`."""
        return product(hidden_CH, head_WH, out=out)

    def product_transposed(self, share_CW: Tensor, head_WH: Tensor) -> Tensor:
        """(C, H): what a tile's shares give the gradient in the hidden states."""
        return product_transposed(share_CW, head_WH)

    def fold(self, logits_CW: Tensor, column_C: Tensor, *totals: Tensor) -> None:
        """Logits become their shares of the softmax so far, without the target's; the totals (C,) are updated."""
        running_softmax(array_of(logits_CW), array_of(column_C), *(array_of(total_C) for total_C in totals))
