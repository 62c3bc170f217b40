"""What the processes of a run share: one sum of gradients an update, sums of numbers, and who does what."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from medsum_core.config.arguments import TrainArguments
from medsum_core.data.masking import Example


def local_rows(rows: Sequence[Example], accelerator: Accelerator) -> Sequence[Example]:
    """This process's share of the rows, in their order; shares have about as many tokens, and may have fewer rows.

    An update takes as long as the longest share. The longest row goes first, to the process with the fewest tokens so
    far: the largest share is then at most 4/3 of the least possible (Graham 1969).
    """
    loads = [0] * accelerator.num_processes
    mine = []
    for index in sorted(range(len(rows)), key=lambda index: -rows[index].num_tokens):
        process = loads.index(min(loads))
        loads[process] += rows[index].num_tokens
        if process == accelerator.process_index:
            mine.append(index)
    return [rows[index] for index in sorted(mine)]


def window_rows(train: TrainArguments, accelerator: Accelerator) -> int:
    """Rows of one update, over all processes."""
    return train.per_device_train_batch_size * train.gradient_accumulation_steps * accelerator.num_processes


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
    """Whether any process says yes. One process alone need not ask its device, which would wait for it."""
    if accelerator.num_processes == 1:
        return flag
    return bool(sum_over_processes(torch.tensor(float(flag), device=accelerator.device), accelerator) > 0)


def print_main(text: str, accelerator: Accelerator) -> None:
    """A line for the person, above the progress bar, once over all processes."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stderr)
