"""The rules for differences between a checkpoint and the run that resumes it.

| what differs | rule |
|---|---|
| how long, where, how often; what is logged; the place of base and data; more updates than planned | EXACT |
| how the rows of an update are cut into micro-batches, and what is kept in memory | NOTED |
| kernels, attention function, number of processes, threads, processor, GPU, versions of libraries | CONSENT |
| a user's prompt, optimiser or `prepare_model`; the base's configuration as read by another version | CONSENT |
| rows an update (processes x batch x accumulation), fewer updates than planned, every other setting | REFUSED |
| content of the data, base's weights and configuration, tokenizer, adapter's shapes, objective, collator | REFUSED |

In all allowed cases each row is used exactly once an epoch: the order of rows depends on seed and epoch alone, and the
position in it is a number of updates, which is why the rows of an update must not change. `training/resume_check.py`
applies the rules.
"""

from __future__ import annotations

from enum import Enum, auto


class Rule(Enum):
    """What happens if a setting differs."""

    EXACT = auto()  # no effect on updates: the same bits
    NOTED = auto()  # the same gradient up to rounding: continues with a notice, as the user gave the flag
    CONSENT = auto()  # may change last digits or more, possibly without the user's knowledge: --allow_inexact_resume
    REFUSED = auto()  # different updates: an error with a remedy


# All other settings are REFUSED. Files of rows and the base are compared by content, not by path.
# fmt: off
SETTINGS: dict[Rule, frozenset[str]] = {
    Rule.EXACT: frozenset({
        "model_name_or_path", "model_revision", "offline", "train_file", "validation_file", "dataset_name",
        "dataset_config_name", "train_split", "validation_split", "id_column", "dialogue_column", "note_column",
        "section_column", "section", "number_rows", "image_column", "image_features",
        "num_train_epochs", "max_steps", "eval_strategy",
        "eval_steps", "eval_generate", "metric_for_best_model", "early_stopping_patience", "load_best_model_at_end",
        "output_dir", "save_strategy", "save_steps", "save_minutes", "save_total_limit", "logging_steps", "report_to",
        "report_rows", "examples_file", "baseline_file", "resume_from_checkpoint", "overwrite_later_checkpoints",
        "allow_inexact_resume", "dry_run", "no_repeat_ngram_size", "grounded",
    }),
    Rule.NOTED: frozenset({
        "per_device_train_batch_size", "gradient_accumulation_steps", "pack_tokens", "parallel_micro_batches",
        "gradient_checkpointing", "dequantize",
    }),
    Rule.CONSENT: frozenset({"kernels", "attention"}),
}
# fmt: on


def rule_of(setting: str) -> Rule:
    """The rule for another value of a setting, by its flag name."""
    return next((rule for rule, names in SETTINGS.items() if setting in names), Rule.REFUSED)
