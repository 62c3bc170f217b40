"""The sections of `gpu_day.py` and what they measure. Each runs in a new process, so that none affects another.

Training is `train_step` of the unchanged loop on the run that `train_loop.py` builds, with its arithmetic. Rows are
random tokens, the weights those of `random_models.py`: time and memory are as for real ones.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_day_counts import COUNTED, MARK, TestCounts, count_events
from process_memory import GIB, status_bytes
from train_sides import TRL_SETTINGS, WINDOW_ROWS, flop, our_plan, peak_memory, run_trl, wait_for_device

ROOT = Path(__file__).resolve().parent.parent
TRAINING = {
    f"train_{kernels}{'_dequantized' if dequantize == 'on' else ''}": (kernels, dequantize)
    for kernels, dequantize in (
        ("fast", "off"),
        ("fast", "on"),
        ("triton", "on"),  # refused on a CPU, so its error is recorded there, as that of graphs
        ("graphs", "on"),
        ("reference", "off"),
        ("reference", "on"),
    )
}
TESTS_SECONDS = 200
FIRST_TOKEN = 6  # lower ids are control tokens


@dataclass(frozen=True, kw_only=True)
class Day:
    """The settings of a section. `folder`: of the model."""

    folder: Path
    tests: Sequence[str]
    tiny: bool = False
    quick: bool = False

    @property
    def model_name(self) -> str:
        """Of `random_models.py`."""
        return "gemma-2b-tiny" if self.tiny else "gemma-2b-shape"

    @property
    def window_tokens(self) -> tuple[int, ...]:
        """Tokens of 16 rows, which make one micro-batch."""
        return (256,) if self.tiny else (1024, 4096) if self.quick else (1024, 4096, 8192)

    @property
    def num_windows(self) -> tuple[int, int]:
        """Windows to warm up with, and timed ones."""
        return (1, 2) if self.tiny else (3, 10) if self.quick else (3, 20)

    @property
    def note_counts(self) -> tuple[int, ...]:
        """Notes being written at a time."""
        return (2,) if self.tiny else (16,) if self.quick else (16, 64)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the day: `measure` gives its figures; `seconds` is how long it may take at most."""

    measure: Callable[[Day], dict[str, Any]]
    seconds: int


def sections(*, with_trl: bool = False, quick: bool = False) -> dict[str, Section]:
    """The sections in order: the two that the others need, then the most important. With `quick` the tests are last."""
    tested = {"tests": Section(measure=tests, seconds=TESTS_SECONDS)}
    found = {"machine": Section(measure=machine, seconds=60), "model": Section(measure=model, seconds=150)}
    found |= {} if quick else tested
    for name, (kernels, dequantize) in TRAINING.items():
        found[name] = Section(measure=partial(training, kernels=kernels, dequantize=dequantize), seconds=75)
    found["decode"] = Section(measure=decoding, seconds=90)
    if with_trl:
        for setting in ("padding_free16", "padding_free4", "batch4", "recipe"):
            assert setting in TRL_SETTINGS
            found[f"trl_{setting}"] = Section(measure=partial(trl, setting=setting), seconds=75)
    return found | tested


def machine(day: Day) -> dict[str, Any]:
    """The card, the versions, the bytes/s of a copy (each byte read and written) and the FLOP/s of a product."""
    import torch
    from train import measure_peak

    from medsum_core.checkpoint.fingerprints import PACKAGES
    from medsum_core.device import find_device

    device, precision = find_device(), _precision()
    found: dict[str, Any] = {
        "card": device.name if device.kind == "cuda" else "cpu",
        "capability": device.capability,
        "memory_gib": round(device.total_bytes / GIB, 1),
        "driver": _driver() if device.kind == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "precision": precision,
        "product_flop_per_second": measure_peak(precision),
    }
    source = torch.zeros((1 << 20) if day.tiny else (1 << 30), dtype=torch.uint8, device=device.torch_device)
    target = torch.empty_like(source)
    seconds = [_timed(lambda: target.copy_(source)) for _ in range(5)]
    return found | {"copy_bytes_per_second": 2 * len(source) / min(seconds)}


def model(day: Day) -> dict[str, Any]:
    """Writes the random model's folder, its weights drawn on the GPU, with a small tokenizer that needs no download."""
    from random_models import build
    from support import tiny_tokenizer

    from medsum_core.device import find_device

    folder = build(day.model_name, day.folder, tokenizer=tiny_tokenizer(), device=find_device().kind)
    return {"name": day.model_name, "file_bytes": sum(path.stat().st_size for path in folder.iterdir())}


def tests(day: Day) -> dict[str, Any]:
    """How many of the GPU's tests passed, failed, were skipped or not reached in time, and the names of the failed."""
    import pytest

    counts = TestCounts(until=time.monotonic() + 0.9 * TESTS_SECONDS)
    pytest.main(["-q", "-o", "addopts=", "-p", "no:cacheprovider", *day.tests], plugins=[counts])
    done = len(counts.passed) + len(counts.failed) + len(counts.skipped)
    return {
        "passed": len(counts.passed),
        "failed": len(counts.failed),
        "skipped": len(counts.skipped),
        "not_run": counts.collected - done,
        "failures": sorted(counts.failed),
        "uncollected": sorted(counts.uncollected),
    }


def training(day: Day, *, kernels: str, dequantize: str) -> dict[str, Any]:
    """Steady windows of each length, one micro-batch each, then one window of the middle length by the profiler."""
    from train import measure_peak

    from medsum_core.process import set_arithmetic
    from medsum_core.training.setup import build_run

    longest = max(day.window_tokens)
    flags = f"""--kernels {kernels} --dequantize {dequantize} --pack_tokens {longest} --gradient_checkpointing off
        --parallel_micro_batches 1 --offline true --max_length {max(1024, longest // WINDOW_ROWS)}"""
    args = _arguments(day, flags)
    with tempfile.TemporaryDirectory() as folder:
        plan = our_plan(args, folder)
        set_arithmetic(plan.device, precision=plan.config.model.precision)
        peak = measure_peak(args.precision)
        run, _ = build_run(plan)
        windows = [
            attempt(partial(steady_windows, day, plan, run, num_tokens=tokens, peak=peak))
            for tokens in day.window_tokens
        ]
        tokens = day.window_tokens[len(day.window_tokens) // 2]
        profiled = attempt(lambda: profiled_window(run, window_of(day, tokens)))
    return {"kernels": kernels, "dequantize": dequantize, "windows": windows, "profile": profiled}


def steady_windows(day: Day, plan: Any, run: Any, *, num_tokens: int, peak: float) -> dict[str, Any]:
    """The median of the timed windows, its share of `peak` FLOP/s, and the peak memory beside the estimate.

    The estimate's part for the process (on a GPU the context of CUDA) is left out: the allocator does not count it.
    """
    import torch

    from medsum_core.training.auto_settings import run_shape
    from medsum_core.training.memory import estimate_memory
    from train_loop import train_step

    warm_up, timed = day.num_windows
    window = window_of(day, num_tokens)
    with peak_memory() as memory:
        seconds = [_timed(lambda: train_step(run, window, learning_rate=1e-4)) for _ in range(warm_up + timed)]
        on_gpu = torch.cuda.is_available()
        peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else status_bytes(os.getpid(), "VmHWM")
        reserved = torch.cuda.max_memory_reserved() if on_gpu else None
    estimate = estimate_memory(plan.size, replace(run_shape(plan.config, plan.device), num_tokens=num_tokens))
    median = statistics.median(seconds[warm_up:])
    return {
        "tokens": num_tokens,
        "seconds": seconds,
        "median_seconds": median,
        "tokens_per_second": num_tokens / median,
        "share_of_peak": flop(run.model, window) / median / peak,
        "peak_bytes": peak_bytes,
        "reserved_bytes": reserved,
        "above_model_bytes": memory.above_start,
        "estimate_bytes": estimate.total - (estimate.process if on_gpu else 0),
    }


def profiled_window(run: Any, window: Sequence[Any]) -> dict[str, Any]:
    """Launches and waits of one window as torch's profiler sees them; None where there is no GPU to launch on."""
    import torch

    from train_loop import train_step

    with torch.profiler.profile() as profile:
        with torch.profiler.record_function(MARK):
            train_step(run, window, learning_rate=1e-4)
        wait_for_device()
    counted = count_events(profile.events()) if torch.cuda.is_available() else dict.fromkeys(COUNTED)
    return {"tokens": sum(row.num_tokens for row in window), **counted}


def decoding(day: Day) -> dict[str, Any]:
    """Greedy notes of forced lengths: ours with all notes at a time, `generate` in batches of 16 and of all."""
    from medsum_core.data.prompt import build_renderer
    from medsum_core.device import find_device
    from medsum_core.kernels import choose
    from medsum_core.model.base import load_base, load_tokenizer

    device, folder = find_device(), str(day.folder / day.model_name)
    loading: dict[str, Any] = {"precision": _precision(), "offline": True, "device": device.torch_device}
    base = load_base(folder, load_in_4bit=True, **loading)
    renderer = build_renderer(load_tokenizer(folder, offline=True))
    found: dict[str, Any] = {}
    for count in day.note_counts:
        tasks = notes_of(day, count)
        sizes = sorted({count, min(count, 16)})
        runs = {f"generate_{size}": partial(_rival, base, tasks, renderer, size) for size in sizes}
        for kernels in ("fast", *(("graphs",) if device.kind == "cuda" else ()), "reference"):
            runs[kernels] = partial(_ours, base, tasks, renderer, kernels, lambda name: choose(name, device.kind))
        useful = sum(task.length for task in tasks)
        found[str(count)] = {name: attempt(partial(_speed, day, run, useful)) for name, run in runs.items()}
    return found


def _ours(base: Any, tasks: Any, renderer: Any, kernels: str, choose: Callable[[str], Any]) -> None:
    from decode import run_ours

    run_ours(base, tasks, renderer, choose(kernels).decoder, 1, len(tasks))


def _rival(base: Any, tasks: Any, renderer: Any, batch_size: int) -> None:
    from decode import run_rival

    run_rival(base, tasks, renderer, 1, batch_size, by_length=True)


def _speed(day: Day, run: Callable[[], None], useful: int) -> dict[str, Any]:
    run()  # the first one compiles and allocates
    seconds = [_timed(run) for _ in range(1 if day.tiny or day.quick else 3)]
    return {"seconds": seconds, "tokens_per_second": useful / statistics.median(seconds)}


def trl(day: Day, *, setting: str) -> dict[str, Any]:
    """TRL's steady windows of the middle length on the same rows; the first two warm up."""
    tokens = day.window_tokens[len(day.window_tokens) // 2]
    rows = [row for _ in range(2 if day.tiny else 6) for row in window_of(day, tokens)]
    longest = f"--max_length {max(1024, tokens)} --offline true"
    found = run_trl(_arguments(day, longest), setting, rows)
    seconds = found["window_seconds"]
    median = statistics.median(seconds[2:] or seconds)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "median_seconds": median,
        "tokens_per_second": tokens / median,
        "above_model_bytes": found["peak_bytes"],
    }


def window_of(day: Day, num_tokens: int) -> list[Any]:
    """16 rows of random tokens, so many in all; the last fifth of each is its note."""
    from random_models import gemma_config
    from windows import make_example

    length, vocabulary = num_tokens // WINDOW_ROWS, gemma_config(tiny=day.tiny).vocab_size
    note = max(1, length // 5)
    return [make_example(length - note, note, seed=row, vocab=vocabulary) for row in range(WINDOW_ROWS)]


def notes_of(day: Day, count: int) -> list[Any]:
    """Prompts of random tokens, and how long each note is to be: uneven, as notes are."""
    import random

    from decode import Task
    from random_models import gemma_config

    chance, vocabulary = random.Random(0), gemma_config(tiny=day.tiny).vocab_size
    prompt, longest = (12, 4) if day.tiny else (240, 64)
    return [
        Task(
            prompt=tuple(chance.randrange(FIRST_TOKEN, vocabulary) for _ in range(prompt)),
            length=longest // 2 + place * (longest // 2) // max(1, count - 1),
        )
        for place in range(count)
    ]


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures, or the type of the error, so that a setting that runs out of memory does not stop the others."""
    try:
        return measure()
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"error": type(error).__name__}


def _arguments(day: Day, flags: str) -> Namespace:
    return Namespace(
        model_name_or_path=day.model_name,
        folder=str(day.folder),
        train_file="bundled:demo_train.csv",
        precision=_precision(),
        lora_dropout=0.05,
        ours=flags.split(),
    )


def _precision() -> str:
    from medsum_core.device import choose_precision, find_device

    return choose_precision("auto", find_device(), model_type="gemma")


def _timed(run: Callable[[], Any]) -> float:
    wait_for_device()
    started = time.perf_counter()
    run()
    wait_for_device()
    return time.perf_counter() - started


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
