"""What the processes of a run share: one sum of gradients an update, sums of numbers, and who does what."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from medsum_core.errors import InputError, MedsumError

Row = TypeVar("Row")
Value = TypeVar("Value")


def local_rows(rows: Sequence[Row], accelerator: Accelerator) -> Sequence[Row]:
    """This process's share of the rows; the shares may differ in size."""
    return rows[accelerator.process_index :: accelerator.num_processes]


def sum_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Sum each parameter's `.grad` over the processes: one flat buffer, already divided by the global target count.

    The model is not wrapped in DistributedDataParallel for this: the head is called outside of its `forward`, where it
    would reduce nothing. Several processes are left without a missing gradient: zeros stand for None.
    """
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in parameters])
    flat = accelerator.reduce(flat, "sum")
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter).clone()


def sum_over_processes(value: Tensor, accelerator: Accelerator) -> Tensor:
    """A number summed over the processes."""
    return value if accelerator.num_processes == 1 else accelerator.reduce(value, "sum")


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Whether any process says yes."""
    return bool(sum_over_processes(torch.tensor(float(flag), device=accelerator.device), accelerator) > 0)


def gather_json(value: Any, accelerator: Accelerator) -> list[Any]:
    """The value of every process, in their order. It travels as JSON: nothing that runs code when it is read."""
    if accelerator.num_processes == 1:
        return [value]
    data = json.dumps(value).encode()
    sizes = accelerator.gather(torch.tensor([len(data)], device=accelerator.device)).tolist()
    padded = torch.frombuffer(bytearray(data.ljust(max(sizes))), dtype=torch.uint8).to(accelerator.device)
    rows = accelerator.gather(padded).cpu().view(accelerator.num_processes, -1)
    return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]


def together(function: Callable[[], Value], accelerator: Accelerator) -> Value:
    """What `function` returns here, once it has returned on every process. It must not communicate itself.

    An InputError on one process becomes one on all of them: none is left waiting for the others.
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
    """The first process whose values are not the first one's, and the names of those; None where all agree."""
    digests = {name: _digest(value) for name, value in values.items()}
    first, *others = gather_json(digests, accelerator)
    for index, other in enumerate(others, start=1):
        if names := sorted(name for name in {*first, *other} if first.get(name) != other.get(name)):
            return f"process {index} differs from process 0 in {', '.join(names)}"
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def print_main(text: str, accelerator: Accelerator) -> None:
    """A line for the person, above the progress bar, once over all processes."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stderr)


@contextmanager
def leave_together(accelerator: Accelerator) -> Iterator[None]:
    """A block that all processes leave by the same error closes their connections before the interpreter ends.

    Otherwise one that ends a moment later would be aborted by the other's closed connection (SIGABRT), and its exit
    code lost.
    """
    try:
        yield
    except MedsumError:
        accelerator.end_training()
        raise
