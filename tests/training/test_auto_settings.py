"""Automatic settings for each kind of device, with made-up properties of devices."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from devices import cpu, gpu
from support import tiny_config

from medsum_core import device as device_module
from medsum_core.config.run_config import parse_run
from medsum_core.device import GIB, Device, choose_precision, describe, find_device
from medsum_core.errors import InputError
from medsum_core.kernels.cpu import malloc
from medsum_core.model.lora import LoraSettings
from medsum_core.process import set_arithmetic, uses_tf32
from medsum_core.training.auto_settings import (
    choose_attention,
    choose_dequantize,
    choose_gradient_checkpointing,
    choose_pack_tokens,
    choose_parallel_micro_batches,
    micro_batch_tokens,
    resolve_arithmetic,
    resolve_memory,
    run_shape,
)
from medsum_core.training.memory import measure_model


@pytest.mark.parametrize(
    ("device", "model_type", "expected"),
    [
        (gpu((7, 0)), "gemma", "fp16"),
        (gpu((7, 5)), "gemma", "fp16"),  # T4
        (gpu((7, 5)), "gemma3_text", "fp32"),
        (gpu((8, 0)), "gemma", "bf16"),  # A100
        (gpu((8, 6)), "gemma3_text", "bf16"),
        (gpu((9, 0)), "gemma", "bf16"),  # H100
        (gpu((12, 0)), "gemma", "bf16"),
        (cpu(bf16=True), "gemma", "bf16"),
        (cpu(bf16=False), "gemma", "fp32"),
    ],
)
def test_automatic_precision_of_each_device(device, model_type, expected):
    assert choose_precision("auto", device, model_type=model_type) == expected


def test_a_requested_precision_is_used_or_refused():
    assert choose_precision("bf16", cpu(), model_type="gemma") == "bf16"
    assert choose_precision("fp32", gpu((9, 0)), model_type="gemma") == "fp32"
    for asked, device, model_type in [("fp16", cpu(), "gemma"), ("bf16", gpu((7, 5)), "gemma")]:
        with pytest.raises(InputError, match=f"--precision {asked}"):
            choose_precision(asked, device, model_type=model_type)
    with pytest.raises(InputError, match="overflows"):
        choose_precision("fp16", gpu((7, 5)), model_type="gemma2")


@pytest.mark.parametrize(
    ("device", "precision", "soft_capped", "expected"),
    [
        (gpu((8, 0)), "bf16", False, "varlen"),
        (gpu((8, 0)), "fp32", False, "sdpa"),
        (gpu((8, 0)), "bf16", True, "eager"),
        (gpu((7, 5)), "fp16", False, "per_document"),
        (gpu((6, 1)), "fp32", False, "per_document"),
        (gpu((7, 5)), "fp32", True, "eager"),
        (cpu(), "fp32", False, "per_document"),
        (cpu(), "fp32", True, "per_document"),
    ],
)
def test_automatic_attention_of_each_device(device, precision, soft_capped, expected):
    assert choose_attention("auto", device, precision=precision, soft_capped=soft_capped) == expected


def test_a_requested_attention_is_used_or_refused():
    assert choose_attention("sdpa", gpu((8, 0)), precision="bf16", soft_capped=False) == "sdpa"
    for device in (cpu(), gpu((7, 5))):
        with pytest.raises(InputError, match="--attention varlen"):
            choose_attention("varlen", device, precision="bf16", soft_capped=False)


def test_images_need_a_mask_on_every_device():
    for device, expected in ((cpu(), "per_document"), (gpu((8, 0)), "sdpa"), (gpu((7, 5)), "per_document")):
        assert choose_attention("auto", device, precision="bf16", soft_capped=False, images=True) == expected
        for asked in ("varlen", "model"):
            with pytest.raises(InputError, match=f"--attention {asked}: is causal inside images too"):
                choose_attention(asked, device, precision="bf16", soft_capped=False, images=True)


def test_tf32_is_used_in_16_bit_runs_only():
    assert uses_tf32(gpu((8, 0)), precision="bf16") is True
    assert uses_tf32(gpu((8, 0)), precision="fp32") is False
    assert uses_tf32(gpu((7, 5)), precision="fp16") is False
    assert uses_tf32(cpu(), precision="bf16") is False


def test_deterministic_algorithms_are_set_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", calls.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", calls.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_arithmetic(cpu(), precision="bf16")
    assert calls == [] and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_arithmetic(gpu((8, 0)), precision="bf16")
    assert (
        calls == ["high", True]
        and torch.backends.cudnn.allow_tf32
        and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    )
    assert torch.utils.deterministic.fill_uninitialized_memory is False
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_arithmetic(gpu((8, 0)), precision="fp32")
    assert calls[2:] == ["highest", True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert not torch.backends.cudnn.allow_tf32  # a vision tower's convolutions are exact too


def test_activations_are_checkpointed_where_memory_requires_it():
    def chosen(asked: str, free_gib: int, *, has_long_rows: bool) -> str:
        needed = {"off": 8 * GIB, "long": 6 * GIB}
        device = gpu((8, 0), free_gib=free_gib)
        return choose_gradient_checkpointing(
            asked, device, needed_bytes=needed.__getitem__, has_long_rows=has_long_rows
        )

    assert [chosen("auto", free, has_long_rows=False) for free in (10, 8, 6)] == ["off", "on", "on"]
    assert [chosen("auto", free, has_long_rows=True) for free in (10, 8, 6)] == ["off", "long", "on"]
    for asked in ("on", "off", "long"):
        assert all(chosen(asked, free, has_long_rows=True) == asked for free in (80, 1))


def test_the_base_is_dequantised_once_where_memory_allows():
    assert choose_dequantize("auto", cpu(free_gib=10), load_in_4bit=True, needed_bytes=8 * GIB)
    assert not choose_dequantize("auto", cpu(free_gib=10), load_in_4bit=True, needed_bytes=10 * GIB)
    assert choose_dequantize("auto", gpu((8, 0), free_gib=80), load_in_4bit=True, needed_bytes=70 * GIB)
    assert not choose_dequantize("auto", gpu((8, 0), free_gib=80), load_in_4bit=True, needed_bytes=75 * GIB)
    assert choose_dequantize("on", gpu((8, 0)), load_in_4bit=True, needed_bytes=GIB)
    assert not choose_dequantize("off", cpu(), load_in_4bit=True, needed_bytes=GIB)
    assert not choose_dequantize("auto", cpu(), load_in_4bit=False, needed_bytes=GIB)


def test_packing_budget_by_free_memory():
    def needed(num_tokens: int) -> int:
        return num_tokens * GIB // 1024

    def chosen(device: Device, asked: int | None = None, **more: Any) -> int:
        return choose_pack_tokens(asked, device, max_length=1024, needed_bytes=needed, **more)

    assert chosen(gpu((8, 0), free_gib=16)) == 8192
    assert chosen(gpu((8, 0), free_gib=6)) == 4096
    assert chosen(gpu((8, 0), free_gib=0.5)) == 1024
    assert chosen(cpu(free_gib=100)) == 1024
    assert (chosen(cpu(), 0), chosen(gpu((8, 0)), 3000)) == (0, 3000)
    assert (chosen(cpu(), packable=False), chosen(cpu(), 2048, packable=False)) == (0, 0)


def test_number_of_concurrent_micro_batches(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def chosen(device: Device, asked: int | None = None, *, ordered_draws: bool = False, kernels: str = "fast") -> int:
        return choose_parallel_micro_batches(
            asked, device, kernels=kernels, needed_bytes=lambda count: count * GIB, ordered_draws=ordered_draws
        )

    assert (chosen(cpu(free_gib=3)), chosen(cpu(free_gib=2)), chosen(gpu((8, 0)))) == (2, 1, 1)
    assert (chosen(cpu(), ordered_draws=True), chosen(cpu(), 1), chosen(cpu(free_gib=1), 4)) == (1, 1, 4)
    for device, asked, ordered_draws, reason in (
        (gpu((8, 0)), 2, False, "a GPU takes one at a time"),
        (cpu(), 5, False, "this process has 4 cores"),
        (cpu(), 2, True, "--use_dora"),
    ):
        with pytest.raises(InputError, match=f"--parallel_micro_batches {asked}: .*{reason}.*give 1"):
            chosen(device, asked, ordered_draws=ordered_draws)
    assert chosen(cpu(), kernels="reference") == 1
    with pytest.raises(InputError, match="the reference path takes one after another"):
        chosen(cpu(), 2, kernels="reference")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert chosen(cpu(free_gib=3)) == 1


def test_find_device_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = find_device()
    assert found.kind == "cpu" and found.capability is None and found.torch_device == torch.device("cpu")
    assert 0 < found.free_bytes <= found.total_bytes and found.usable_bytes < found.free_bytes
    assert "bf16 units" in describe(found) and describe(found, num_processes=2).startswith("2 x ")


def segment(device: int, *, pool: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Memory that torch has of a GPU; another pool than the first is that of CUDA graphs."""
    return {"device": device, "segment_pool_id": pool, "total_size": 5 * GIB, "allocated_size": 2 * GIB}


@pytest.mark.parametrize("allocator", ["native", "cudaMallocAsync"])
def test_find_device_asks_for_the_capability(monkeypatch, allocator):
    """T4: torch says that bf16 is supported there, because it emulates it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (11 * GIB, 15 * GIB))
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: allocator)
    if allocator == "native":
        segments = [segment(1), segment(0), segment(1, pool=(0, 7))]
        monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda **_: segments)
    else:  # it can't give a snapshot
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 5 * GIB)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    t4 = SimpleNamespace(multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: t4)
    found = find_device(local_rank=1)
    assert found.torch_device == torch.device("cuda", 1) and not found.has_bf16_units and not found.is_ampere
    assert describe(found) == "Tesla T4 (capability 7.5, 15 GiB)"
    assert found.multiprocessors == 40
    assert found.free_bytes == 14 * GIB  # what torch keeps of it is free for the next tensors; what graphs keep is not
    assert choose_precision("auto", found, model_type="gemma") == "fp16"


@pytest.mark.parametrize(("limit", "used", "expected"), [(None, None, (64, 40)), (8, 3, (8, 5)), (99, 3, (64, 40))])
def test_memory_in_a_container_is_its_own_limit(monkeypatch, limit, used, expected):
    facts = {"memory.max": limit, "memory.current": used}
    monkeypatch.setattr(device_module, "_cgroup_bytes", facts.get)
    monkeypatch.setattr(device_module.psutil, "virtual_memory", lambda: SimpleNamespace(total=64, available=40))
    assert device_module._main_memory() == expected


@pytest.mark.parametrize(("name", "bound"), [("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128"), ("LRU_CACHE_CAPACITY", "32")])
def test_the_limits_of_onednns_caches_are_set_unless_the_environment_has_them(
    monkeypatch: pytest.MonkeyPatch, name: str, bound: str
) -> None:
    monkeypatch.setenv(name, "")  # so that it is put back afterwards
    monkeypatch.delenv(name)
    malloc.limit_onednn_caches()
    assert os.environ[name] == bound
    monkeypatch.setenv(name, "7")
    malloc.limit_onednn_caches()
    assert os.environ[name] == "7"


def test_free_pages_are_returned_where_the_c_library_has_malloc_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=calls.append))
    malloc.trim_malloc()
    assert calls == [0]
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: SimpleNamespace())
    malloc.trim_malloc()
    assert calls == [0]


def test_the_largest_micro_batch_and_the_longest_row_beyond_the_packing_budget() -> None:
    assert micro_batch_tokens(512, 1, 1024) == {"num_tokens": 512, "alone_tokens": 1024}
    assert micro_batch_tokens(1024, 1, 1024) == {"num_tokens": 1024, "alone_tokens": 0}
    assert micro_batch_tokens(4096, 1, 1024)["num_tokens"] == 4096
    assert micro_batch_tokens(0, 2, 1024)["num_tokens"] == 2048


def test_the_documents_and_tokens_of_the_largest_micro_batch() -> None:
    config = parse_run(["--preset", "demo", "--max_length", "1024"])
    resolved = config.with_resolved(
        kernels="reference", precision="fp32", attention="sdpa", dequantize="off", gradient_checkpointing="on"
    )

    def shape(device: Device, **settings: Any) -> tuple[int, int]:
        found = run_shape(resolved.with_resolved(**settings), device)
        return found.num_documents, found.multiprocessors

    assert shape(gpu((8, 0)), pack_tokens=4096) == (4, 132)  # a card that is not at hand
    assert shape(replace(gpu((8, 6)), multiprocessors=28), pack_tokens=1500) == (2, 28)
    assert shape(gpu((8, 0)), pack_tokens=512) == (1, 132)
    assert shape(gpu((8, 0)), pack_tokens=0)[0] == resolved.train.per_device_train_batch_size
    sizes = {
        kernels: run_shape(resolved.with_resolved(kernels=kernels, pack_tokens=1000), gpu((8, 0)))
        for kernels in ("triton", "graphs")
    }
    assert (sizes["triton"].num_tokens, sizes["triton"].alone_tokens) == (1000, 1024)
    assert (sizes["graphs"].num_tokens, sizes["graphs"].alone_tokens) == (1024, 1024)  # padded


@pytest.mark.parametrize("setting", ["attention_dropout", "use_bidirectional_attention"])
def test_what_a_base_asks_of_attention_is_applied_or_refused(setting: str) -> None:
    base = tiny_config("gemma3_text", **{setting: 0.1 if setting == "attention_dropout" else True})
    for argv in ([], ["--kernels", "reference"], ["--kernels", "fast", "--attention", "model"]):
        config = parse_run(["--preset", "demo", *argv])
        with pytest.raises(InputError, match=f"config.json sets {setting}, .*--kernels reference --attention model"):
            resolve_arithmetic(config, base, cpu(), asked=config)
    own = parse_run(["--preset", "demo", "--kernels", "reference", "--attention", "model"])
    resolved = resolve_arithmetic(own, base, cpu(), asked=own)
    assert resolved.model.attention == "model"
    size = measure_model(tiny_config(), LoraSettings(), precision="fp32", kernels="reference")
    assert resolve_memory(resolved, "gemma", cpu(), size, asked=own).train.pack_tokens == 0  # it takes no packed rows
