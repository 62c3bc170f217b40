"""The choices for `auto` in a checkpoint, when the run is resumed here, on another machine or with other flags."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import cpu
from support import tiny_config

from medsum_core.config.run_config import parse_run
from medsum_core.errors import InputError
from medsum_core.model.lora import LoraSettings
from medsum_core.training.auto_settings import resolve_arithmetic, resolve_memory, with_saved
from medsum_core.training.memory import measure_model


def test_a_checkpoint_from_before_the_kernels_flag_continues_with_the_fast_kernels() -> None:
    config = parse_run(["--preset", "demo"])
    assert with_saved(config, {}).model.kernels == "auto"
    assert with_saved(config, {"precision": "bf16"}).model.kernels == "fast"
    assert with_saved(config, {"kernels": "reference"}).model.kernels == "reference"
    asked = parse_run(["--preset", "demo", "--kernels", "reference"])
    assert with_saved(asked, {"precision": "bf16"}).model.kernels == "reference"  # and then needs consent


SAVED = {
    "kernels": "reference",
    "precision": "fp32",
    "attention": "sdpa",
    "dequantize": "off",
    "gradient_checkpointing": "on",
    "pack_tokens": 1024,
    "parallel_micro_batches": 1,
    "prompt_style": "chat",
}


def test_a_resumed_run_takes_the_checkpoints_choice_for_auto() -> None:
    found = with_saved(parse_run(["--preset", "demo", "--precision", "bf16"]), SAVED).settings()
    assert {name: found[name] for name in SAVED} == SAVED | {"precision": "bf16"}


def test_flags_override_a_checkpoints_choice() -> None:
    """Otherwise the remedy for a lack of memory, a lower --pack_tokens, would be refused for an automatic choice."""
    saved = SAVED | {"gradient_checkpointing": "long", "pack_tokens": 512, "dequantize": "on"}
    unpacked = with_saved(parse_run(["--preset", "demo", "--pack_tokens", "0"]), saved)
    assert (unpacked.train.pack_tokens, unpacked.train.gradient_checkpointing) == (0, "auto")
    dense = with_saved(parse_run(["--preset", "demo", "--load_in_4bit", "false"]), saved)
    assert (dense.model.dequantize, dense.train.gradient_checkpointing) == ("auto", "long")


@pytest.mark.parametrize(
    ("asked", "saved", "expected"),
    [
        ([], {"attention": "varlen", "precision": "bf16"}, ("per_document", "bf16", 1)),
        ([], {"attention": "eager", "precision": "fp16"}, ("eager", "fp32", 1)),
        ([], {"parallel_micro_batches": 7, "kernels": "fast"}, ("sdpa", "fp32", 1)),
        (["--kernels", "reference"], {"parallel_micro_batches": 2, "kernels": "fast"}, ("sdpa", "fp32", 1)),
    ],
)
def test_a_checkpoints_choice_that_this_machine_lacks_is_chosen_anew(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], saved: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    config = parse_run(["--preset", "demo", *asked])
    found = with_saved(config, SAVED | saved)
    device = cpu()
    found = resolve_arithmetic(found, tiny_config(), device, asked=config)
    size = measure_model(tiny_config(), LoraSettings(), precision="fp32", kernels="reference")
    found = resolve_memory(found, "gemma", device, size, asked=config)
    chosen = (found.model.attention, found.model.precision, found.train.parallel_micro_batches)
    assert chosen == expected
    insistent = parse_run(["--preset", "demo", "--attention", "varlen"])
    with pytest.raises(InputError, match="--attention varlen"):
        resolve_arithmetic(with_saved(insistent, SAVED), tiny_config(), device, asked=insistent)


def test_a_setting_that_a_checkpoint_lacks_gets_the_behaviour_of_its_version() -> None:
    old = {name: value for name, value in SAVED.items() if name not in ("kernels", "parallel_micro_batches")}
    found = with_saved(parse_run(["--preset", "demo"]), old).settings()
    assert (found["kernels"], found["parallel_micro_batches"]) == ("fast", 1)


@pytest.mark.parametrize(
    "planted,named",
    [
        ({"examples_file": "sheet.csv"}, "examples_file"),
        ({"output_dir": "elsewhere"}, "output_dir"),
        ({"eval_steps": 1}, "eval_steps"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"pack_tokens": -1}, "pack_tokens"),
        ({"pack_tokens": "1024"}, "pack_tokens"),
        ({"pack_tokens": 1e3}, "pack_tokens"),
        ({"parallel_micro_batches": 0}, "parallel_micro_batches"),
        ({"parallel_micro_batches": True}, "parallel_micro_batches"),
        ({"precision": "fp8"}, "precision"),
        ({"precision": ["fp32"]}, "precision"),
        ({"attention": 3}, "attention"),
        ({"gradient_checkpointing": "long"}, "gradient_checkpointing"),
    ],
)
def test_a_checkpoint_sets_nothing_but_the_resolved_settings_and_those_in_range(
    planted: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        with_saved(parse_run(["--preset", "demo"]), SAVED | planted)
    with pytest.raises(InputError, match=named):  # even where the user has decided
        argv = ["--pack_tokens", "1024", "--precision", "fp32", "--attention", "sdpa", "--parallel_micro_batches", "1"]
        with_saved(parse_run(["--preset", "demo", *argv]), SAVED | planted)
