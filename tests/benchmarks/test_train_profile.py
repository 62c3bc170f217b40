"""The training profile counts every operator once: in the backward pass, for the part of its forward operator."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RANK = 16


def event(name: str, at: int, microseconds: int, *, parent: Any = None, number: int = -1, shapes: Any = None) -> Any:
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=at),
        self_cpu_time_total=microseconds,
        cpu_parent=parent,
        sequence_nr=number,
        input_shapes=shapes,
    )


def test_every_operator_counts_once_for_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    profile = importlib.import_module("train_profile")
    mlp = event("part:MLP", 0, 1)
    product = event("aten::mm", 1, 10, parent=mlp, number=7, shapes=[[4, 64], [64, 128]])
    adapter = event("aten::mm", 2, 100, parent=mlp, number=8, shapes=[[4, 64], [64, RANK]])
    residual = event("aten::add", 3, 1_000, number=9)
    back = event("autograd::engine::evaluate_function: MmBackward0", 10, 10_000, number=7)
    inside = event("aten::mm", 11, 100_000, parent=back)
    adapter_back = event("autograd::engine::evaluate_function: MmBackward0", 12, 1_000_000, number=8)
    adapter_inside = event("aten::mm", 13, 10_000_000, parent=adapter_back, shapes=[[RANK, 4], [4, 64]])
    fused = event("_GatedDown", 4, 2, parent=mlp, number=6)
    fused_back = event("autograd::engine::evaluate_function: _GatedDownBackward", 15, 20, number=6)
    fused_node = event(
        "_GatedDownBackward", 16, 200, parent=fused_back, number=6
    )  # has its forward operator's number as well
    fused_inside = event("aten::mm", 17, 2_000, parent=fused_node)
    other = event("autograd::engine::evaluate_function: AddBackward0", 14, 100_000_000, number=9)
    events = [
        fused,
        fused_back,
        fused_node,
        fused_inside,
        other,
        adapter_inside,
        adapter_back,
        inside,
        back,
        residual,
        adapter,
        product,
        mlp,
    ]
    found = profile.seconds_by_part(events, rank=RANK)
    assert found["MLP"] == pytest.approx(1.112233)  # the adapter's autograd node itself only calls others
    assert found["LoRA"] == pytest.approx(10.0001)
    assert found[profile.REST] == pytest.approx(100.001)
    assert sum(found.values()) == pytest.approx(sum(one.self_cpu_time_total for one in events) / 1e6)
