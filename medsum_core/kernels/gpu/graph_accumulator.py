"""A window's gradient by CUDA graphs: each micro-batch is copied into fixed memory, and its graph is replayed.

One graph holds the forward and backward pass of a micro-batch of a certain shape (`buckets.py`) and adds its gradient
to the window's. It is recorded when the first such micro-batch comes. Everything that differs between micro-batches is
a tensor that the graph reads: tokens, positions, targets, starts of documents, dropout seeds, the number of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from medsum_core.data.collator import MicroBatch
from medsum_core.device import arithmetic_dtype
from medsum_core.errors import InputError
from medsum_core.kernels import GRAPH_ATTENTION, OWN_OBJECTIVE
from medsum_core.kernels.gpu.buckets import padded_to_bucket
from medsum_core.kernels.gpu.graphs import Record, Replay
from medsum_core.kernels.layers import hidden_states
from medsum_core.kernels.layers.adapter_copies import AdapterCopies
from medsum_core.kernels.layers.dropout import draw_seeds, dropout_seed
from medsum_core.kernels.layers.lora_linear import count_fused
from medsum_core.kernels.layers.rms_norm import use_fast_norms
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import causal_model, head_softcap, head_weight

Objective = Callable[..., Tensor]
INPUTS = ("input_ids_BT", "position_ids_BT", "targets_BT", "read_M", "document_starts")  # of a micro-batch
Shape = tuple[torch.Size, ...]  # of these inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    inputs: MicroBatch  # on the device; a micro-batch is copied into it before each replay
    replay: Replay


class GraphAccumulator:
    """See `kernels.Accumulate`. The parameters' `.grad` are the same tensors in each window and are overwritten."""

    def __init__(
        self,
        model: PeftModel,
        parameters: Sequence[nn.Parameter],
        *,
        device: torch.device,
        scaler: torch.amp.GradScaler,
        attention: str,
        record: Record,
    ) -> None:
        """The model's weights must stay where they are from now on.

        Raises ValueError for a trainable norm, and for an attention function that reads the lengths of documents.
        """
        if attention not in GRAPH_ATTENTION:
            raise ValueError(f"attention {attention}: a graph would repeat the first batch's lengths of documents")
        use_fast_norms(model)
        self._model, self._parameters, self._device, self._scaler = model, list(parameters), device, scaler
        self._attention, self._record = attention, record
        self._copies = AdapterCopies(model, arithmetic_dtype(device, causal_model(model).dtype))
        self._graphs: dict[Shape, _Graph] = {}
        self._seeds = torch.zeros(count_fused(model), dtype=torch.int64, device=device)
        self._num_targets = torch.ones((), device=device)
        self._nll = torch.zeros((), device=device)
        self._gradients = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]

    def __call__(
        self, micro_batches: Sequence[MicroBatch], *, num_targets: int, objective: Objective, reads_targets_only: bool
    ) -> Tensor:
        """The summed loss, () float32. Raises InputError for an objective other than the loop's own."""
        if not reads_targets_only:  # whether it reads other positions too can't be checked without waiting for the GPU
            raise InputError(OWN_OBJECTIVE)
        self._scaler.scale(torch.zeros((), device=self._device))  # GradScaler initialises lazily, also without rows
        batches = [padded_to_bucket(batch) for batch in micro_batches]
        seeds = draw_seeds(len(batches))
        with document_attention(self._model, self._attention), self._copies.current():
            # Before the sums are set to zero: recording calls the function, which adds to them.
            graphs = [self._graph(batch, objective) for batch in batches]
            self._num_targets.fill_(num_targets)
            self._nll.zero_()
            torch._foreach_zero_(self._gradients)
            for graph, batch, seed in zip(graphs, batches, seeds, strict=True):
                self._write(graph.inputs, batch)
                torch.arange(seed, seed + len(self._seeds), out=self._seeds)
                graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._nll.clone()

    def _graph(self, batch: MicroBatch, objective: Objective) -> _Graph:
        """The graph for micro-batches of this shape, recorded at its first one."""
        shape = tuple(getattr(batch, name).shape for name in INPUTS)
        if shape not in self._graphs:
            inputs = batch.to(self._device)
            replay = self._record(lambda: self._add_gradient(inputs, objective))
            self._graphs[shape] = _Graph(inputs=inputs, replay=replay)
        return self._graphs[shape]

    def _write(self, inputs: MicroBatch, batch: MicroBatch) -> None:
        moved = batch.to(self._device)
        for name in INPUTS:
            getattr(inputs, name).copy_(getattr(moved, name))

    def _add_gradient(self, inputs: MicroBatch, objective: Objective) -> None:
        """What a graph repeats: adds the loss of `inputs`, and the gradient of the loss / targets of the window."""
        with dropout_seed(self._seeds):
            hidden_BTH = hidden_states(self._model, inputs)
            options = {"softcap": head_softcap(self._model), "read_M": inputs.read_M}
            nll = objective(hidden_BTH, inputs.targets_BT, head_weight(self._model), **options)
            loss = self._scaler.scale(nll / self._num_targets)
            gradients = torch.autograd.grad(loss, self._parameters)
        torch._foreach_add_(self._gradients, gradients)
        self._nll += nll.detach()
