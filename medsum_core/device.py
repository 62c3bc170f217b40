"""The device of a process: its properties, and the precision that fits it.

A requested precision that the device does not support is refused with the reason, never replaced.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import psutil
import torch

from medsum_core.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
AMPERE = (8, 0)  # first CUDA capability with bf16 units, TF32 and a variable-length attention kernel
# Residual streams beyond 65,504 overflow fp16; Gemma 1 is not among them.
NO_FP16_MODEL_TYPES = ("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text")
SPARE_SHARE = 0.1  # of the free memory, kept free for fragmentation and other programs
TENSORS_POOL = (0, 0)  # torch's number for the memory of all tensors outside of CUDA graphs
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Device:
    """The properties that automatic settings depend on. `capability` is CUDA's, None on a CPU; sizes are in bytes."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    name: str
    capability: tuple[int, int] | None = None
    has_bf16_units: bool
    total_bytes: int
    free_bytes: int
    multiprocessors: int = 0  # of a GPU; 0 on a CPU

    @property
    def torch_device(self) -> torch.device:
        """The same device as a `torch.device`."""
        return torch.device("cuda", self.index) if self.kind == "cuda" else torch.device("cpu")

    @property
    def is_ampere(self) -> bool:
        """Whether it is a GPU of capability 8.0 or above."""
        return self.capability is not None and self.capability >= AMPERE

    @property
    def usable_bytes(self) -> int:
        """Free memory minus SPARE_SHARE of it."""
        return int(self.free_bytes * (1 - SPARE_SHARE))


@lru_cache
def cpu_has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def arithmetic_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which `dtype` matrices are multiplied on `device`: `dtype`, or fp32 where that is faster."""
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not cpu_has_bf16_units():
        return torch.float32
    return dtype


def find_device(local_rank: int = 0) -> Device:
    """The GPU of this process, or the CPU where CUDA has none."""
    if not torch.cuda.is_available():
        total, free = _main_memory()
        name = platform.processor() or platform.machine()
        units = cpu_has_bf16_units()
        return Device(kind="cpu", name=name, has_bf16_units=units, total_bytes=total, free_bytes=free)
    index = local_rank % torch.cuda.device_count()
    # is_bf16_supported() is also True where bf16 is only emulated, so the capability decides.
    capability = torch.cuda.get_device_capability(index)
    torch.cuda.empty_cache()  # gives back the memory of CUDA graphs that are gone
    free, total = torch.cuda.mem_get_info(index)
    free += _kept_bytes(index)
    return Device(
        kind="cuda",
        index=index,
        name=torch.cuda.get_device_name(index),
        capability=capability,
        has_bf16_units=capability >= AMPERE,
        total_bytes=total,
        free_bytes=free,
        multiprocessors=torch.cuda.get_device_properties(index).multi_processor_count,
    )


def _kept_bytes(index: int) -> int:
    """What torch keeps of a GPU for its next tensors, without the memory of CUDA graphs, which only they can use."""
    if torch.cuda.get_allocator_backend() != "native":  # an allocator that the environment chose; it has no segments
        return torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    segments = torch.cuda.memory_snapshot(include_traces=False)
    kept = [one for one in segments if one["device"] == index and tuple(one["segment_pool_id"]) == TENSORS_POOL]
    return sum(one["total_size"] - one["allocated_size"] for one in kept)


def describe(device: Device, *, num_processes: int = 1) -> str:
    """One line about the device: its name, size and units, and how many processes have one."""
    count = f"{num_processes} x " if num_processes > 1 else ""
    size = f"{device.total_bytes / GIB:.0f} GiB"
    if device.capability is not None:
        return f"{count}{device.name} (capability {device.capability[0]}.{device.capability[1]}, {size})"
    units = "with" if device.has_bf16_units else "without"
    return f"{count}CPU {device.name}, {torch.get_num_threads()} threads, {units} bf16 units, {size}"


def choose_precision(asked: str, device: Device, *, model_type: str) -> Precision:
    """bf16 where the device has units for it, fp16 on older GPUs, fp32 otherwise and for models that overflow fp16.

    A CPU without bf16 units multiplies bf16 matrices 10 to 200 times slower than fp32 ones. Raises InputError for fp16
    on a CPU (no gradient scaler), fp16 with a model that overflows it, and bf16 on a GPU without units.
    """
    overflows = model_type in NO_FP16_MODEL_TYPES
    if asked == "fp16" and device.kind == "cpu":
        raise InputError("--precision fp16: needs a GPU; on a CPU use --precision fp32 or bf16")
    if asked == "fp16" and overflows:
        raise InputError(
            f"--precision fp16: {model_type} overflows it; use --precision fp32, or bf16 from capability 8.0"
        )
    if asked == "bf16" and device.kind == "cuda" and not device.has_bf16_units:
        raise InputError(f"--precision bf16: {describe(device)} has no bf16 units; use --precision auto, fp16 or fp32")
    if asked in ("fp32", "bf16", "fp16"):
        return asked  # type: ignore[return-value]
    if device.has_bf16_units:
        return "bf16"
    return "fp16" if device.kind == "cuda" and not overflows else "fp32"


def _main_memory() -> tuple[int, int]:
    """(total, available) bytes of main memory, or of the container's limit where it is lower."""
    memory = psutil.virtual_memory()
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    if limit is None or limit >= memory.total:
        return memory.total, memory.available
    return limit, max(0, min(memory.available, limit - (used or 0)))


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text())
    except (OSError, ValueError):
        return None
