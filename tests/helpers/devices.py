"""Devices that are not at hand."""

from __future__ import annotations

from medsum_core.device import GIB, Device


def gpu(capability: tuple[int, int] = (8, 0), *, free_gib: float = 16) -> Device:
    """A card that holds nothing yet."""
    size, units = int(free_gib * GIB), capability >= (8, 0)
    return Device(
        kind="cuda", name="GPU", capability=capability, has_bf16_units=units, total_bytes=size, free_bytes=size
    )


def cpu(*, bf16: bool = False, free_gib: float = 16) -> Device:
    """A CPU with or without units for bf16."""
    size = int(free_gib * GIB)
    return Device(kind="cpu", name="CPU", has_bf16_units=bf16, total_bytes=size, free_bytes=size)
