"""Started by tests/training/test_gradient.py: windows through `train_step` on two processes.

python two_processes.py FOLDER PORT     (with the repository's root in PYTHONPATH) writes FOLDER/RANK.safetensors
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from support import tiny_model
from torch import Tensor
from windows import Recorder, make_run, make_window, tuned

from train_loop import train_step


def windows_and_updates() -> tuple[dict[str, Tensor], int, int]:
    """Loss and gradients of several windows, and the adapter after three updates; then this rank and the world's size.

    Window "odd" gives the processes different numbers of rows, "single" leaves all but the first without one.
    """
    rows = make_window(8)
    windows = {"even": rows[:4], "odd": rows[:5], "single": rows[5:6]}
    model = tuned(tiny_model())
    found: dict[str, Tensor] = {}
    run = make_run(model)
    assert isinstance(run.optimizer, Recorder)
    for name, window in windows.items():
        stats = train_step(run, window, learning_rate=0.0)
        found[f"{name}.loss"] = torch.tensor([stats.loss, stats.grad_norm, stats.num_tokens])
        for index, gradient in enumerate(run.optimizer.gradients):
            found[f"{name}.{index}"] = gradient
    run = make_run(model, optim="paged_adamw_8bit", max_grad_norm=1.0)
    for window in windows.values():
        train_step(run, window, learning_rate=1e-3)
    for name, parameter in run.parameters:
        found[f"after.{name}"] = parameter.detach().clone()
    return found, run.accelerator.process_index, run.accelerator.num_processes


def one_of_two(rank: int, folder: Path, port: str) -> None:
    """Write what this process finds."""
    launch = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= launch | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    tensors, found_rank, world = windows_and_updates()
    assert (found_rank, world) == (rank, 2)
    save_file(tensors, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    second = os.fork()  # before any thread is started: the libraries are imported once for both
    one_of_two(0 if second else 1, Path(sys.argv[1]), sys.argv[2])
    if second:
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
