"""What a resumed run may change, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import nf4_model

from medsum_core.checkpoint.fingerprints import (
    base_fingerprint,
    check_compatible,
    environment_fingerprint,
    run_fingerprints,
)
from medsum_core.errors import InputError
from medsum_core.model.lora import trainable_parameters


def record(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "settings": {"learning_rate": 2e-4, "lora_target_modules": ("q_proj",)},
        "train_data": "t",
        "validation_data": "v",
        "base": "b",
        "tokenizer": "k",
        "parameters": {"a.lora_A": torch.Size((16, 256))},
        "num_steps": 75,
        "environment": environment_fingerprint(device=torch.device("cpu"), attention="sdpa", world_size=1),
    }
    return run_fingerprints(**{**parts, **changes})


def test_the_same_run_is_compatible() -> None:
    assert check_compatible(json.loads(json.dumps(record())), record(), allow_inexact=False) == []


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"train_data": "other"}, "training data"),
        ({"validation_data": None}, "validation data"),
        ({"base": "other"}, "base model"),
        ({"tokenizer": "other"}, "tokenizer"),
        ({"parameters": {"a.lora_A": (8, 256)}}, "a.lora_A"),
        ({"parameters": {"b.lora_A": (16, 256)}}, "2 trained parameters"),
        (
            {"settings": {"learning_rate": 1e-4, "lora_target_modules": ["q_proj"]}},
            "--learning_rate was 0.0002, is 0.0001",
        ),
        ({"num_steps": 70}, "70 updates"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_what_decides_the_updates_is_refused_with_reason_and_remedy(
    change: dict[str, Any], reason: str, allow_inexact: bool
) -> None:
    with pytest.raises(InputError, match="Remedy") as caught:
        check_compatible(record(), record(**change), allow_inexact=allow_inexact)
    assert reason in str(caught.value)


def test_more_updates_are_allowed_and_said() -> None:
    (note,) = check_compatible(record(), record(num_steps=150), allow_inexact=False)
    assert "150 updates instead of 75" in note


def test_another_environment_needs_consent() -> None:
    for key in record()["environment"]:
        changed = record(environment={**record()["environment"], key: "other"})
        with pytest.raises(InputError, match="allow_inexact_resume") as caught:
            check_compatible(record(), changed, allow_inexact=False)
        assert key in str(caught.value)
        (note,) = check_compatible(record(), changed, allow_inexact=True)
        assert key in note


def test_the_environment_names_what_changes_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_fingerprint(device=torch.device("cpu"), attention="sdpa", world_size=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX999")
    after = environment_fingerprint(device=torch.device("cpu"), attention="varlen", world_size=2)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {"attention kernel", "number of processes", "CPU capability", "CPU threads"}
    assert before["torch version"] == torch.__version__


def test_the_base_fingerprint_sees_codes_and_scales_and_not_the_adapter(base_folder: Path) -> None:
    model = nf4_model(base_folder)
    before = base_fingerprint(model.named_parameters())
    assert before == base_fingerprint(nf4_model(base_folder).named_parameters())
    with torch.no_grad():
        trainable_parameters(model)[0][1].add_(1.0)
    assert base_fingerprint(model.named_parameters()) == before
    packed = next(parameter for parameter in model.parameters() if hasattr(parameter, "quant_state"))
    packed.quant_state.absmax[0] ^= 1
    assert base_fingerprint(model.named_parameters()) != before
