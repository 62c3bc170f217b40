"""What a resumed run may change, and what it may not."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import nf4_model
from numba.core.registry import cpu_target

from medsum_core.checkpoint import fingerprints
from medsum_core.checkpoint.fingerprints import (
    base_fingerprint,
    check_compatible,
    environment_fingerprint,
    run_fingerprints,
)
from medsum_core.data.collator import split_window
from medsum_core.errors import InputError
from medsum_core.model.lora import trainable_parameters
from medsum_core.training.loss import note_nll


def smoothed(*_: Any, **__: Any) -> Any:
    """Another loss."""


ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), "attention": "sdpa", "world_size": 1}


def record(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "settings": {"learning_rate": 2e-4, "lora_target_modules": ("q_proj",)},
        "train_data": "t",
        "validation_data": "v",
        "base": "b",
        "tokenizer": "k",
        "parameters": {"a.lora_A": torch.Size((16, 256))},
        "num_steps": 75,
        "environment": environment_fingerprint(**ON_CPU, uses_numba=True),
        "functions": {"objective": note_nll, "collate": split_window},
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
        (
            {"functions": {"objective": smoothed, "collate": split_window}},
            "objective was medsum_core.training.loss.note",
        ),
        ({"functions": {"objective": note_nll, "collate": partial(split_window, x=1)}}, "is partial(medsum_core"),
        ({"functions": {"objective": note_nll}}, "is not given"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_what_decides_the_updates_is_refused_with_reason_and_remedy(
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
def test_an_earlier_versions_checkpoint_is_compared_by_what_it_tells(allow_inexact: bool) -> None:
    old = record()
    del old["functions"]
    environment = {name: value for name, value in old["environment"].items() if name in OLD_ENVIRONMENT}
    old["environment"] = {**environment, "CPU": "a marketing name"}
    (note,) = check_compatible(old, record(), allow_inexact=allow_inexact)
    assert "does not tell" in note and "ONEDNN_MAX_CPU_ISA" in note and "functions" in note
    old["environment"]["CPU threads"] = 999
    if not allow_inexact:
        with pytest.raises(InputError, match="CPU threads was 999"):
            check_compatible(old, record(), allow_inexact=False)


OLD_ENVIRONMENT = ("torch version", "attention kernel", "device", "CPU capability", "CPU threads")


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NUMBA_CPU_NAME", "version", "flags"])
def test_what_changes_the_bits_unseen_is_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = environment_fingerprint(**ON_CPU, uses_numba=True)
    if name == "version":
        monkeypatch.setattr(fingerprints, "__version__", "0.0.0")
    elif name == "flags":
        monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("vendor_id: A\nmodel: 7\nflags: sse avx\n\n"))
    elif name == "NUMBA_CPU_NAME":
        codegen = SimpleNamespace(magic_tuple=lambda: ("x86", "generic", "-avx2"))
        monkeypatch.setattr(type(cpu_target.target_context), "codegen", lambda _: codegen)
    else:
        monkeypatch.setenv(name, "AVX2")
    after = environment_fingerprint(**ON_CPU, uses_numba=True)
    differing = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    expected = {
        "version": {"medsum-core version"},
        "flags": {"CPU family and model", "CPU flags"},
        "NUMBA_CPU_NAME": {"numba CPU", "numba CPU features"},
    }
    assert differing == expected.get(name, {name})


def test_the_processor_is_told_by_family_and_model_and_not_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first = "processor: 0\nvendor_id: A\ncpu family: 26\nmodel: 2\nmodel name: {}\nstepping: 1\nflags: avx sse\n\nprocessor: 1"
    found = []
    for text in (first.format("EPYC"), first.format("QEMU"), first.replace("stepping: 1", "stepping: 2")):
        monkeypatch.setattr("builtins.open", lambda *_, text=text, **__: io.StringIO(text))
        found.append(environment_fingerprint(**ON_CPU))
    assert found[0] == found[1] != found[2]
    assert found[0]["CPU family and model"] == "vendor_id A, cpu family 26, model 2, stepping 1"


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
    before = environment_fingerprint(**ON_CPU)
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
