"""Settings of the whole process, made by scripts at their start: importing or calling a library changes none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the start of a script must stay quick: torch is imported where it is used
    from medsum_core.device import Device


def keep_files_private() -> None:
    """What this process writes is readable by its owner only: it stems from patients."""
    os.umask(0o077)


def send_nothing_unasked() -> None:
    """Turn off the telemetry and the update check of the hub's client; it reads this when it is first imported."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[name] = "1"


def set_arithmetic(device: Device, *, precision: str) -> None:
    """TF32 as `uses_tf32` says, and on a GPU the same order of sums each time; on a CPU nothing changes.

    With sums in one order a resumed run ends in the bits of the uninterrupted one: attention's backward pass adds to a
    query's gradient in the order in which its blocks end, unless told. cuBLAS repeats itself with workspaces of a fixed
    size (its manual, "Results reproducibility"), which the environment may name already. Memory is not filled for it:
    nothing here reads what was not written.
    """
    if device.kind != "cuda":
        return
    import torch

    torch.set_float32_matmul_precision("high" if uses_tf32(device, precision=precision) else "highest")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def uses_tf32(device: Device, *, precision: str) -> bool:
    """TF32 for the few fp32 products of a 16-bit run on a GPU from 8.0; a run in fp32 was asked to be exact."""
    return device.is_ampere and precision != "fp32"
