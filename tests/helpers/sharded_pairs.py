"""Started by tests/whole/test_sharded.py: pairs of processes that hold a base sharded by FSDP, or whole.

python sharded_pairs.py INPUTS FOLDER JOBS     (with the repository's root in PYTHONPATH); JOBS as JSON, in order:
    ["gradients"]                                  writes FOLDER/RANK.safetensors
    ["run", "sharded" or "whole", flag, flag, ...] the script
    ["break", run, copy]                           a copy of the run as if it had been killed after its first update

The exit codes of each job are a line of JSON on stdout. The pairs are forked from this process, which imports
everything once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from windows import Recorder, make_run, make_window, tuned

import train_loop
from medsum_core.model.base import load_base
from medsum_core.model.forward import inner_model, recompute_activations
from medsum_core.process import run_as_script
from medsum_core.training.sharding import Sharding, shard_base

ALIVE_SECONDS = 200  # of a process: one that waits for the other for ever ends too
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ROWS = make_window(8)
WINDOWS = {"even": ROWS[:4], "odd": ROWS[:5], "single": ROWS[5:6]}  # "single" leaves the second process without a row


def window_gradients(inputs: Path, *, in_4bit: bool, shard: bool) -> dict[str, Tensor]:
    """Loss and gradients of each window; with a base in NF4 activations are recomputed. `shard`: how much is kept too."""
    model = tuned(load_base(str(inputs / "model"), precision="fp32", load_in_4bit=in_4bit), kernels="reference")
    if in_4bit:
        recompute_activations(model)
    found: dict[str, Tensor] = {}
    if shard:
        mesh = init_device_mesh("cpu", (Accelerator(cpu=True).num_processes,))
        shard_base(model, Sharding(mesh=mesh, reshard_after_forward=True), device=torch.device("cpu"))
    run = make_run(model, kernels="reference")
    assert isinstance(run.optimizer, Recorder)
    for name, window in WINDOWS.items():
        stats = train_loop.train_step(run, window, learning_rate=0.0)
        found[f"{name}.loss"] = torch.tensor([stats.loss, stats.grad_norm])
        found |= {f"{name}.{index}": gradient for index, gradient in enumerate(run.optimizer.gradients)}
    if shard:
        parts = [p for p in inner_model(model).parameters() if isinstance(p, DTensor)]
        assert all(p.is_floating_point() and not p.requires_grad for p in parts)
        found["kept"] = torch.tensor([sum(p.to_local().numel() for p in parts), sum(p.numel() for p in parts)])
    return found


def gradients(inputs: Path, folder: Path) -> int:
    found = {
        f"{in_4bit}.{name}": tensor
        for in_4bit in (False, True)
        for name, tensor in window_gradients(inputs, in_4bit=in_4bit, shard=True).items()
    }
    save_file(found, folder / f"{os.environ['RANK']}.safetensors")
    return 0


def run_script(how: str, flags: list[str]) -> int:
    os.environ.update(FSDP if how == "sharded" else {})
    return run_as_script(lambda: train_loop.main(flags))


def broken(run: str, copy: str) -> list[int]:
    """A copy of a run as if it had been killed after its first update."""
    shutil.copytree(run, copy)
    for later in ("checkpoints/step-000002", "checkpoints/step-000003", "adapter"):
        shutil.rmtree(Path(copy) / later)
    return [0, 0]


def in_pair(job: Callable[[], int]) -> list[int]:
    """The exit codes of two processes that do it together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = []
    for rank in ("0", "1"):
        pid = os.fork()
        if pid == 0:
            signal.alarm(ALIVE_SECONDS)
            launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ.update(launch, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            code = 1
            try:
                code = job()
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def do(job: list[str], inputs: Path, folder: Path) -> list[int]:
    if job[0] == "break":
        return broken(*job[1:])
    if job[0] == "gradients":
        return in_pair(lambda: gradients(inputs, folder))
    return in_pair(lambda: run_script(job[1], job[2:]))


if __name__ == "__main__":
    for given in json.loads(sys.argv[3]):
        print(json.dumps(do(given, Path(sys.argv[1]), Path(sys.argv[2]))), flush=True)
