"""Flags of TrainingArguments, TRL and PEFT: each works, or its message names what to give here."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from medsum_core.config.counterparts import COUNTERPARTS, EQUAL_VALUES, counterpart
from medsum_core.config.parser import SECTIONS, read_command_line
from medsum_core.config.run_config import parse_run
from medsum_core.errors import InputError

OWN = {field.name for section in SECTIONS.values() for field in fields(section)}
ELSEWHERE = {"run", "input_file", "num_processes", "use_fsdp", "fsdp_version"}  # of infer.py and accelerate launch


def refusal(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_run(list(argv))
    return str(caught.value)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--bf16 true", "--precision bf16"),
        ("--fp16", "--precision fp16"),
        ("--torch_dtype bfloat16", "--precision bf16, fp16 or fp32"),
        ("--warmup_ratio 0.1", "--warmup_steps"),
        ("--warmup-ratio=0.1", "--warmup_steps"),
        ("--evaluation_strategy epoch", "--eval_strategy"),
        ("--per_device_eval_batch_size 8", "--pack_tokens"),
        ("--logging_dir logs", "--output_dir"),
        ("--use_cpu true", "CUDA_VISIBLE_DEVICES="),
        ("--max_seq_length 512", "--max_length"),
        ("--packing true", "--pack_tokens"),
        ("--group_by_length true", "--pack_tokens"),
        ("--attn_implementation sdpa", "--attention"),
        ("--lora_rank 8", "--lora_r"),
        ("--deepspeed ds.json", "not supported: accelerate launch --num_processes N"),
        ("--fsdp full_shard auto_wrap", "--use_fsdp --fsdp_version 2"),
        ("--overwrite_output_dir", "--resume_from_checkpoint auto"),
        ("--trust_remote_code true", "no code of a model's repository"),
        ("--push_to_hub true", "nothing is uploaded"),
    ],
)
def test_a_flag_of_another_program_is_refused_with_its_counterpart(flag: str, remedy: str) -> None:
    message = refusal(*flag.split())
    assert re.match(r"--[-a-z0-9_]+: there is no such setting: ", message)
    assert remedy in message and "did you mean" not in message and "\n" not in message


def test_a_settings_file_gets_the_same_answer(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("bf16: true\n")
    assert f"{path}, line 1, bf16: there is no such setting: give --precision bf16" in refusal("--config", str(path))


def test_no_setting_of_training_arguments_gets_a_wrong_suggestion() -> None:
    """For example, `--deepspeed` must not be answered by "did you mean --seed"."""
    others = sorted({field.name for field in fields(TrainingArguments)} - OWN)
    problems = read_command_line([f"--{name}" for name in others]).problems
    assert len(problems) == len(others) > 60
    assert [text for text in problems if "did you mean" in text] == []


def test_remedies_name_settings_that_exist() -> None:
    assert [name for name in OWN if counterpart(name) and name in COUNTERPARTS] == []
    for name, text in COUNTERPARTS.items():
        named = set(re.findall(r"--([a-z0-9_]+)", text))
        assert named <= OWN | ELSEWHERE | {"config", "dry_run"}, name


def test_values_of_training_arguments_that_mean_the_same_are_accepted(tmp_path: Path) -> None:
    def choice(*argv: str) -> str:
        return parse_run(list(argv)).train.gradient_checkpointing

    assert choice("--gradient_checkpointing", "true") == choice("--gradient_checkpointing=True") == "on"
    assert choice("--gradient_checkpointing") == "on" and choice("--gradient_checkpointing", "false") == "off"
    assert choice("--gradient_checkpointing", "long", "--pack_tokens", "9") == "long"
    for name, text in (
        ("run.yaml", "gradient_checkpointing: true\n"),
        ("run.json", '{"gradient_checkpointing": true}'),
    ):
        (tmp_path / name).write_text(text)
        assert choice("--config", str(tmp_path / name)) == "on"
    resumed = parse_run(["--output_dir", str(tmp_path), "--resume_from_checkpoint", "true"])
    assert resumed.output.resume_from_checkpoint == "auto"
    assert "invalid choice: 'maybe'" in refusal("--gradient_checkpointing", "maybe")
    assert set(EQUAL_VALUES) <= OWN
