"""FSDP: what is refused before anything is loaded, and what `auto` chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import FullyShardedDataParallelPlugin

from medsum_core.config.run_config import parse_run
from medsum_core.errors import InputError
from medsum_core.training.sharding import begin_sharding, fsdp_plugin, with_sharded_choices

NO_NOTES = ["--preset", "demo", "--report_rows", "0"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of `accelerate launch --use_fsdp --fsdp_version 2`, with the launcher's defaults."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported.*--use_fsdp --fsdp_version 2"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "Megatron is not supported"),
        ("FSDP_VERSION", "1", "only its second version.*--fsdp_version 2"),
        ("FSDP_VERSION", "", "only its second version"),
        ("FSDP_OFFLOAD_PARAMS", "true", "--fsdp_offload_params true: not supported"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "--gradient_checkpointing on"),
    ],
)
def test_launcher_settings_that_are_not_supported_are_refused(
    launched: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    launched.setenv(variable, value)
    with pytest.raises(InputError, match=says):
        fsdp_plugin()


def test_every_process_loads_the_base(launched: pytest.MonkeyPatch) -> None:
    from transformers.distributed.fsdp import is_fsdp_enabled

    launched.setattr("transformers.distributed.fsdp._is_torch_distributed_initialized", lambda: True)
    assert is_fsdp_enabled()  # transformers would leave the other processes without weights
    plugin = fsdp_plugin()
    assert plugin is not None and plugin.reshard_after_forward is True
    assert not is_fsdp_enabled()


def test_without_the_launcher_nothing_is_sharded() -> None:
    assert fsdp_plugin() is None


@pytest.mark.parametrize(
    ("flags", "num_processes", "says"),
    [
        ("", 1, "--num_processes 2 or more"),
        ("--kernels fast", 2, "--kernels fast: .*--kernels reference"),
        ("--kernels triton", 2, "--kernels triton: .*--kernels reference"),
        ("--report_rows 3", 2, "--report_rows: .*infer.py"),
        ("--eval_generate 1 --eval_strategy epoch", 2, "--eval_generate 0"),
        ("--use_dora true", 2, "--use_dora"),
        ("--task vqa-rad", 2, "images"),
    ],
)
def test_settings_that_need_the_whole_base_are_refused(flags: str, num_processes: int, says: str) -> None:
    accelerator: Any = SimpleNamespace(num_processes=num_processes)
    plugin: Any = FullyShardedDataParallelPlugin
    with pytest.raises(InputError, match=says):
        begin_sharding(parse_run([*NO_NOTES, *flags.split()]), accelerator, plugin)


def test_auto_chooses_what_can_be_sharded_whatever_the_checkpoint_has() -> None:
    asked = parse_run(NO_NOTES)
    saved = asked.with_resolved(kernels="fast", dequantize="on")  # by a run with a whole base
    assert with_sharded_choices(saved, asked=asked).model.kernels == "reference"
    assert with_sharded_choices(saved, asked=asked).model.dequantize == "off"
    asked_for = parse_run([*NO_NOTES, "--load_in_4bit", "true", "--dequantize", "on"])
    assert with_sharded_choices(asked_for, asked=asked_for).model.dequantize == "on"
