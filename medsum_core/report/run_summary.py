"""What the report and the model card state about a run apart from its scores and rows: plain values, no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medsum_core.model.embedded import EmbeddedModel, embedded_model, is_embedded
from medsum_core.tasks.task import Task

GEMMA_TYPES = ("gemma", "gemma2", "gemma3", "gemma3_text")  # model types under the Gemma Terms of Use


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A finished run. Losses are nats per note token over the whole evaluation set; None where not evaluated."""

    base_name: str  # as in the flags: a hub id, a folder or embedded:...
    base_type: str  # config.model_type, e.g. gemma2
    base_revision: str | None = None
    precision: str  # fp32, bf16 or fp16
    load_in_4bit: bool
    task: Task
    prompt_style: str  # chat or plain; with the template's variables where there are some
    num_updates: int
    num_skipped_windows: int = 0
    stopped_early: bool = False
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None  # of the adapter that the run folder holds
    stop_loss_before: float | None = None  # of the stop token after the reference note, mean
    stop_loss_after: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase: training, evaluation, report ...
    versions: Mapping[str, str] = field(default_factory=dict)  # by package
    settings: Mapping[str, Any] = field(default_factory=dict)  # resolved; may be nested by section

    @property
    def embedded(self) -> EmbeddedModel | None:
        """The embedded base, whose scores are not those of the official weights; None for any other base."""
        return embedded_model(self.base_name) if is_embedded(self.base_name) else None

    @property
    def is_gemma(self) -> bool:
        """Whether the Gemma Terms of Use hold for the adapter."""
        return self.base_type in GEMMA_TYPES

    @property
    def precision_text(self) -> str:
        """How the base was stored and computed with, in words."""
        return f"NF4 base, {self.precision} computation" if self.load_in_4bit else self.precision
