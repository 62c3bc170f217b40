"""The fingerprints depend on what changes a run's results, and on nothing else."""

from __future__ import annotations

import io
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import nf4_model
from numba.core.registry import cpu_target
from support import tiny_config, tiny_tokenizer
from torch import nn
from transformers import AutoConfig

from medsum_core.checkpoint import fingerprints
from medsum_core.checkpoint.fingerprints import (
    base_fingerprint,
    config_fingerprint,
    environment_fingerprint,
    tokenizer_fingerprint,
)
from medsum_core.model.lora import trainable_parameters

ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), "world_size": 1}


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NUMBA_CPU_NAME", "version", "flags"])
def test_the_environment_fingerprint_has_what_changes_results_unnoticed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = environment_fingerprint(**ON_CPU, uses_numba=True)
    if name == "version":
        monkeypatch.setattr(fingerprints, "__version__", "0.0.0")
    elif name == "flags":
        monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("vendor_id: A\nmodel: 7\nflags: sse avx\n\n"))
    elif name == "NUMBA_CPU_NAME":
        codegen = SimpleNamespace(magic_tuple=lambda: ("x86", "another", "-avx2"))
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


def test_the_processor_is_identified_by_family_and_model_not_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first = "processor: 0\nvendor_id: A\ncpu family: 26\nmodel: 2\nmodel name: {}\nstepping: 1\nflags: avx sse\n\nprocessor: 1"
    found = []
    for text in (first.format("EPYC"), first.format("QEMU"), first.replace("stepping: 1", "stepping: 2")):
        monkeypatch.setattr("builtins.open", lambda *_, text=text, **__: io.StringIO(text))
        found.append(environment_fingerprint(**ON_CPU))
    assert found[0] == found[1] != found[2]
    assert found[0]["CPU family and model"] == "vendor_id A, cpu family 26, model 2, stepping 1"


def test_the_environment_fingerprint_has_threads_processes_and_cpu_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_fingerprint(**ON_CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX999")
    after = environment_fingerprint(device=torch.device("cpu"), world_size=2, uses_triton=True)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {"number of processes", "fp32 matmul precision", "CPU capability", "CPU threads"}
    assert after.keys() - before.keys() == {"triton version"}
    assert before["torch version"] == metadata.version("torch")


def test_the_base_fingerprint_depends_on_each_frozen_weight_and_not_on_the_adapter(base_folder: Path) -> None:
    model = nf4_model(base_folder)
    before = base_fingerprint(model.named_parameters())
    assert before == base_fingerprint(reversed(list(nf4_model(base_folder).named_parameters())))
    with torch.no_grad():
        trainable_parameters(model)[0][1].add_(1.0)
    assert base_fingerprint(model.named_parameters()) == before
    packed = next(parameter for parameter in model.parameters() if hasattr(parameter, "quant_state"))
    norm = next(parameter for name, parameter in model.named_parameters() if "norm" in name)
    found = {before}
    scales = packed.quant_state.absmax, packed.quant_state.state2.absmax.view(torch.uint8)
    for frozen in (*scales, packed.data.view(-1), norm.data.view(torch.uint8)):
        frozen[0] ^= 1
        found.add(base_fingerprint(model.named_parameters()))
    assert len(found) == 5


def test_the_same_bytes_in_another_dtype_or_shape_are_another_base() -> None:
    zeros = torch.zeros(2, 2, dtype=torch.float16)
    same_bytes = (zeros, zeros.view(torch.bfloat16), zeros.view(4))
    found = {base_fingerprint([("w", nn.Parameter(tensor, requires_grad=False))]) for tensor in same_bytes}
    assert len(found) == 3


def test_the_configurations_fingerprint_depends_on_its_values_and_not_on_its_path(tmp_path: Path) -> None:
    config = tiny_config()
    for name in ("here", "there"):
        config.save_pretrained(tmp_path / name)
    here, there = (AutoConfig.from_pretrained(tmp_path / name) for name in ("here", "there"))
    assert config_fingerprint(here) == config_fingerprint(there)
    there.rms_norm_eps *= 2
    assert config_fingerprint(here) != config_fingerprint(there)


def test_a_field_without_effect_has_none_in_a_nested_configuration_either() -> None:
    def of(**text_config: Any) -> str:
        return config_fingerprint(SimpleNamespace(to_dict=lambda: {"text_config": text_config}))

    assert of(dtype="float32", hidden_size=64) == of(dtype="bfloat16", hidden_size=64) != of(hidden_size=65)


def test_the_tokenizers_fingerprint_depends_on_its_vocabulary_special_tokens_and_template() -> None:
    before = tokenizer_fingerprint(tiny_tokenizer())
    assert before == tokenizer_fingerprint(tiny_tokenizer())
    found = {before}
    for name, value in (("chat_template", "another"), ("eos_token", "<pad>")):
        changed = tiny_tokenizer()
        setattr(changed, name, value)
        found.add(tokenizer_fingerprint(changed))
    longer = tiny_tokenizer()
    longer.add_tokens(["a word"])
    assert len({*found, tokenizer_fingerprint(longer)}) == 4
