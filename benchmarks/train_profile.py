"""Where the time of one of our windows goes, part by part, forward and backward: torch's profiler, read by part.

Each operator's own time counts once, for the innermost part around it. In the backward pass an operator belongs to the
part whose forward operator it differentiates (autograd numbers them). LoRA: operators with the adapter's rank in a
shape, and the work of its fused function outside of torch's operators (random numbers). The profiler slows small
operators down.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from train_sides import WINDOW_ROWS, our_run

MARK = "part:"
MODULES = {"embed_tokens": "embedding", "self_attn": "attention", "mlp": "MLP"}
REST = "norms, residuals, clipping and the rest"


def print_profile(args: argparse.Namespace) -> None:
    """A line a part: seconds, share of the window."""
    import torch

    from medsum_core.data.collator import split_window
    from medsum_core.training.loss import note_nll
    from train_loop import train_step

    with tempfile.TemporaryDirectory() as folder:
        run = our_run(args, folder, "--parallel_micro_batches", "1")  # the profiler watches this thread
        window = run.rows[:WINDOW_ROWS]
        train_step(run, window, learning_rate=1e-4)  # the first one allocates and dequantises
        started = time.perf_counter()
        train_step(run, window, learning_rate=1e-4)
        seconds = time.perf_counter() - started
        _mark_modules(run.model)
        run.optimizer.step = _marked("optimiser", run.optimizer.step)
        parts = {"collate": _marked("data", split_window)}
        if run.accumulate is None:
            parts["objective"] = _marked("head and loss", note_nll)
        else:
            run.accumulate = _mark_objective(run.accumulate)
        with torch.profiler.profile(record_shapes=True) as profile:
            train_step(run, window, learning_rate=1e-4, **parts)
        found = seconds_by_part(profile.events(), rank=run.config.lora.lora_r)
    total = sum(found.values())
    tokens = sum(row.num_tokens for row in window)
    print(f"{len(window)} rows, {tokens} tokens: {seconds:.2f} s, {tokens / seconds:.0f} tokens/s without the profiler")
    for part, value in found.most_common():
        print(f"  {part:<40}{value:7.2f} s {100 * value / total:5.1f} %")
    print(f"  {'all, with the profiler':<40}{total:7.2f} s")


def seconds_by_part(events: Any, *, rank: int) -> Counter[str]:
    """Own seconds of every operator, by part."""
    part_of_node: dict[int, str] = {}  # of several operators with one number, the last belongs to autograd's node
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not _is_backward(event):
            part_of_node[event.sequence_nr] = _enclosing(event) or REST
    found: Counter[str] = Counter()
    for event in events:
        part = _enclosing(event) or part_of_node.get(_backward_number(event), REST)
        if part in MODULES.values() and _is_lora(event, rank):
            part = "LoRA"
        found[part] += event.self_cpu_time_total / 1e6
    return found


def _is_lora(event: Any, rank: int) -> bool:
    if event.name in ("_LoraLinear", "_LoraLinearBackward"):
        return True
    return any(rank in shape for shape in event.input_shapes or [] if isinstance(shape, list))


def _enclosing(event: Any) -> str | None:
    """The innermost part around an event of the forward pass."""
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return None


def _backward_number(event: Any) -> int:
    """The number of the forward operator that an event of the backward pass differentiates; -1 for none."""
    while event is not None:
        if _is_backward(event):
            return int(event.sequence_nr)
        event = event.cpu_parent
    return -1


def _is_backward(event: Any) -> bool:
    # Nodes of torch's operators end in a number (MmBackward0), those of our own functions do not (_LoraLinearBackward).
    node = event.name.rstrip("0123456789")
    return event.name.startswith("autograd::engine::evaluate_function") or node.endswith("Backward")


def _marked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    from torch.profiler import record_function

    def inner(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + part):
            return function(*args, **kwargs)

    return inner


def _mark_objective(accumulate: Callable[..., Any]) -> Callable[..., Any]:
    """The fast kernels choose their own loss, so it is wrapped here, not passed to `train_step`."""

    def inner(*args: Any, objective: Callable[..., Any], **kwargs: Any) -> Any:
        return accumulate(*args, objective=_marked("head and loss", objective), **kwargs)

    return inner


def _mark_modules(model: Any) -> None:
    for name, module in model.named_modules():
        if part := MODULES.get(name.rsplit(".", 1)[-1]):
            module.forward = _marked(part, module.forward)
