"""Settings of the whole process, made by scripts at their start: importing or calling a library changes none."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from medsum_core.errors import InputError
from medsum_core.files import cache_folder

if TYPE_CHECKING:  # the start of a script must stay quick: torch is imported where it is used
    from medsum_core.device import Device


def start_script() -> None:
    """What every script wants before it imports the libraries, which takes seconds: no traceback for Ctrl-C either."""
    send_nothing_unasked()
    keep_compiled_code_private()
    sleep_while_waiting()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background of a shell's script
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def keep_files_private() -> None:
    """What this process writes is readable by its owner only: it stems from patients."""
    os.umask(0o077)


def keep_compiled_code_private() -> None:
    """Have numba cache compiled code in the user's own cache folder, unless the environment names another.

    Beside the source a clone that a group shares would hold one user's code for all, or could not be written to. numba
    reads this when it is imported.
    """
    with suppress(InputError):  # a user without a home: numba looks for a place by itself
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))


def send_nothing_unasked() -> None:
    """Turn off the telemetry and the update check of the hub's client; it reads this when it is first imported."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[name] = "1"


def sleep_while_waiting() -> None:
    """Have OpenMP's idle threads sleep instead of spin, unless the environment says otherwise.

    Spinning threads take the processor from those that compute as soon as anything else runs on the machine: figures in
    benchmarks/LOG.md, 2026-11-28. OpenMP reads this when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
