"""Replace the forward of transformers' and PEFT's modules by functions that save less for the backward pass."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.data.collator import MicroBatch
from medsum_core.kernels.cpu.arena import GRADIENTS
from medsum_core.kernels.layers.decoder_layer import use_training_layers
from medsum_core.kernels.layers.dropout import recompute_contexts
from medsum_core.kernels.layers.gated_mlp import use_gated_mlps
from medsum_core.kernels.layers.lora_linear import FusedLinear, fuse_lora_layers
from medsum_core.kernels.layers.rms_norm import use_fast_norms
from medsum_core.kernels.layers.triton_choice import use_triton
from medsum_core.model import forward
from medsum_core.model.quantised import unpack_scales


def apply_fast_layers(
    model: PeftModel, *, keep_dense: bool, fewer_launches: bool = False, triton: bool = False
) -> None:
    """Replace the forward of LoRA layers, MLPs, norms and decoder layers of a known class.

    `keep_dense`: an NF4 weight is dequantised once, at its first use: the same values in more memory.
    `fewer_launches`: for a GPU, where each operation costs a launch. Adapters on projections of one input are joined,
    and NF4 that is dequantised at each use has its blocks' scales in fp32.
    `triton`: on CUDA, use Triton's element-wise functions instead of torch's own.
    """
    use_triton(triton)
    if fewer_launches and not keep_dense:
        unpack_scales(model)
    fuse_lora_layers(model, keep_dense=keep_dense)
    use_gated_mlps(model)
    use_fast_norms(model)
    use_training_layers(forward.inner_model(model), joins=fewer_launches)


def hidden_states(model: PeftModel | PreTrainedModel, batch: MicroBatch, **layer_options: Any) -> Tensor:
    """`forward.hidden_states` with NaN at positions without a target, which the last layer does not compute."""
    return forward.hidden_states(model, batch, read_M=batch.read_M, **layer_options)


def recompute_activations(model: PeftModel, *, longer_than: int = 0) -> None:
    """`forward.recompute_activations` with the dropout masks of the forward pass.

    Gradients of weights get their own arena, because they outlive the activations of their layer.
    """
    forward.recompute_activations(model, longer_than=longer_than, context_fn=recompute_contexts)
    for module in model.modules():
        if isinstance(module.forward, FusedLinear):
            module.forward.gradient_arena = GRADIENTS
