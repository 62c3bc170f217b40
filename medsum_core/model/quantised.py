"""A base whose own files are in 4 bits: NF4 of bitsandbytes, as the ungated copies of gated models often are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from medsum_core.errors import InputError

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # per weight: 4 bits, its block's 8-bit scale, the scale's own scale
FAST_NF4_BYTES = 0.5 + 4 / 64  # on a GPU the fast kernels store a block's scale in fp32, see `unpack_scales`
# The share of codes that may differ: rounding to bf16 before quantising changes the code of 0.3 % of weights, another
# processor's arithmetic of fewer.
MAX_OTHER_CODES = 0.01
NEAR_CODE = 0.01  # relative to the block's largest weight: the same code, with a scale that was rounded to 8 bits
NEAR_VALUE = 2**-7  # relative: a weight that was rounded to 16 bits once more


def is_quantised(config: PretrainedConfig) -> bool:
    """Whether the base's own files are in 4 bits. Raises InputError for another quantisation than NF4."""
    found: Any = getattr(config, "quantization_config", None)
    if found is None:
        return False
    values = found if isinstance(found, dict) else found.to_dict()
    method, kind = values.get("quant_method"), values.get("bnb_4bit_quant_type")
    if not values.get("load_in_4bit") or kind != "nf4":
        found_kind = kind if values.get("load_in_4bit") else "8 bits" if values.get("load_in_8bit") else method
        raise InputError(
            f"--model_name_or_path {config.name_or_path}: its files are quantised ({found_kind}), of which only NF4 of "
            "bitsandbytes is supported; name the base in 16 bits, --load_in_4bit quantises it here"
        )
    return True


def set_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert all weights that are not in 4 bits to `dtype` and compute in it, not in the dtype of the files."""
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            setattr(module, "compute_dtype", dtype)  # noqa: B010 - bitsandbytes has no types
            setattr(module, "compute_type_is_set", True)  # noqa: B010
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        if state is not None:
            state.dtype = dtype  # of the dequantised weights
        elif parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def unpack_scales(model: nn.Module) -> None:
    """Store the scale of each block of NF4 weights in fp32 instead of in 8 bits with a second scale.

    The same values with 0.37 bits more per weight. Dequantising is then one kernel on a GPU instead of three.
    """
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        if state is not None and state.nested:
            from bitsandbytes.functional import dequantize_blockwise

            state.absmax = dequantize_blockwise(state.absmax, state.state2).add_(state.offset).float()
            state.nested, state.state2, state.offset = False, None, None


def check_same_model(dense: PreTrainedModel, quantised: PreTrainedModel, *, names: tuple[str, str]) -> None:
    """Raise InputError unless `quantised` is `dense` in NF4.

    names: of both, for the message. Weights in 16 bits must be equal, and 4-bit ones must have the codes and scales of
    the quantised dense ones, up to rounding. A fine-tuned model of the same family differs in both.
    """
    own, other = dict(dense.named_parameters()), dict(quantised.named_parameters())
    differing = sorted(own.keys() ^ other.keys())
    differing += [name for name in sorted(own.keys() & other.keys()) if not _same(own[name], other[name])]
    if differing:
        raise InputError(
            f"--base {names[0]}: not the model that {names[1]} is in 4 bits: {len(differing)} of {len(own)} weights "
            f"differ, such as {differing[0]}"
        )


def _same(dense: Tensor, quantised: Tensor) -> bool:
    state: Any = getattr(quantised, "quant_state", None)
    if state is None:
        if dense.shape != quantised.shape:
            return False
        one, other = dense.detach().cpu().float(), quantised.detach().cpu().float()
        return bool(((one - other).abs() <= NEAR_VALUE * one.abs() + torch.finfo(torch.float16).tiny).all())
    if dense.shape != state.shape:
        return False
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, expected = quantize_4bit(
        dense.detach().to(quantised.device, state.dtype),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
    )
    one, other = dequantize_4bit(packed, expected).float(), dequantize_4bit(quantised.data, state).float()
    blocks = one.numel() // state.blocksize if one.numel() % state.blocksize == 0 else 1
    one, other = one.reshape(blocks, -1), other.reshape(blocks, -1)
    near = (one - other).abs() <= NEAR_CODE * one.abs().amax(dim=1, keepdim=True)
    return bool((~near).float().mean() <= MAX_OTHER_CODES)
