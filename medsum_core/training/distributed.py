"""Division of the rows over the processes, sums of gradients and numbers, and printing by one process only."""

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
    """This process's share of the rows, in their order. Shares have about equal tokens, not equal numbers of rows.

    An update takes as long as its largest share. Rows are assigned longest first, each to the process with the fewest
    tokens so far: the largest share is then at most 4/3 of the optimum (Graham 1969).
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

    DistributedDataParallel is not used: the head is called outside of the model's `forward`, where it would reduce
    nothing. With several processes a missing gradient (None) becomes zeros.
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
    """Whether `flag` is true on any process. With one process nothing is sent, so no GPU is waited for."""
    if accelerator.num_processes == 1:
        return flag
    return bool(sum_over_processes(torch.tensor(float(flag), device=accelerator.device), accelerator) > 0)


def print_main(text: str, accelerator: Accelerator) -> None:
    """Print a line on stderr, above the progress bar, on the main process only."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stderr)
