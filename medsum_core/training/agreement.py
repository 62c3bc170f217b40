"""How the processes of a run agree: they get the same values, raise the same errors and end together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from medsum_core.errors import InputError, MedsumError, differing_names

Value = TypeVar("Value")


def gather_json(value: Any, accelerator: Accelerator) -> list[Any]:
    """The value of every process, in their order. Sent as JSON, not pickle, which can run code when it is read."""
    if accelerator.num_processes == 1:
        return [value]
    data = json.dumps(value).encode()
    sizes = accelerator.gather(torch.tensor([len(data)], device=accelerator.device)).tolist()
    padded = torch.frombuffer(bytearray(data.ljust(max(sizes))), dtype=torch.uint8).to(accelerator.device)
    rows = accelerator.gather(padded).cpu().view(accelerator.num_processes, -1)
    return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]


def on_every_process(function: Callable[[], Value], accelerator: Accelerator) -> Value:
    """Call `function` on every process and return its value here. It must not communicate itself.

    An InputError on one process is raised on all of them, so that none waits for the others for ever.
    """
    problem: str | None = None
    try:
        value = function()
    except InputError as error:
        problem = str(error)
        gather_json(problem, accelerator)
        raise
    problems = gather_json(problem, accelerator)
    found = [f"process {index}: {text}" for index, text in enumerate(problems) if text is not None]
    if found:
        raise InputError("; ".join(found))
    return value


def differing_process(values: Mapping[str, Any], accelerator: Accelerator) -> str | None:
    """A clause naming the first process whose values differ from those of process 0, and which; None if all agree."""
    digests = {name: _digest(value) for name, value in values.items()}
    first, *others = gather_json(digests, accelerator)
    for index, other in enumerate(others, start=1):
        if names := differing_names(first, other):
            return f"process {index} differs from process 0 in {', '.join(names)}"
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def close_connections_on_error() -> Iterator[None]:
    """Close this process's connections at once when the block or function raises a MedsumError.

    Closed at interpreter exit instead, the process that ends last would be aborted (SIGABRT) by the connection that
    the other has closed, and its exit code lost.
    """
    try:
        yield
    except MedsumError:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        raise
