"""Flags of `transformers.TrainingArguments`, TRL, PEFT and their scripts that have another name here or are absent.

There are no aliases: the error for such a flag names what to give instead. TrainingArguments' `true` and `false` are
accepted for the equivalent values here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_ALWAYS = "always done here"
_NO_COUNTERPART = "there is no counterpart"
_LAUNCHED = (
    "accelerate launch --num_processes N divides the rows, and --use_fsdp --fsdp_version 2 shards a base that is "
    "larger than a GPU"
)
_ONE_DEVICE = f"not supported: {_LAUNCHED}"
_MASKED = "only the note is trained on, always"
_HUB = "nothing is uploaded; the adapter is in the run folder"
_PRECISION = "give --precision {} (auto takes bf16 where the device has it)"
_READS_AHEAD = "rows are read and tokenized before the run"

# Pattern -> message; the first pattern that matches a name counts.
COUNTERPARTS: dict[str, str] = {
    # what is computed, and in which numbers
    "bf16": _PRECISION.format("bf16"),
    "fp16": _PRECISION.format("fp16"),
    "*dtype": _PRECISION.format("bf16, fp16 or fp32"),
    "*_full_eval": "evaluation computes as training does, as --precision says",
    "tf32": "decided by --precision: on with bf16 and fp16 on a GPU that has it, off with fp32",
    "bnb_4bit_*": "--load_in_4bit is always NF4 with double quantisation, computing as --precision says",
    "load_in_8bit": "not supported: give --load_in_4bit true or false",
    "attn_implementation": "give --attention",
    "*liger_kernel*": "give --kernels fast, reference or auto",
    "torch_compile*": "not supported; --kernels fast has compiled functions for a CPU",
    "gradient_checkpointing_kwargs": "give --gradient_checkpointing on, off, long or auto",
    "activation_checkpointing*": "give --gradient_checkpointing on, off, long or auto",
    "activation_offloading": "not supported: give --gradient_checkpointing on",
    "full_determinism": f"{_ALWAYS}; --seed decides the run",
    "use_cpu": "CUDA_VISIBLE_DEVICES= in the environment hides the GPUs",
    "trust_remote_code": "no code of a model's repository is run here: use a model that transformers has itself",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    # the adapter
    "use_peft": f"{_ALWAYS}: an adapter is trained",
    "lora_rank": "give --lora_r",
    "*modules_to_save": "not supported: only the adapter is trained",
    # rows and lengths
    "max_seq_len*": "give --max_length",
    "cutoff_len": "give --max_length",
    "model_max_length": "give --max_length",
    "max_source_length": "give --max_length; the note's part of it is --max_new_tokens",
    "max_target_length": "give --max_new_tokens",
    "*packing*": "give --pack_tokens N (0: one row each); the gradient is the same",
    "group_by_length": "give --pack_tokens N: packed rows need no padding",
    "train_sampling_strategy": "rows are shuffled each epoch, by --seed",
    "*_only_loss": _MASKED,
    "train_on_inputs": _MASKED,
    "label_names": _MASKED,
    "dataset_text_field": "give --dialogue_column, --note_column and --section_column",
    "dataset_train_split": "give --train_split",
    "dataset_test_split": "give --validation_split",
    "dataset_config": "give --dataset_config_name",
    "eval_file": "give --validation_file",
    "test_file": "no test file in training: python infer.py --input_file FILE, then python -m medsum_core.score",
    "chat_template*": "give --prompt_style, --chat_template_kwargs",
    "data_seed": "give --seed",
    "max_train_samples": "cut --train_file itself, or give --max_steps",
    "max_eval_samples": "cut --validation_file itself",
    "preprocessing_num_workers": _READS_AHEAD,
    "dataloader_drop_last": "every row is used: the last window of an epoch may be short",
    "remove_unused_columns": f"{_ALWAYS}: only the named columns are read",
    "ignore_data_skip": "a resumed run always continues at its position in the data",
    # updates
    "lr": "give --learning_rate",
    "epochs": "give --num_train_epochs",
    "auto_find_batch_size": "--gradient_checkpointing auto fits a run to memory; --dry_run true estimates it",
    "warmup_ratio": "give --warmup_steps, in updates; --dry_run true shows how many a run has",
    "lr_scheduler_kwargs": f"{_NO_COUNTERPART}: --lr_scheduler_type linear, cosine or constant, and --warmup_steps",
    "optim_args": "give --adam_beta1, --adam_beta2, --adam_epsilon and --weight_decay",
    "optim_target_modules": f"{_NO_COUNTERPART}: --optim paged_adamw_8bit or adamw_torch",
    "label_smoothing_factor": f"{_NO_COUNTERPART}: another loss is one argument of train_loop.main",
    "neftune_noise_alpha": f"{_NO_COUNTERPART}: a hook on the model is one argument of train_loop.main",
    "average_tokens_across_devices": f"{_ALWAYS}: a window's loss is divided by its note tokens over all processes",
    # evaluation, saving, logging
    "evaluation_strategy": "give --eval_strategy",
    "per_*_eval_batch_size": "evaluation packs as training does: --pack_tokens",
    "eval_accumulation_steps": "not needed: evaluation keeps sums, no logits",
    "eval_on_start": "always done, unless --eval_strategy no",
    "eval_delay": f"{_NO_COUNTERPART}: --eval_strategy and --eval_steps",
    "predict_with_generate": "give --eval_generate, the number of notes to write at each evaluation",
    "generation_max_length": "give --max_new_tokens",
    "greater_is_better": "decided by --metric_for_best_model",
    "do_train": f"{_ALWAYS}; --dry_run true only checks",
    "do_eval": "give --eval_strategy",
    "do_predict": "python infer.py --run DIR writes notes",
    "overwrite_output_dir": "name a new --output_dir, or continue its run: --resume_from_checkpoint auto",
    "save_only_model": f"{_NO_COUNTERPART}: any checkpoint can be resumed from; the run folder's adapter/ is the model",
    "save_on_each_node": "the first process saves",
    "trackio_*": "TRACKIO_SPACE_ID in the environment, with --report_to trackio",
    "*project": "WANDB_PROJECT in the environment, with --report_to wandb",
    "logging_dir": "trackers write in the run folder: --output_dir",
    "logging_first_step": "give --logging_steps 1",
    "logging_strategy": "give --logging_steps",
    "logging_nan_inf_filter": "a window whose loss is not finite updates nothing and is not logged",
    "include_*tokens*": "tokens_per_second is always logged",
    "run_name": "trackers name a run after its folder: --output_dir",
    "with_tracking": "give --report_to",
    "*batch_size": "give --per_device_train_batch_size and --gradient_accumulation_steps",
    # several devices
    "deepspeed*": _ONE_DEVICE,
    "fsdp*": f"for the launcher: {_LAUNCHED}",
    "parallelism_config": _ONE_DEVICE,
    "accelerator_config": _ONE_DEVICE,
    "device_map": _ONE_DEVICE,
    "ddp_*": "there is no DistributedDataParallel here: gradients are summed once a window",
    "dataloader_*": _READS_AHEAD,
    "local_rank": "set by accelerate launch or torchrun in the environment",
    # elsewhere
    "push_to_hub*": _HUB,
    "hub_*": _HUB,
}
# The values of TrainingArguments that mean the same as one of ours; `true` is also what a flag without a value means.
EQUAL_VALUES: dict[str, dict[str, str]] = {
    "gradient_checkpointing": {"true": "on", "false": "off"},
    "resume_from_checkpoint": {"true": "auto"},
}


def counterpart(name: str) -> str | None:
    """What to give instead of another program's setting, or why it is not needed; None for an unknown name."""
    return next((text for pattern, text in COUNTERPARTS.items() if fnmatchcase(name, pattern)), None)


def with_equal_value(tokens: list[str]) -> list[str]:
    """The tokens of one flag, with TrainingArguments' value replaced by ours where `EQUAL_VALUES` has it."""
    flag, has_value, value = tokens[0].partition("=")
    equal = EQUAL_VALUES.get(flag.lstrip("-").replace("-", "_"), {})
    given = value if has_value else " ".join(tokens[1:] or ["true"])
    return [f"{flag}={equal[given.lower()]}"] if given.lower() in equal else tokens
