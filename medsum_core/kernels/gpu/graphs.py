"""CUDA graphs: the launches of a function are recorded once and then repeated by a single call.

Python and autograd need longer for a launch than a large GPU for a small kernel, and a decoding step has hundreds of
launches, a window more than a thousand. A graph repeats the recorded kernels on the same memory with the same numbers.
A function to be recorded therefore has fixed shapes, reads its inputs from tensors that stay where they are, waits for
nothing, and decides nothing by a value on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from medsum_core.errors import InputError, is_out_of_memory, reason

Replay = Callable[[], None]
# Calls a function at least once, and returns what repeats it. The tests record a CPU's operations instead.
Record = Callable[[Callable[[], Any]], Replay]


class CudaGraphs:
    """Records CUDA graphs that share one memory pool, so that together they need as much memory as the largest.

    Without expandable segments (`process.py`) they need more, unless the largest comes first. Nothing but these graphs
    can use that memory, also between replays; it is given back when all of them are gone.
    Record and replay one at a time, in any order. A replay overwrites the temporaries of all others, and the tensors
    that another function returned from memory of its own: read these before the next replay.
    """

    def __init__(self) -> None:
        self._pool, self._stream = torch.cuda.graph_pool_handle(), _stream(torch.cuda.current_device())

    def __call__(self, function: Callable[[], Any]) -> Replay:
        """Call `function` once, then record it, which does not run it. What it reads must outlive the returned replay.

        The call compiles Triton's kernels and sets libraries up, which is impossible while recording. It runs on the
        stream of the recording: autograd's node of a parameter keeps the stream of its first use, and would bring work
        of the default stream into the graph (pytorch/pytorch#180090). Raises InputError where CUDA can't record it.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            function()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a server's other threads may use CUDA meanwhile.
        settings: dict[str, Any] = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, **settings):
                function()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"--kernels graphs: CUDA can't record this model's steps ({reason(error)}); give other kernels"
            ) from error
        return graph.replay


@lru_cache
def _stream(device: int) -> torch.cuda.Stream:
    """The stream of all recordings: torch keeps a workspace of cuBLAS, up to 32 MiB, for each stream ever used."""
    return torch.cuda.Stream(device)
