"""A forward pass of the decoder without its LM head, and its settings: precision, modes, recomputed activations.

Letters: B rows, T positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn
from transformers import PreTrainedModel

from medsum_core.data.collator import MicroBatch
from medsum_core.errors import InputError
from medsum_core.model.attention import IMPLEMENTATION_PREFIX, find_image_runs, is_registered
from medsum_core.model.families import logit_factor, logit_softcap, text_decoder

HALF_DTYPES = (torch.bfloat16, torch.float16)
ContextPair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def hidden_states(model: PeftModel | PreTrainedModel, batch: MicroBatch, **layer_options: Any) -> Tensor:
    """The last layer's normed output, (B, T, H), by the model's own modules; call it inside `document_attention`.

    For a family that scales its logits (Granite, Cohere) this output is scaled instead, which gives the same logits.

    There is no key-value cache and no mask: either would let a packed document attend to the one before it (with
    transformers' default cache the logits of a second document changed by 6.4). `layer_options` are passed to the
    decoder's layers.
    """
    inner = inner_model(model)
    name = inner.config._attn_implementation
    if name.startswith(IMPLEMENTATION_PREFIX) or is_registered(name):
        layer_options |= {"document_lengths": batch.document_lengths, "document_starts": batch.document_starts}
    elif any(len(lengths) > 1 for lengths in batch.document_lengths):
        raise ValueError("the model's own attention takes one document a row: use --pack_tokens 0")
    elif reads_images(model):
        raise ValueError("the model's own attention is not told where images are: use --attention auto")
    layer_options |= image_options(model, batch.input_ids_BT)
    outputs = inner(input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False, **layer_options)
    hidden_BTH: Tensor = outputs.last_hidden_state
    factor = logit_factor(causal_model(model).config)
    return hidden_BTH if factor == 1 else hidden_BTH * factor


def reads_images(model: PeftModel | PreTrainedModel) -> bool:
    """Whether the model has the features of images (`images/embedding.py`), for negative ids."""
    return hasattr(inner_model(model).get_input_embeddings(), "image_features")


def image_options(model: PeftModel | PreTrainedModel, ids_BT: Tensor) -> dict[str, Tensor]:
    """The options for attention functions about images in these ids; empty for a model of text alone."""
    return {"image_runs": find_image_runs(ids_BT)} if reads_images(model) else {}


def autocast(model: PeftModel | PreTrainedModel) -> AbstractContextManager[Any]:
    """`torch.autocast` in the base's 16-bit dtype, also for the fp32 adapter; a null context for an fp32 base."""
    base = causal_model(model)
    if base.dtype not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(base.device.type, dtype=base.dtype)


@contextmanager
def no_adapter_casts(model: PeftModel | PreTrainedModel) -> Iterator[None]:
    """While the block runs, PEFT leaves inputs in the base's 16-bit dtype: `autocast` converts the weights instead.

    PEFT's own casts store an fp32 copy of each adapter's input: a fifth slower and a third more memory. The block must
    include the backward pass, in which recomputed layers run again.
    """
    with disable_input_dtype_casting(model, active=causal_model(model).dtype in HALF_DTYPES):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()` while the block runs; then each module's own mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def recompute_activations(
    model: PeftModel, *, longer_than: int = 0, context_fn: Callable[[], ContextPair] = noop_context_fn
) -> None:
    """Recompute each layer's activations in the backward pass, for micro-batches of more than `longer_than` tokens.

    Non-reentrant, so no input gradients are needed. `context_fn` returns the contexts of a layer's forward pass and of
    its recomputation. The latter runs in another thread on CUDA, so values of context variables must be passed to it
    there. torch's own random state and autocast are restored by `torch.utils.checkpoint`. Raises InputError for a
    family that transformers cannot recompute.
    """
    base = causal_model(model)
    if not base.supports_gradient_checkpointing:
        raise InputError(
            f"--gradient_checkpointing: transformers cannot recompute activations of {base.config.model_type}; use off"
        )

    def call(layer: Callable[..., Any], hidden_BTH: Tensor, *inputs: Any, **settings: Any) -> Any:
        if hidden_BTH.shape[:2].numel() <= longer_than:
            return layer(hidden_BTH, *inputs)
        return checkpoint(layer, hidden_BTH, *inputs, context_fn=context_fn, **settings)

    base.activation_checkpointing_enable()
    modules: list[Any] = [module for module in base.modules() if hasattr(module, "_gradient_checkpointing_func")]
    for module in modules:
        module._gradient_checkpointing_func = partial(call, use_reentrant=False)
    base.disable_input_require_grads()


def inner_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """The stack of layers without the LM head; its output's `last_hidden_state` is (B, T, H)."""
    return text_decoder(causal_model(model))


def causal_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """The transformers model with its head, whether an adapter is on it or not."""
    if isinstance(model, PeftModel):
        base: Any = model.get_base_model
        return base()
    return model


def head_weight(model: PeftModel | PreTrainedModel) -> Tensor:
    """The LM head's frozen weight, (V, H)."""
    head = causal_model(model).get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise InputError(
            f"--model_name_or_path: the head of {model.config.model_type} is not a linear layer without a bias, which "
            "the loss here needs"
        )
    return head.weight.detach()


def head_softcap(model: PeftModel | PreTrainedModel) -> float | None:
    """The soft cap of the logits by tanh (Gemma 2); None for most models."""
    return logit_softcap(causal_model(model).config)
