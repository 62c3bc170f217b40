"""The order in which a CUDA graph is recorded, with torch's functions for it replaced: no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medsum_core.errors import InputError
from medsum_core.kernels.gpu import graphs as kernels_graphs
from medsum_core.kernels.gpu.graphs import CudaGraphs


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What happened, in order."""
    found: list[str] = []

    def stream(name: str) -> Any:
        waits = lambda other: found.append(f"{name} waits for {other.name}")  # noqa: E731
        return SimpleNamespace(name=name, wait_stream=waits)

    @contextmanager
    def on_stream(used: Any) -> Iterator[None]:
        found.append(f"to {used.name}")
        yield
        found.append("back")

    @contextmanager
    def recording(graph: Any, *, pool: str, stream: Any, capture_error_mode: str) -> Iterator[None]:
        found.append(f"{graph.name} records in {pool} on {stream.name}, {capture_error_mode}")
        yield
        found.append(f"{graph.name} ends")

    default, graphs, streams = stream("default"), iter(range(9)), iter(range(9))

    def new_graph() -> Any:
        name = f"graph {next(graphs)}"
        return SimpleNamespace(name=name, replay=lambda: found.append(f"replay of {name}"))

    for name, value in (
        ("graph_pool_handle", lambda: "pool"),
        ("current_device", lambda: 0),
        ("Stream", lambda device: stream(f"own {next(streams)}")),
        ("current_stream", lambda: default),
        ("stream", on_stream),
        ("CUDAGraph", new_graph),
        ("graph", recording),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    kernels_graphs._stream.cache_clear()
    yield found
    kernels_graphs._stream.cache_clear()


def test_what_cuda_cannot_record_is_named_and_a_lack_of_memory_is_not_mistaken_for_it(seen: list[str]) -> None:
    for error, expected in (
        (torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"), InputError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), torch.OutOfMemoryError),
    ):
        calls = iter((None, error))

        def function(calls: Any = calls) -> None:
            if (wrong := next(calls)) is not None:
                raise wrong

        with pytest.raises(expected) as found:
            CudaGraphs()(function)
        assert ("give other kernels" in str(found.value)) == (expected is InputError)


def test_a_function_is_called_on_the_stream_on_which_it_is_then_recorded(seen: list[str]) -> None:
    record = CudaGraphs()
    replay = record(lambda: seen.append("the function"))
    assert seen == [
        "own 0 waits for default",
        "to own 0",
        "the function",
        "back",
        "default waits for own 0",
        "graph 0 records in pool on own 0, thread_local",
        "the function",
        "graph 0 ends",
    ]
    other = record(lambda: None)
    seen.clear()
    for again in (replay, other, replay):
        again()
    assert seen == ["replay of graph 0", "replay of graph 1", "replay of graph 0"]


def test_all_recordings_of_a_gpu_have_one_stream(seen: list[str]) -> None:
    for _ in range(2):
        CudaGraphs()(lambda: None)
    assert [event for event in seen if event.startswith("to ")] == ["to own 0", "to own 0"]
