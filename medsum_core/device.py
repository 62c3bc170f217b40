"""What a device gets: precision, attention kernel, TF32, unpacked weights, checkpointing of activations, packing.

Each choice is one small function of the device's facts and of what was asked for; `auto` asks for nothing. A wish that
the device cannot meet is refused with the reason, never changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from medsum_core.errors import InputError
from medsum_core.kernels.cpu.bf16_products import cpu_has_bf16_units

Precision = Literal["fp32", "bf16", "fp16"]
AMPERE = (8, 0)  # first CUDA capability with bf16 units, TF32 and a variable-length attention kernel
# Residual streams beyond 65,504 overflow fp16; Gemma 1 is not among them.
NO_FP16_MODEL_TYPES = ("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text")
SPARE_SHARE = 0.1  # of the free memory: fragmentation, and what other programs take meanwhile
MAX_PACKED_ROWS = 8  # beyond 8 x max_length tokens a micro-batch no longer gets faster
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Device:
    """The facts that choices rest on. `capability` is CUDA's, None on a CPU; sizes are bytes."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    name: str
    capability: tuple[int, int] | None = None
    has_bf16_units: bool
    total_bytes: int
    free_bytes: int

    @property
    def torch_device(self) -> torch.device:
        """What tensors are moved to."""
        return torch.device("cuda", self.index) if self.kind == "cuda" else torch.device("cpu")

    @property
    def is_ampere(self) -> bool:
        """Whether it is a GPU of capability 8.0 or above."""
        return self.capability is not None and self.capability >= AMPERE

    @property
    def usable_bytes(self) -> int:
        """Free memory less a reserve."""
        return int(self.free_bytes * (1 - SPARE_SHARE))


def find_device(local_rank: int = 0) -> Device:
    """The GPU of this process, or the CPU where CUDA has none."""
    if not torch.cuda.is_available():
        total, free = _main_memory()
        name = platform.processor() or platform.machine()
        units = cpu_has_bf16_units()
        return Device(kind="cpu", name=name, has_bf16_units=units, total_bytes=total, free_bytes=free)
    index = local_rank % torch.cuda.device_count()
    # is_bf16_supported() also says yes where bf16 is only emulated: the capability decides.
    capability = torch.cuda.get_device_capability(index)
    free, total = torch.cuda.mem_get_info(index)
    return Device(
        kind="cuda",
        index=index,
        name=torch.cuda.get_device_name(index),
        capability=capability,
        has_bf16_units=capability >= AMPERE,
        total_bytes=total,
        free_bytes=free,
    )


def describe(device: Device, *, num_processes: int = 1) -> str:
    """One line for a person: what trains, and how many of them."""
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


def needs_scaler(precision: str) -> bool:
    """Whether gradients must be scaled against underflow: with fp16 only, bf16 has the range of fp32."""
    return precision == "fp16"


def choose_attention(asked: str, device: Device, *, precision: str, soft_capped: bool) -> str:
    """The kernel inside packed rows: documents in turn on a CPU, torch's varlen kernel on a GPU from 8.0, SDPA below.

    The varlen kernel takes 16-bit numbers; neither it nor SDPA knows soft-capping of scores (Gemma 2): `eager` does.
    Raises InputError for `varlen` where it cannot run.
    """
    has_varlen = device.is_ampere and precision in ("bf16", "fp16") and not soft_capped
    if asked == "varlen" and not has_varlen:
        raise InputError(
            "--attention varlen: needs a GPU of capability 8.0 or above, bf16 or fp16, and a model without soft-capped "
            "attention; use --attention auto"
        )
    if asked != "auto":
        return asked
    if device.kind == "cpu":
        return "per_document"
    if soft_capped:
        return "eager"
    return "varlen" if has_varlen else "sdpa"


def choose_tf32(device: Device, *, precision: str) -> bool:
    """TF32 for the few fp32 products of a 16-bit run on a GPU from 8.0; a run in fp32 was asked to be exact."""
    return device.is_ampere and precision != "fp32"


def apply_tf32(allowed: bool) -> None:
    """Let fp32 matrix products use TF32, or not; without a GPU nothing changes."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if allowed else "highest")


def repeat_bits(device: torch.device) -> None:
    """Have a GPU add in the same order each time, so that a resumed run ends in the bits of the uninterrupted one.

    The attention kernels' ways back add to a query's gradient in the order in which their blocks end, unless told.
    cuBLAS repeats itself with workspaces of a fixed size (its manual, "Results reproducibility"), which the
    environment may name already. Memory is not filled for it: nothing here reads what was not written.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_few_products() -> None:
    """Have oneDNN keep the compiled code of 128 shapes of products, unless the environment has its own number.

    Call it before the first product, where the numbers are read.
    A micro-batch needs fewer, but its length and those of its documents are new each time: by the fifth window the
    1,024 shapes that oneDNN keeps by itself took 0.3 GiB. PyTorch keeps the last 1,024 of each thread a second time, so
    that oneDNN's could not be let go (`LRU_CACHE_CAPACITY`, pytorch/pytorch#98688): 60 MiB a window with two lanes. Its
    last 32 are a layer's: with them it need not ask oneDNN for each product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")


def return_free_memory(device: torch.device) -> None:
    """Give the heap's free pages back to the system, on a CPU whose C library can (glibc).

    Loading and each update leave holes that the next tensors fit badly. Before each window this costs next to nothing.
    """
    if device.type == "cpu" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def choose_gradient_checkpointing(
    asked: str, device: Device, *, needed_bytes: Callable[[str], int], has_long_rows: bool
) -> str:
    """Which micro-batches compute their activations again: none, those of rows that are too long to pack, or all.

    As few as memory asks for: `needed_bytes` tells what a run with "off" or "long" takes.
    """
    if asked != "auto":
        return asked
    choices = ("off", "long") if has_long_rows else ("off",)
    return next((choice for choice in choices if needed_bytes(choice) <= device.usable_bytes), "on")


def choose_dequantize(asked: str, device: Device, *, load_in_4bit: bool, needed_bytes: int) -> bool:
    """Unpack the NF4 base once where the run with its dense copy (`needed_bytes`) fits; the numbers stay the same.

    On a GPU unpacking at each use costs little and 4 bits are there to save memory: not unless asked for.
    """
    if not load_in_4bit or asked == "off":
        return False
    return asked == "on" or (device.kind == "cpu" and needed_bytes <= device.usable_bytes)


def choose_pack_tokens(
    asked: int | None, device: Device, *, max_length: int, needed_bytes: Callable[[int], int], packable: bool = True
) -> int:
    """Tokens of a packed micro-batch: what was asked for; on a GPU as many times `max_length` as fit, else once.

    `needed_bytes` tells what a run with so many tokens takes. 0, unpacked, for models whose packing is not tested.
    """
    if not packable:
        return 0
    if asked is not None:
        return asked
    rows = MAX_PACKED_ROWS if device.kind == "cuda" else 1
    while rows > 1 and needed_bytes(rows * max_length) > device.usable_bytes:
        rows //= 2
    return rows * max_length


def choose_parallel_micro_batches(
    asked: int | None, device: Device, *, needed_bytes: Callable[[int], int], ordered_draws: bool
) -> int:
    """Micro-batches side by side: on a CPU two, where it has two cores and `needed_bytes(2)` fits; on a GPU one.

    `ordered_draws`: PEFT's own dropout draws from torch's generator, where two lanes would draw in any order.
    Raises InputError for more than one where it cannot be.
    """
    num_cores = torch.get_num_threads()
    if asked is None:
        fits = device.kind == "cpu" and num_cores >= 2 and not ordered_draws
        return 2 if fits and needed_bytes(2) <= device.usable_bytes else 1
    refusals = {
        "a GPU takes one at a time": device.kind != "cpu",
        f"this process has {num_cores} cores": asked > num_cores,
        "with --use_dora dropout is drawn in the order of the layers (or give --lora_dropout 0)": ordered_draws,
    }
    if asked > 1 and (reasons := [reason for reason, holds in refusals.items() if holds]):
        raise InputError(f"--parallel_micro_batches {asked}: {reasons[0]}; leave it out or give 1")
    return asked


def _main_memory() -> tuple[int, int]:
    """(total, available) bytes of main memory, or of the container's share where it has one."""
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
