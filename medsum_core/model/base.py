"""The base model (hub id, folder or `embedded:gemma3-270m`; fp32, bf16, fp16 or NF4) and the LoRA adapter on it.

The base is frozen and keeps its own dtype; only LoRA tensors train, in fp32. `prepare_model_for_kbit_training` is not
used: it would turn Gemma's embedding of 256,000 words into fp32 (trap E2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from medsum_core.data.collator import MicroBatch
from medsum_core.errors import InputError
from medsum_core.kernels.cpu.arena import GRADIENTS
from medsum_core.kernels.cpu.shared_prefix import KeyValue, SharedPrefix
from medsum_core.kernels.layers.decoder_layer import use_training_layers
from medsum_core.kernels.layers.dropout import recompute_contexts
from medsum_core.kernels.layers.gated_mlp import use_gated_mlps
from medsum_core.kernels.layers.lora_linear import FusedLinear, fuse_lora_layers
from medsum_core.kernels.layers.rms_norm import use_lean_norms
from medsum_core.model.embedded import embedded_folder, is_embedded
from medsum_core.quiet_libraries import quiet_libraries

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter: rank, alpha, dropout rate, the projections it sits on, and PEFT's variants of it."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "gaussian"] = "default"


def load_config(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PretrainedConfig:
    """The model's configuration, without its weights. Raises InputError if it can't be had."""
    return _load(AutoConfig, name_or_path, revision=revision, offline=offline)


def load_tokenizer(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises InputError if it can't be had."""
    return _load(AutoTokenizer, name_or_path, revision=revision, offline=offline)


def load_base(
    name_or_path: str,
    *,
    precision: str,
    load_in_4bit: bool = False,
    revision: str | None = None,
    offline: bool = False,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The frozen base in evaluation mode on `device`; `precision` is one of fp32, bf16, fp16.

    With `load_in_4bit` its projections are NF4, doubly quantised; the embedding and the norms keep `precision`.

    Raises InputError if the model can't be had. Which precision fits which device: `device.choose_precision`.
    """
    config = load_config(name_or_path, revision=revision, offline=offline)
    dtype = DTYPES[precision]
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": _plain_attention(config)}
    if load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = {"": torch.device(device)}
    loaded = _load(AutoModelForCausalLM, name_or_path, revision=revision, offline=offline, **options)
    base: PreTrainedModel = loaded if load_in_4bit else loaded.to(device)
    base.requires_grad_(False)
    if load_in_4bit:
        release_weight_files(base)
    keep_4bit_differentiable(base)
    return base.eval()


def release_weight_files(model: nn.Module) -> None:
    """Copy the weights that NF4 leaves as they are, so that no file of weights stays mapped into memory.

    On a CPU transformers hands out views into the mapped files. The embedding and each layer's norms are such views,
    and each keeps its whole file resident once it was read: 3.8 GiB of Gemma 2B's 4.7, most of it quantised long ago.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and getattr(parameter, "quant_state", None) is None:
            parameter.data = parameter.data.clone()


def keep_4bit_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in evaluation mode on CPUs with AVX512-BF16.

    The packed kernel has no backward pass: one evaluation would silently ruin all later training (trap E1).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - bitsandbytes has no types


def attach_lora(base: PreTrainedModel, settings: LoraSettings, *, base_name: str, keep_dense: bool) -> PeftModel:
    """The base with a fresh adapter, in training mode. Exactly the LoRA tensors require a gradient, all fp32.

    Raises InputError when a target module matches nothing.
    """
    check_target_modules(base, settings.target_modules)
    with quiet_libraries():
        model = get_peft_model(base, lora_config(settings, base_name=base_name))
    assert isinstance(model, PeftModel)
    # PEFT puts the folder of the weights there; the word that was asked for holds on every machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    fuse_lora_layers(model, keep_dense=keep_dense)
    use_gated_mlps(model)
    use_lean_norms(model)
    use_training_layers(inner_model(model))
    check_only_adapter_trains(model)
    return model.train()


def lora_config(settings: LoraSettings, *, base_name: str) -> LoraConfig:
    """PEFT's own description of the adapter, which is what `adapter_config.json` holds."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        base_model_name_or_path=base_name,
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_target_modules(model: nn.Module, target_modules: Iterable[str]) -> None:
    """Raise InputError unless every target names at least one linear layer other than the head."""
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {
        "lm_head"
    }
    if missing := [target for target in target_modules if target not in names]:
        raise InputError(
            f"--lora_target_modules: {', '.join(missing)} matches no linear layer; "
            f"this model has {', '.join(sorted(names))}"
        )


def check_only_adapter_trains(model: nn.Module) -> None:
    """Raise RuntimeError unless the trainable parameters are LoRA tensors in fp32 and nothing else."""
    wrong = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name]
    wrong += [name for name, parameter in trainable_parameters(model) if parameter.dtype != torch.float32]
    if wrong or not trainable_parameters(model):
        raise RuntimeError(f"not exactly the adapter trains in fp32: {wrong[:5] or 'nothing trains'}")


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and tensors that require a gradient, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def checkpoint_activations(model: PeftModel, *, longer_than: int = 0) -> None:
    """Compute each layer's activations again in the backward pass, for micro-batches of more than so many tokens.

    Non-reentrant, so no input gradients are needed. Weights' gradients then lie apart from activations (`buffers.py`).
    """

    def call(layer: Callable[..., Any], hidden_BTH: torch.Tensor, *inputs: Any, **settings: Any) -> Any:
        if hidden_BTH.shape[:2].numel() <= longer_than:
            return layer(hidden_BTH, *inputs)
        return checkpoint(layer, hidden_BTH, *inputs, context_fn=recompute_contexts, **settings)

    base = causal_model(model)
    base.activation_checkpointing_enable()
    modules: list[Any] = [module for module in base.modules() if hasattr(module, "_gradient_checkpointing_func")]
    for module in modules:
        module._gradient_checkpointing_func = partial(call, use_reentrant=False)
    for fused in (module.forward for module in base.modules() if isinstance(module.forward, FusedLinear)):
        fused.gradient_slab = GRADIENTS
    base.disable_input_require_grads()


def inner_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """The stack of layers without the LM head; its output's `last_hidden_state` is (B, T, H)."""
    inner: PreTrainedModel = causal_model(model).get_decoder()
    return inner


def causal_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """The transformers model with its head, whether an adapter is on it or not."""
    if isinstance(model, PeftModel):
        base: Any = model.get_base_model
        return base()
    return model


def hidden_states(
    model: PeftModel | PreTrainedModel, batch: MicroBatch, *, prefix: SharedPrefix | None = None
) -> torch.Tensor:
    """The last layer's normed output, (B, T, H); call it within `document_attention`. No cache, no mask (trap C2).

    Positions without a target may be NaN (`training_layers.py`). `prefix`: what was split off the batch's documents.
    """
    return _decoder_output(model, batch, **({} if prefix is None else {"prefix": prefix}))


def prefix_states(model: PeftModel | PreTrainedModel, batch: MicroBatch) -> SharedPrefix:
    """Keys and values of a prefix, a batch of one document; call it within `document_attention`."""
    layers: list[KeyValue] = []
    _decoder_output(model, batch, keys_and_values=layers)
    return SharedPrefix.of(layers)


def _decoder_output(model: PeftModel | PreTrainedModel, batch: MicroBatch, **for_layers: Any) -> torch.Tensor:
    outputs = inner_model(model)(
        input_ids=batch.input_ids_BT,
        position_ids=batch.position_ids_BT,
        document_lengths=batch.document_lengths,
        read_M=batch.read_M,
        use_cache=False,
        **for_layers,
    )
    hidden_BTH: torch.Tensor = outputs.last_hidden_state
    return hidden_BTH


def head_weight(model: PeftModel | PreTrainedModel) -> torch.Tensor:
    """The LM head's frozen weight, (V, H)."""
    head = causal_model(model).get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise InputError("the LM head must be a plain linear layer without bias and without an adapter")
    return head.weight.detach()


def head_softcap(model: PeftModel | PreTrainedModel) -> float | None:
    """The bound that Gemma 2 puts on its logits by tanh; None for other models."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def base_revision(model: PeftModel | PreTrainedModel) -> str | None:
    """The hub commit that the base was loaded from; None for a folder or the embedded model."""
    return getattr(model.config, "_commit_hash", None)


def _plain_attention(config: PretrainedConfig) -> str:
    soft_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if soft_capped else "sdpa"


def _load(factory: Any, name_or_path: str, *, revision: str | None, offline: bool, **options: Any) -> Any:
    """Load from a folder or the local cache; ask the hub only on a miss and never with `offline`."""
    if is_embedded(name_or_path):
        name_or_path, revision = str(embedded_folder(name_or_path)), None
    is_folder = Path(name_or_path).is_dir()
    if not is_folder and (Path(name_or_path).is_absolute() or name_or_path.startswith((".", "~"))):
        raise InputError(f"--model_name_or_path: there is no folder {name_or_path}")
    options = {"revision": revision or "main", "trust_remote_code": False, **options}
    if factory is AutoModelForCausalLM:
        options["use_safetensors"] = True
    with quiet_libraries():
        try:
            return factory.from_pretrained(name_or_path, local_files_only=True, **options)
        except (OSError, ValueError) as miss:
            if is_folder or offline:
                hint = "is it a complete model folder?" if is_folder else "not in the local cache, and --offline is set"
                raise InputError(f"--model_name_or_path {name_or_path}: can't be loaded ({hint})") from miss
        try:
            return factory.from_pretrained(name_or_path, **options)
        except (OSError, ValueError) as failure:
            raise InputError(
                f"--model_name_or_path {name_or_path}: neither a folder nor a model that the hub gives out here "
                "(check the name, the network, and for gated models such as Gemma that you accepted the terms and ran "
                "'hf auth login'), or use embedded:gemma3-270m"
            ) from failure
