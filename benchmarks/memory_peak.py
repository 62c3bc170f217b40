"""The memory estimate against the measured peak of a process that trains: `python benchmarks/memory_peak.py [MODEL]`.

Each length runs in a process of its own (its peak is the high-water mark that the kernel records), two updates of three
packed micro-batches of random tokens each (and for each concurrent one), up to that length. MODEL: a hub id, a folder,
or embedded:gemma3-270m (the default). Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from process_memory import GIB, OUR_ENVIRONMENT, status_bytes

LENGTHS = (256, 512, 1024)
# Shares of the length, the largest first, slightly different as of packed micro-batches, so that the heap fragments.
UPDATES = ((0.995, 0.99, 0.93), (1.0, 0.97, 0.9))


def main() -> None:
    """Print a line a length: estimate, measured peak, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="embedded:gemma3-270m")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--dequantize", action="store_true")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--kernels", default="fast", choices=["reference", "fast"])
    parser.add_argument("--concurrent", type=int, default=1, help="concurrent micro-batches (fast kernels)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--one_length", type=int, help="for the processes that this script starts")
    options = parser.parse_args()
    if options.one_length:
        print(json.dumps(measure(options)))
        return
    for length in options.lengths:
        command = [sys.executable, __file__, *sys.argv[1:], "--one_length", str(length)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | OUR_ENVIRONMENT)
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["estimate"] / found["peak"]
        print(f"{length:>5} tokens: {json.dumps(found)}  estimate / peak {ratio:.3f}", flush=True)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train for two updates; GiB at the peak of loading and of training, and the estimate."""
    import torch

    from medsum_core.device import cpu_has_bf16_units
    from medsum_core.kernels import choose
    from medsum_core.model.base import load_base, load_config
    from medsum_core.model.lora import LoraSettings, attach_lora, trainable_parameters
    from medsum_core.training.loss import note_nll, with_options
    from medsum_core.training.memory import RunShape, estimate_memory, measure_model
    from medsum_core.training.optimizer import build_optimizer
    from train_loop import accumulate_gradients

    lora = LoraSettings()
    config = load_config(options.model)
    run = RunShape(
        precision=options.precision,
        load_in_4bit=True,
        num_tokens=options.one_length,
        dequantize=options.dequantize,
        gradient_checkpointing=options.gradient_checkpointing,
        concurrent=options.concurrent,
        saved_attention_tokens=choose(options.kernels).saved_attention_tokens,
        emulated=options.kernels == "fast" and options.precision != "fp32" and not cpu_has_bf16_units(),
    )
    size = measure_model(config, lora, precision=options.precision, kernels=options.kernels)
    estimate = estimate_memory(size, run)
    libraries = peak_gib()
    base = load_base(options.model, precision=options.precision, load_in_4bit=True)
    loading = peak_gib()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    resident = peak_gib()
    model, kernels = attach_lora(base, lora, base_name=options.model), choose(options.kernels)
    kernels.apply(model, keep_dense=options.dequantize)
    if options.gradient_checkpointing:
        kernels.recompute(model, longer_than=0)
    optimizer = build_optimizer(trainable_parameters(model), name="paged_adamw_8bit", learning_rate=1e-4)
    tensors = [parameter for _, parameter in trainable_parameters(model)]
    about: dict[str, Any] = {"device": model.device, "scaler": torch.amp.GradScaler("cpu", enabled=False)}
    about["attention"] = "per_document"
    if kernels.accumulator is None:
        accumulate = partial(accumulate_gradients, SimpleNamespace(model=model, **about), num_targets=1)
    else:  # pack_tokens 0: no row counts as longer than that
        fast = kernels.accumulator(model, tensors, **about, pack_tokens=0, num_concurrent=options.concurrent)
        objective = with_options(note_nll, arithmetic=kernels.head)
        accumulate = partial(fast, num_targets=1, objective=objective, reads_targets_only=True)
    for shares in UPDATES:
        accumulate([packed_row(int(share * options.one_length)) for share in shares for _ in range(options.concurrent)])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {
        "libraries": libraries,
        "loading": loading,
        "resident": resident,
        "peak": peak_gib(),
        "estimate": estimate.total / GIB,
        **{name: round(size / GIB, 3) for name, size in vars(estimate).items()},
    }


def packed_row(num_tokens: int) -> Any:
    """A packed row of three documents, a fifth of each the note."""
    import torch

    from medsum_core.data.collator import pack_rows
    from medsum_core.data.masking import Example

    length = num_tokens // 3
    tokens = tuple(torch.randint(1000, 100_000, (length,)).tolist())
    targets = tuple(-100 if place < length * 4 // 5 else tokens[place] for place in range(length))
    rows = [
        Example(id=str(row), input_ids=tokens, targets=targets, num_prompt_tokens=length, num_turns_dropped=0)
        for row in range(3)
    ]
    return pack_rows(rows)


def peak_gib() -> float:
    """The high-water mark of this process's resident memory."""
    return status_bytes(os.getpid(), "VmHWM") / GIB


if __name__ == "__main__":
    main()
