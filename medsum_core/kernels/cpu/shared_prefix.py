"""The common prefix of a window's rows is computed once a window, not once a row.

Letters: B rows, T positions, P tokens of the prefix, G key-value heads, D head size.

Every prompt begins with the same instruction. With causal attention its keys and values are the same in every row, so
they are computed once a window and every micro-batch attends to them (prompt caching, applied to training). The
backward pass has two parts: each micro-batch gives a gradient of these keys and values, and their sum is propagated
through the prefix. By the chain rule this is the exact gradient of the window. With dropout the rows of a window share
the prefix's masks; the distribution of each row's loss is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.data.collator import MicroBatch
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.model.forward import hidden_states

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedPrefix:
    """The prefix's rotated keys and its values in each layer, (P, G, D).

    `computed` belong to the prefix's autograd graph. `leaves` are detached copies, the leaves of the micro-batches'
    graphs, at least fp32 because their gradients are summed over micro-batches.
    """

    computed: tuple[Tensor, ...]  # key, value, key, value, ...
    leaves: tuple[Tensor, ...]

    @classmethod
    def of(cls, layers: Sequence[KeyValue]) -> SharedPrefix:
        """From the (P, G, D) keys and values of each layer."""
        computed = tuple(tensor for layer in layers for tensor in layer)
        wide = (torch.promote_types(tensor.dtype, torch.float32) for tensor in computed)
        leaves = (tensor.detach().to(dtype, copy=True) for tensor, dtype in zip(computed, wide, strict=True))
        return cls(computed=computed, leaves=tuple(leaf.requires_grad_() for leaf in leaves))

    def of_layer(self, number: int) -> KeyValue:
        """The leaves of layer `number`."""
        return self.leaves[2 * number], self.leaves[2 * number + 1]

    def backward(self, gradients: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradient of each of `tensors` from those of the leaves; None where the prefix does not depend on it.

        Keys or values of the first layer depend on no adapter if these projections have none.
        """
        pairs = zip(self.computed, gradients, strict=True)
        reached = [(c, g.to(c.dtype)) for c, g in pairs if g is not None and c.requires_grad]
        if not reached:
            return [None] * len(tensors)
        outputs, grad_outputs = zip(*reached, strict=True)
        return torch.autograd.grad(outputs, tensors, grad_outputs, allow_unused=True)


def prefix_states(model: PeftModel | PreTrainedModel, batch: MicroBatch) -> SharedPrefix:
    """Keys and values of a prefix, given as a batch of one document. Call it within `document_attention`."""
    layers: list[KeyValue] = []
    hidden_states(model, batch, read_M=batch.read_M, keys_and_values=layers)
    return SharedPrefix.of(layers)


def split_prefix(micro_batches: Sequence[MicroBatch]) -> tuple[MicroBatch | None, list[MicroBatch]]:
    """The common prefix of a window's documents, as a micro-batch without targets, and the micro-batches without it.

    The prefix ends before the first position with a target and leaves at least one token of each document. None where
    nothing can be shared: a single document, no common prefix, or a micro-batch whose rows would get different lengths.
    """
    documents = [document for batch in micro_batches for document in _documents(batch)]
    is_even = all(len({len(lengths) for lengths in batch.document_lengths}) == 1 for batch in micro_batches)
    length = _common_length(documents) if len(documents) > 1 and is_even else 0
    if length == 0:
        return None, list(micro_batches)
    ids_1P = documents[0][0][None, :length]
    prefix = MicroBatch(
        input_ids_BT=ids_1P,
        position_ids_BT=torch.arange(length, device=ids_1P.device)[None],
        targets_BT=torch.full_like(ids_1P, IGNORE_INDEX),
        document_lengths=((length,),),
        ids=(),
        num_targets=0,
        num_tokens=length,
    )
    return prefix, [_without(batch, length) for batch in micro_batches]


def _documents(batch: MicroBatch) -> list[tuple[Tensor, Tensor]]:
    """Each document's ids and targets."""
    found = []
    for row, lengths in enumerate(batch.document_lengths):
        both = (tensor[row, : sum(lengths)].split(list(lengths)) for tensor in (batch.input_ids_BT, batch.targets_BT))
        found += list(zip(*both, strict=True))
    return found


def _common_length(documents: Sequence[tuple[Tensor, Tensor]]) -> int:
    first, length = documents[0][0], len(documents[0][0])
    for ids, targets in documents:
        length = min(length, len(ids) - 1)
        ends = ((ids[:length] != first[:length]) | (targets[:length] != IGNORE_INDEX)).nonzero()
        length = int(ends[0]) if len(ends) else length
    return length


def _without(batch: MicroBatch, length: int) -> MicroBatch:
    """The micro-batch without the first `length` tokens of each document; position ids are unchanged."""
    is_left_BT = batch.position_ids_BT >= length
    lengths = tuple(tuple(whole - length for whole in row) for row in batch.document_lengths)
    return batch.with_tensors(
        lambda tensor_BT: tensor_BT[is_left_BT].view(len(lengths), -1),
        document_lengths=lengths,
        num_tokens=batch.num_tokens - length * sum(len(row) for row in lengths),
    )
