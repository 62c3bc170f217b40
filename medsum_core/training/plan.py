"""A run, checked and decided, before any weight is loaded; and how it is shown to a person."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from transformers import PretrainedConfig

from medsum_core.checkpoint.checkpoint import Checkpoint
from medsum_core.config.run_config import RunConfig
from medsum_core.data.prompt import PromptRenderer
from medsum_core.device import Device, describe
from medsum_core.model.base import LoraSettings
from medsum_core.training.auto_settings import run_shape
from medsum_core.training.dataset import Dataset
from medsum_core.training.memory import ModelSize, estimate_memory, fitting_settings, measure_model

LAUNCHER_ECHO_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, checked and decided, before any weight is loaded."""

    config: RunConfig  # every `auto` resolved
    folder: Path
    accelerator: Accelerator
    device: Device
    size: ModelSize
    base_config: PretrainedConfig
    renderer: PromptRenderer
    dataset: Dataset
    checkpoint: Checkpoint | None
    tokenizer_sha256: str
    versions: dict[str, str]

    @property
    def base_type(self) -> str:
        """The base's model type, e.g. gemma3_text."""
        return str(self.base_config.model_type)

    @property
    def base_revision(self) -> str | None:
        """The hub commit of the base; None for a folder or the embedded model."""
        return getattr(self.base_config, "_commit_hash", None)

    @property
    def echo_seconds(self) -> float:
        """How long a launcher's copy of a signal counts as the same request."""
        return LAUNCHER_ECHO_SECONDS if self.accelerator.num_processes > 1 else 0.0

    def lines(self) -> list[str]:
        """The run in a few lines: device, rows, updates, what trains, and the memory that it will need, by part."""
        train, model = self.config.train, self.config.model
        rows = train.per_device_train_batch_size * train.gradient_accumulation_steps * self.accelerator.num_processes
        windows = math.ceil(len(self.dataset.train) / rows)
        estimate = estimate_memory(self.size, run_shape(self.config, self.device))
        return [
            describe(self.device, num_processes=self.accelerator.num_processes),
            f"{model.model_name_or_path}: {'NF4, ' if model.load_in_4bit else ''}{model.precision}, "
            f"attention {model.attention}, prompt {self.renderer.style}, packed to {train.pack_tokens} tokens, "
            f"dequantised once: {model.dequantize}, activations recomputed: {train.gradient_checkpointing}, "
            f"micro-batches side by side: {train.parallel_micro_batches}",
            f"{train.num_updates(windows)} updates of {rows} rows, {windows} an epoch; "
            f"{self.size.adapter:,} trainable parameters",
            "estimated peak memory, by part:",
            *(f"  {line}" for line in estimate.lines()),
        ]

    def card_lines(self) -> list[str]:
        """For each size of GPU whether the run fits, or what to change."""
        shape, size = run_shape(self.config, self.device), self.size
        if self.device.kind == "cpu":  # GPUs compute in 16 bits what this CPU may compute in 32
            shape = replace(shape, precision="bf16")
            size = measure_model(self.base_config, lora_settings(self.config), precision="bf16")
        return fitting_settings(size, shape)


def lora_settings(config: RunConfig) -> LoraSettings:
    """The adapter that a configuration asks for."""
    lora = config.lora
    return LoraSettings(
        r=lora.lora_r,
        alpha=lora.lora_alpha,
        dropout=lora.lora_dropout,
        target_modules=tuple(lora.lora_target_modules),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init="gaussian" if lora.init_lora_weights == "gaussian" else "default",
    )
