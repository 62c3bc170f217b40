"""Every setting of a run: its name, type, default, unit and meaning. Nothing is computed here.

Names are those of `transformers.TrainingArguments` and its example scripts where one exists. The defaults are the
recipe, which `presets/gemma-2b.yaml` spells out. A value `auto` is resolved once per run (`RunConfig.with_resolved`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from medsum_core.tasks.find import DEFAULT_TASK, find_task, task_names

LORA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
AUTO_TARGETS, ALL_LINEAR = "auto", "all-linear"
MAX_RANK = 1024  # of an adapter that is read: a larger one in a downloaded file could take all memory
TRACKERS = ("tensorboard", "wandb", "trackio")
OFFLINE_HELP = "never use the network; what is not on disk is an error"
LORA_INITS = ("default", "gaussian")
REFUSED_LORA_INITS = {
    "pissa": "PiSSA rewrites the base weights, so the saved adapter would not fit the plain base",
    "olora": "OLoRA rewrites the base weights, so the saved adapter would not fit the plain base",
    "loftq": "LoftQ rewrites the base weights, so the saved adapter would not fit the plain base",
    "orthogonal": "orthogonal initialisation is not tested here",
    "eva": "EVA needs a pass over the data before training",
    "corda": "CorDA rewrites the base weights after a pass over the data",
}

# Settings of --dataset_name, without effect on files.
SPLIT_SETTINGS = ("dataset_config_name", "train_split", "validation_split")


def _setting(default: Any, help: str, *, metavar: str | None = None) -> Any:
    """A dataclass field with its help text, as `HfArgumentParser` expects it."""
    return field(default=default, metadata={"help": help} | ({"metavar": metavar} if metavar else {}))


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The base model, its precision and its kernels."""

    _argument_group_name = "model"

    model_name_or_path: str = _setting(
        "google/gemma-2b-it",
        "hub id, folder, or embedded:gemma3-270m, embedded:smollm2-135m-it (weights from a package)",
        metavar="NAME",
    )
    model_revision: str | None = _setting(None, "branch, tag or commit of a hub model", metavar="REV")
    load_in_4bit: bool = _setting(
        True, "store the frozen base in NF4 with double quantisation; a base whose files are NF4 stays as it is"
    )
    kernels: Literal["auto", "reference", "fast", "triton", "graphs"] = _setting(
        "auto",
        "reference: transformers' and PEFT's own modules; fast: functions for a CPU instead (extra `cpu`); "
        "triton: fast, on CUDA with fused Triton kernels; graphs: triton, replayed from CUDA graphs; "
        "auto: fast on a CPU for the families that are tested with it, else reference",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto",
        "number format of the computation; auto: bf16 where the device has it, fp16 on older GPUs, else fp32",
    )
    dequantize: Literal["auto", "on", "off"] = _setting(
        "auto", "dequantise the NF4 base once instead of in every layer call (same numbers, faster, more memory)"
    )
    attention: str = _setting(
        "auto",
        "inside packed rows: per_document (one after another), varlen (torch's kernel), sdpa or eager (a dense mask), "
        "model (its own, for unpacked rows), or yours, by its name in transformers' AttentionInterface",
        metavar="NAME",
    )
    offline: bool = _setting(False, OFFLINE_HELP)


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """The adapter: the only weights that are trained, always in fp32."""

    _argument_group_name = "lora"

    lora_r: int = _setting(16, "rank", metavar="N")
    lora_alpha: int = _setting(
        32, "scale: the product is multiplied by alpha / r (rsLoRA: alpha / sqrt(r))", metavar="N"
    )
    lora_dropout: float = _setting(0.05, "probability of dropping an adapter input", metavar="P")
    lora_target_modules: list[str] = field(
        default_factory=lambda: [AUTO_TARGETS],
        metadata={
            "help": "names of the projections that get an adapter, separated by spaces; auto: q_proj k_proj v_proj "
            "o_proj gate_proj up_proj down_proj where the model has them all, else all-linear; all-linear: every "
            "linear layer of the text model but its head",
            "metavar": "NAME",
        },
    )
    use_rslora: bool = _setting(False, "rank-stabilised scale")
    use_dora: bool = _setting(False, "weight-decomposed LoRA")
    init_lora_weights: str = _setting("default", "default or gaussian", metavar="INIT")


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Rows of dialogue and note, and how they become tokens."""

    _argument_group_name = "data"

    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "CSV, TSV, JSONL or JSON to train on (also .gz), one or several; replaces the preset's data, "
            "validation too, and what demo chose for its data: --learning_rate, --max_new_tokens",
            "metavar": "FILE",
        },
    )
    validation_file: list[str] | None = field(
        default=None,
        metadata={"help": "to evaluate on; replaces a data set's own validation split", "metavar": "FILE"},
    )
    dataset_name: str | None = _setting(
        None,
        "a named data set (official files, examples/data.md) or a hub one, instead of --train_file",
        metavar="NAME",
    )
    dataset_config_name: str | None = _setting(None, "which configuration of --dataset_name", metavar="NAME")
    train_split: str = _setting("train", "split of --dataset_name to train on", metavar="NAME")
    validation_split: str | None = _setting(
        None,
        "split of --dataset_name to evaluate on, or none; not given: its validation, valid, val or dev",
        metavar="NAME",
    )
    task: str = _setting(
        DEFAULT_TASK,
        f"what is read and written: {', '.join(task_names())}, or your own as FILE.yaml",
        metavar="NAME|FILE.yaml",
    )
    id_column: str | None = _setting(
        None,
        "column with the row's id, optional in the file (default: the task's, ID or encounter_id)",
        metavar="COLUMN",
    )
    dialogue_column: str | None = _setting(
        None, "column with the text to write from (default: the task's, such as dialogue)", metavar="COLUMN"
    )
    note_column: str | None = _setting(
        None, "column with the text to write (default: the task's, section_text or note)", metavar="COLUMN"
    )
    section_column: str | None = _setting(
        None, "column with the section's header (default: section_header)", metavar="COLUMN"
    )
    section: str | None = _setting(
        None, "one section for all rows, instead of a column: an MTS-Dialog code or a name", metavar="NAME"
    )
    image_column: str | None = _setting(
        None,
        "column with the paths of a row's images, relative to the file, separated by ; (default: the task's, image)",
        metavar="COLUMN",
    )
    image_features: str | None = _setting(
        None,
        "folder for the features of images, which are patients' data; not given: the user's cache",
        metavar="DIR",
    )
    number_rows: bool = _setting(False, "number the rows that share an id: ID#1, ID#2")
    prompt_style: Literal["auto", "chat", "plain"] = _setting(
        "auto", "chat: the model's own turns; plain: text for a base model; auto: chat where there is a template"
    )
    chat_template_kwargs: str | None = _setting(
        None,
        "variables for the model's chat template, as JSON: '{\"enable_thinking\": false}' closes the thinking of some",
        metavar="JSON",
    )
    max_length: int = _setting(1024, "longest row, prompt and note together (tokens)", metavar="N")
    max_new_tokens: int = _setting(256, "room for the note, in training and decoding alike (tokens)", metavar="N")
    no_repeat_ngram_size: int = _setting(
        0,
        "decoding: no sequence of so many tokens twice in a note; the source text may be quoted (0: no rule)",
        metavar="N",
    )
    grounded: bool = _setting(
        False, "decoding: write no fact that the source text does not support, in reports and --eval_generate too"
    )
    ungrounded: Literal["keep", "drop", "mask"] = _setting(
        "keep",
        "notes with a number, dose or date that the source text lacks: keep, drop the row, or mask the fact",
    )

    @property
    def max_prompt_tokens(self) -> int:
        """The limit of a prompt in training and decoding; the rest of `max_length` is reserved for the note."""
        return self.max_length - self.max_new_tokens

    @property
    def shows_images(self) -> bool:
        """Whether the task's prompts hold images."""
        return find_task(self.task).images_part is not None

    @property
    def prompt_settings(self) -> dict[str, Any]:
        """The keyword arguments of `build_renderer`."""
        variables = {"template_kwargs": json.loads(self.chat_template_kwargs)} if self.chat_template_kwargs else {}
        task = {} if self.task == DEFAULT_TASK else {"task": find_task(self.task)}
        return {"style": self.prompt_style, **variables, **task}


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """The updates: how many, of which size, with which optimiser."""

    _argument_group_name = "train"

    num_train_epochs: float = _setting(1.0, "passes over the training rows", metavar="X")
    max_steps: int = _setting(-1, "number of updates instead of epochs (-1: by epochs)", metavar="N")
    per_device_train_batch_size: int = _setting(1, "rows per micro-batch and process", metavar="N")
    gradient_accumulation_steps: int = _setting(16, "micro-batches per update and process", metavar="N")
    pack_tokens: int | None = _setting(
        None,
        "tokens per packed micro-batch (a longer row has its own), never changes the gradient; 0: unpacked; "
        "not given: as --max_length",
        metavar="N",
    )
    parallel_micro_batches: int | None = _setting(
        None,
        "concurrent micro-batches of the fast kernels on a CPU, each on its part of the cores and with its own "
        "activations in memory; not given: 2 where they fit, else 1",
        metavar="N",
    )
    learning_rate: float = _setting(2e-4, "peak learning rate", metavar="X")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = _setting("linear", "schedule after the warm-up")
    warmup_steps: int = _setting(0, "updates with a rising learning rate", metavar="N")
    weight_decay: float = _setting(0.0, "decoupled weight decay", metavar="X")
    max_grad_norm: float = _setting(1.0, "clip the gradient to this norm (0: never)", metavar="X")
    adam_beta1: float = _setting(0.9, "decay of the gradient's mean", metavar="X")
    adam_beta2: float = _setting(0.999, "decay of the squared gradient's mean", metavar="X")
    adam_epsilon: float = _setting(1e-8, "added to the denominator", metavar="X")
    optim: Literal["paged_adamw_8bit", "adamw_torch"] = _setting("paged_adamw_8bit", "optimiser")
    gradient_checkpointing: Literal["auto", "on", "off", "long"] = _setting(
        "auto",
        "recompute activations in the backward pass (slower, less memory); long: only for rows longer than "
        "--pack_tokens; auto: off if memory suffices, else long, else on",
    )
    seed: int = _setting(42, "seed of the adapter's initial weights, the order of rows and dropout", metavar="N")
    eval_strategy: Literal["no", "epoch", "steps"] = _setting(
        "epoch", "when to evaluate, in addition to before the first and after the last update; no: never"
    )
    eval_steps: int | None = _setting(None, "updates between evaluations, with --eval_strategy steps", metavar="N")
    eval_generate: int = _setting(0, "validation notes to write and score at each evaluation", metavar="N")
    metric_for_best_model: Literal["eval_loss", "eval_rouge1"] = _setting(
        "eval_loss", "the metric that decides which checkpoint is the best"
    )
    load_best_model_at_end: bool = _setting(
        False, "save a checkpoint at each best evaluation, and leave that adapter, not the last, in the run folder"
    )
    early_stopping_patience: int = _setting(0, "stop after N evaluations without a gain (0: never)", metavar="N")

    def num_updates(self, windows_per_epoch: int) -> int:
        """Updates of the whole run when an epoch has that many windows; a part of a window counts as one."""
        if self.max_steps > 0:
            return self.max_steps
        return max(1, math.ceil(round(self.num_train_epochs * windows_per_epoch, 9)))


@dataclass(frozen=True, kw_only=True)
class OutputArguments:
    """The run folder, what is written there and how often."""

    _argument_group_name = "output"

    output_dir: str | None = _setting(None, "run folder; not given: runs/<preset>-<time>", metavar="DIR")
    save_strategy: Literal["no", "epoch", "steps"] = _setting("epoch", "when to write a checkpoint")
    save_steps: int | None = _setting(None, "updates between checkpoints, with --save_strategy steps", metavar="N")
    save_minutes: float = _setting(
        10.0,
        "also write a checkpoint after X minutes without one (0, or --save_strategy no: never)",
        metavar="X",
    )
    save_total_limit: int = _setting(2, "newest checkpoints to keep, at least 2 (and the best one)", metavar="N")
    logging_steps: int = _setting(1, "updates per line of metrics.jsonl; the last line may be of fewer", metavar="N")
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={
            "help": f"trackers that get what metrics.jsonl gets: none, or some of {', '.join(TRACKERS)}",
            "metavar": "NAME",
        },
    )
    report_rows: int = _setting(
        -1, "validation rows that the final base-against-tuned report writes notes for (-1: all, 0: none)", metavar="N"
    )
    baseline_file: str | None = _setting(
        None,
        "another system's notes of the validation rows, scored in the report like base and tuned",
        metavar="FILE",
    )
    examples_file: str | None = _setting(
        None,
        "blinded sheet of base and tuned notes, with a key file (both hold patient text)",
        metavar="FILE",
    )
    resume_from_checkpoint: str | None = _setting(
        None, "auto: the newest valid checkpoint in --output_dir; or a checkpoint's folder", metavar="auto|DIR"
    )
    overwrite_later_checkpoints: bool = _setting(
        False, "when resumed from an earlier checkpoint, delete the later ones once a new one is written"
    )
    allow_inexact_resume: bool = _setting(
        False, "resume although versions, processor, threads, kernels or the number of processes differ"
    )
    dry_run: bool = _setting(False, "check everything, show steps and a memory estimate, write nothing and stop")

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in `--report_to`, each once; empty for none."""
        return tuple(dict.fromkeys(name for name in self.report_to if name != "none"))


# Settings that hold a path, or several. They may name a person: they are sent nowhere.
PATHS = tuple(
    setting.name
    for section in (DataArguments, OutputArguments)
    for setting in fields(section)
    if setting.metadata.get("metavar") in ("FILE", "DIR", "auto|DIR")
)
