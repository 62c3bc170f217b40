"""What a resumed run may change and what not: the rules, on records without a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import save

from medsum_core.checkpoint.checkpoint import load_checkpoint
from medsum_core.checkpoint.fingerprints import environment_fingerprint, run_fingerprints
from medsum_core.checkpoint.rng import capture_rng
from medsum_core.config.on_resume import Rule, rule_of
from medsum_core.config.run_config import parse_run
from medsum_core.data.collator import split_window
from medsum_core.errors import InputError
from medsum_core.training.loss import note_nll
from medsum_core.training.resume import random_state_notes, restore_random_state
from medsum_core.training.resume_check import check_compatible, saved_record


def smoothed(*_: Any, **__: Any) -> Any:
    """Another loss."""


ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), "world_size": 1}


SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-4,
    "lora_target_modules": ("q_proj",),
    "precision": "fp32",
    "kernels": "fast",
    "pack_tokens": 240,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
}


def record(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "settings": SETTINGS,
        "train_data": "t",
        "validation_data": "v",
        "base_weights": "b",
        "base_config": "c",
        "tokenizer": "k",
        "parameters": {"a.lora_A": torch.Size((16, 256))},
        "num_steps": 75,
        "environment": environment_fingerprint(**ON_CPU, uses_numba=True),
        "functions": {"objective": note_nll, "collate": split_window},
    }
    return run_fingerprints(**{**parts, **changes})


def test_an_unchanged_run_may_be_resumed() -> None:
    assert check_compatible(json.loads(json.dumps(record())), record(), allow_inexact=False) == []


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"train_data": "other"}, "training data"),
        ({"validation_data": None}, "validation data"),
        ({"base_weights": "other"}, "base model's weights"),
        ({"base_config": "other"}, "base model's configuration"),
        ({"tokenizer": "other"}, "tokenizer"),
        ({"parameters": {"a.lora_A": (8, 256)}}, "a.lora_A"),
        ({"parameters": {"b.lora_A": (16, 256)}}, "2 trained parameters"),
        (
            {"settings": {**SETTINGS, "learning_rate": 1e-4}},
            "--learning_rate was 0.0002, is 0.0001",
        ),
        ({"num_steps": 70}, "70 updates"),
        (
            {"functions": {"objective": smoothed, "collate": split_window}},
            "objective was medsum_core.training.loss.note",
        ),
        (
            {"functions": {"objective": note_nll, "collate": partial(split_window, batch_size=1)}},
            "is partial(medsum_core",
        ),
        ({"functions": {"objective": note_nll}}, "is not given"),
        ({"functions": {"objective": split_window, "collate": split_window}}, "is medsum_core.data.collator.split"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_changes_of_what_decides_the_updates_are_refused_with_the_remedy(
    change: dict[str, Any], reason: str, allow_inexact: bool
) -> None:
    with pytest.raises(InputError, match="Remedy") as caught:
        check_compatible(record(), record(**change), allow_inexact=allow_inexact)
    assert reason in str(caught.value)


def test_another_prompt_or_optimiser_needs_consent() -> None:
    functions = {"objective": note_nll, "collate": split_window, "build_optimizer": smoothed}
    for before, now in ((record(), record(functions=functions)), (record(functions=functions), record())):
        with pytest.raises(InputError, match="build_optimizer was"):
            check_compatible(before, now, allow_inexact=False)
        (note,) = check_compatible(before, now, allow_inexact=True)
        assert "smoothed" in note


def test_another_version_of_this_projects_own_loss_needs_consent() -> None:
    before = record()
    before["functions"]["objective"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match=r"source of objective, medsum_core.training.loss.note_nll, changed"):
        check_compatible(before, record(), allow_inexact=False)
    assert len(check_compatible(before, record(), allow_inexact=True)) == 1


@pytest.mark.parametrize("allow_inexact", [False, True])
def test_an_earlier_versions_checkpoint_is_compared_by_what_it_records(allow_inexact: bool) -> None:
    old = record()
    del old["functions"], old["base_config"]
    environment = {name: value for name, value in old["environment"].items() if name in OLD_ENVIRONMENT}
    old["environment"] = {**environment, "CPU": "a marketing name"}
    (note,) = check_compatible(old, record(), allow_inexact=allow_inexact)
    assert "not recorded" in note and "ONEDNN_MAX_CPU_ISA" in note and "functions" in note and "configuration" in note
    old["environment"]["CPU threads"] = 999
    if not allow_inexact:
        with pytest.raises(InputError, match="CPU threads was 999"):
            check_compatible(old, record(), allow_inexact=False)


OLD_ENVIRONMENT = ("torch version", "device", "CPU capability", "CPU threads", "number of processes")


def test_more_updates_are_allowed_with_a_notice() -> None:
    (note,) = check_compatible(record(), record(num_steps=150), allow_inexact=False)
    assert "150 updates instead of 75" in note


def test_another_environment_needs_consent() -> None:
    for key in record()["environment"].keys() - {"number of processes"}:  # which changes the rows of an update too
        changed = record(environment={**record()["environment"], key: "other"})
        with pytest.raises(InputError, match="allow_inexact_resume") as caught:
            check_compatible(record(), changed, allow_inexact=False)
        assert key in str(caught.value)
        (note,) = check_compatible(record(), changed, allow_inexact=True)
        assert key in note
    on_gpu = record(environment={**record()["environment"], "device": "cuda", "GPU": "of another computer"})
    (note,) = check_compatible(record(), on_gpu, allow_inexact=True)  # no second one that "GPU" was not recorded
    assert "device was cpu, is cuda" in note


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("model_name_or_path", Rule.EXACT),
        ("pack_tokens", Rule.NOTED),
        ("dequantize", Rule.NOTED),
        ("kernels", Rule.CONSENT),
        ("precision", Rule.REFUSED),
        ("a setting that nobody has judged", Rule.REFUSED),
    ],
)
def test_every_setting_has_its_rule(name: str, rule: Rule) -> None:
    assert rule_of(name) is rule
    assert (name in parse_run([]).compared_on_resume()) is (rule is not Rule.EXACT and not name.startswith("a "))


def test_settings_that_keep_the_gradient_give_a_notice_and_kernels_need_consent() -> None:
    smaller = record(settings={**SETTINGS, "pack_tokens": 120})
    for allow_inexact in (False, True):
        (note,) = check_compatible(record(), smaller, allow_inexact=allow_inexact)
        assert "--pack_tokens was 240, is 120" in note and "the former values give the same bits" in note
    slower = record(settings={**SETTINGS, "pack_tokens": 120, "kernels": "reference"})
    with pytest.raises(InputError, match=r"--kernels was fast, is reference.*--pack_tokens.*--allow_inexact_resume"):
        check_compatible(record(), slower, allow_inexact=False)
    (note,) = check_compatible(record(), slower, allow_inexact=True)
    assert "as asked: --kernels was fast" in note


def with_window(processes: int, batch: int, accumulation: int) -> dict[str, Any]:
    settings = {**SETTINGS, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    return record(settings=settings, environment={**record()["environment"], "number of processes": processes})


@pytest.mark.parametrize(
    ("window", "remedy"),
    [
        ((2, 2, 8), "give --gradient_accumulation_steps 4"),
        ((1, 2, 4), "give --gradient_accumulation_steps 8"),
        ((2, 3, 8), "give --per_device_train_batch_size 1 --gradient_accumulation_steps 8"),
        ((3, 2, 8), "start a number of processes that divides 16"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_other_rows_in_an_update_are_refused_with_the_flags_that_keep_them(
    window: tuple[int, int, int], remedy: str, allow_inexact: bool
) -> None:
    with pytest.raises(InputError, match="rows") as caught:
        check_compatible(with_window(1, 2, 8), with_window(*window), allow_inexact=allow_inexact)
    assert remedy in str(caught.value) and "an update had 16 rows" in str(caught.value)


def test_the_same_rows_in_an_update_may_be_divided_otherwise() -> None:
    (note,) = check_compatible(with_window(1, 2, 8), with_window(1, 1, 16), allow_inexact=False)
    assert "--per_device_train_batch_size was 2, is 1" in note
    (note,) = check_compatible(with_window(1, 2, 8), with_window(2, 2, 4), allow_inexact=True)
    assert "number of processes was 1, is 2" in note


@pytest.mark.parametrize(
    ("change", "says"),
    [({"precision": "bf16"}, "--precision was fp32, is bf16"), ({"load_in_4bit": True}, "--load_in_4bit was None, is")],
)
def test_another_precision_is_not_reported_as_another_base(change: dict[str, Any], says: str) -> None:
    """The weights in memory differ with it; whoever reads the message should change the precision, not the base."""
    other = record(settings={**SETTINGS, **change}, base_weights="other")
    with pytest.raises(InputError, match=says) as caught:
        check_compatible(record(), other, allow_inexact=True)
    assert "base model" not in str(caught.value)


def test_a_base_configuration_that_another_transformers_reads_differently_needs_consent() -> None:
    newer = record(base_config="other", environment={**record()["environment"], "transformers version": "9"})
    with pytest.raises(InputError, match=r"configuration is read differently.*allow_inexact_resume"):
        check_compatible(record(), newer, allow_inexact=False)
    assert len(check_compatible(record(), newer, allow_inexact=True)) == 1


def test_an_earlier_versions_record_is_read_under_todays_names(tmp_path: Path) -> None:
    old = record(settings={**SETTINGS, "model_name_or_path": "elsewhere"})
    old["base"] = old.pop("base_weights")
    old["environment"]["attention kernel"] = "sdpa"
    del old["environment"]["number of processes"]
    checkpoint = load_checkpoint(save(tmp_path, 1, fingerprints=old, rng=[{"torch": "00"}, {"torch": "01"}]))
    found = saved_record(checkpoint)
    assert found["environment"]["number of processes"] == 2 and "attention kernel" not in found["environment"]
    assert "model_name_or_path" not in found["settings"]
    now = record() | {"base": "b"}
    now["settings"] = found["settings"]
    now["environment"]["number of processes"] = 2
    assert check_compatible(found, now, allow_inexact=False) == []
    with pytest.raises(InputError, match="earlier version records no more: keep --dequantize and --kernels"):
        check_compatible(found, now | {"base": "other"}, allow_inexact=True)
    with pytest.raises(InputError, match="does not record settings, train_data"):
        saved_record(load_checkpoint(save(tmp_path, 2)))


def test_each_process_gets_its_own_random_state_and_one_without_draws_other_masks(tmp_path: Path) -> None:
    states, expected, draws = [], [], []
    for seed in (3, 4):
        torch.manual_seed(seed)
        states.append(capture_rng())
        expected.append(torch.rand(8))
    checkpoint = load_checkpoint(save(tmp_path, 4, rng=states))
    for process in (0, 1, 2, 3, 2):
        torch.manual_seed(9)
        restore_random_state(checkpoint, seed=42, process=process)
        draws.append(torch.rand(8))
    assert torch.equal(draws[0], expected[0]) and torch.equal(draws[1], expected[1])
    assert torch.equal(draws[2], draws[4])
    assert not any(torch.equal(draws[2], other) for other in (draws[0], draws[1], draws[3]))
    later = load_checkpoint(save(tmp_path, 5, rng=states))
    restore_random_state(later, seed=42, process=2)
    assert not torch.equal(torch.rand(8), draws[2])


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        (2, 2, []),
        (1, 3, ["the first 1 of 3 processes; the others begin one from --seed"]),
        (3, 2, ["the first 2 of 2 processes; those of 1 more"]),
    ],
)
def test_another_number_of_processes_is_noted(saved: int, now: int, expected: list[str]) -> None:
    checkpoint: Any = SimpleNamespace(rng=[{}] * saved)
    accelerator: Any = SimpleNamespace(num_processes=now)
    found = random_state_notes(checkpoint, accelerator)
    assert len(found) == len(expected) and all(part in line for part, line in zip(expected, found, strict=True))
