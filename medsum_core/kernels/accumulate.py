"""A window's gradient by the fast kernels: concurrent micro-batches, and a common prefix that is computed once.

The plain implementation of the same sum is `accumulate_gradients` in train_loop.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from medsum_core.data.collator import MicroBatch
from medsum_core.device import arithmetic_dtype
from medsum_core.errors import InputError
from medsum_core.kernels.cpu.document_attention import attend_per_document
from medsum_core.kernels.cpu.malloc import trim_malloc
from medsum_core.kernels.cpu.shared_prefix import SharedPrefix, prefix_states, split_prefix
from medsum_core.kernels.cpu.workers import GradientSum, Workers, assign_micro_batches
from medsum_core.kernels.layers import hidden_states
from medsum_core.kernels.layers.adapter_copies import AdapterCopies
from medsum_core.kernels.layers.dropout import draw_seeds, dropout_seed, layer_seeds
from medsum_core.kernels.layers.lora_linear import count_fused
from medsum_core.kernels.layers.rms_norm import use_fast_norms
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import causal_model, head_softcap, head_weight

Objective = Callable[..., Tensor]


class FastAccumulator:
    """See `kernels.Accumulate`. Each micro-batch has its own dropout seed and a fixed place in the order of sums, so
    results are bit-identical whichever thread computes it."""

    def __init__(
        self,
        model: PeftModel,
        parameters: Sequence[nn.Parameter],
        *,
        device: torch.device,
        scaler: torch.amp.GradScaler,
        attention: str,
        pack_tokens: int,
        num_concurrent: int,
    ) -> None:
        """`num_concurrent`: micro-batches computed at a time, each on its part of a CPU's cores.

        Norms are read again, since `prepare_model` may have changed them. Raises ValueError for a trainable norm.
        """
        use_fast_norms(model)
        self._model, self._parameters, self._device, self._scaler = model, list(parameters), device, scaler
        self._attention, self._pack_tokens = attention, pack_tokens
        self._workers, self._num_layers = Workers(num_concurrent), count_fused(model)
        self._copies = AdapterCopies(model, arithmetic_dtype(device, causal_model(model).dtype))
        self.shares_prefix = pack_tokens > 0 and attention == "per_document" and device.type == "cpu"

    def __call__(
        self, micro_batches: Sequence[MicroBatch], *, num_targets: int, objective: Objective, reads_targets_only: bool
    ) -> Tensor:
        """The summed loss, () float32. Raises InputError for an objective that reads positions without a target."""
        self._scaler.scale(torch.zeros((), device=self._device))  # GradScaler initialises lazily, also without rows
        beginning, micro_batches = split_prefix(micro_batches) if self.shares_prefix else (None, micro_batches)
        *seeds, prefix_seed = draw_seeds(len(micro_batches) + 1)
        if self._device.type == "cpu":
            trim_malloc()
        own = {"per_document": attend_per_document} if self._device.type == "cpu" else {}
        attention = document_attention(self._model, self._attention, functions=own)
        with attention, self._copies.current():
            with dropout_seed(prefix_seed):
                prefix = None if beginning is None else prefix_states(self._model, beginning.to(self._device))
            wanted = [*self._parameters, *(() if prefix is None else prefix.leaves)]

            def add_gradients(places: Sequence[int], total: GradientSum) -> None:
                for place in places:
                    batch = micro_batches[place].to(self._device)
                    with dropout_seed(layer_seeds(seeds[place], self._num_layers, device=self._device)):
                        nll = self._nll(batch, prefix, objective, reads_targets_only=reads_targets_only)
                        loss = self._scaler.scale(nll / num_targets)
                        total.add(nll, torch.autograd.grad(loss, wanted, allow_unused=True))
                    del nll, loss  # else their graph would stay in memory during the next forward pass

            total = self._sum(micro_batches, add_gradients, num_wanted=len(wanted))
            if prefix is not None:
                prefix_gradients = total.gradients[len(self._parameters) :]
                total.add(torch.zeros_like(total.nll), prefix.backward(prefix_gradients, self._parameters))
        for parameter, gradient in zip(self._parameters, total.gradients, strict=False):  # the prefix's come after
            parameter.grad = gradient
        return total.nll

    def _sum(
        self, micro_batches: Sequence[MicroBatch], add_gradients: Callable[..., None], *, num_wanted: int
    ) -> GradientSum:
        alone, shares = assign_micro_batches(micro_batches, self._workers.count, pack_tokens=self._pack_tokens)
        sums = [GradientSum(num_wanted, self._device) for _ in shares]
        total = sums[0]
        add_gradients(alone, total)
        self._workers.map(add_gradients, shares, sums)
        for part in sums[1:]:
            total.add(part.nll, part.gradients)
        return total

    def _nll(
        self, batch: MicroBatch, prefix: SharedPrefix | None, objective: Objective, *, reads_targets_only: bool
    ) -> Tensor:
        options: dict[str, Any] = {} if prefix is None else {"prefix": prefix}
        hidden_BTH = hidden_states(self._model, batch, **options)
        if not reads_targets_only:
            hidden_BTH.register_hook(lambda gradient_BTH: _refuse_unread(gradient_BTH, batch.read_M))
        head_VH = head_weight(self._model)
        given: dict[str, Any] = {"softcap": head_softcap(self._model)}
        if reads_targets_only:
            given["read_M"] = batch.read_M
        nll = objective(hidden_BTH, batch.targets_BT, head_VH, **given)
        if not (reads_targets_only or torch.isfinite(nll)):
            read_TH = torch.zeros_like(hidden_BTH).flatten(0, 1)
            read_TH[batch.read_M] = hidden_BTH.detach().flatten(0, 1)[batch.read_M]
            if torch.isfinite(objective(read_TH.view_as(hidden_BTH), batch.targets_BT, head_VH, **given)):
                raise _reads_unread()  # NaN only because it reads positions that were not computed
        return nll


def _refuse_unread(gradient_BTH: Tensor, read_M: Tensor) -> None:
    """The gradient at positions that the last layer did not compute must be 0: it would be lost."""
    unread_TH = gradient_BTH.flatten(0, 1).index_fill(0, read_M, 0)
    if unread_TH.count_nonzero():
        raise _reads_unread()


def _reads_unread() -> InputError:
    return InputError(
        "the objective reads positions without a target, which the fast kernels do not compute: use --kernels "
        "reference, or have the collator give these positions a target"
    )
