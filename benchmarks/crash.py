"""Kill a training run with SIGKILL many times, resume it each time, and compare its bytes with an uninterrupted run.

    python benchmarks/crash.py --kills 50 --kernels fast

Half the kills come from outside after a random time; the others happen at a random system call that writes (before it,
after it, or with half of the bytes written), so that every stage of a save is hit. Some attempts get a SIGTERM instead,
which must end with exit code 75 and is not counted. A run is killed and resumed until it finishes; then its adapter,
optimiser, random states, progress and metrics must equal the uninterrupted run's to the byte, and the next run starts
in a new folder. The run: a tiny random Gemma in NF4 and bf16, LoRA dropout 0.05, paged 8-bit AdamW, two epochs with a
short last window, evaluation and generation in between.

Each attempt is a process of its own, forked from one that has only imported the libraries; with `--fresh N` the first N
kills of either kind hit a newly started interpreter instead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.forked_runs import fork, make_inputs, preload, wait

WINDOW_ROWS, NUM_EPOCHS = 4, 2  # windows of 4, 4 and 2 rows
FAULTY_CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir")
FRESH_SECONDS = 8.0  # in which a new interpreter imports the libraries
# Stopped and resumable; before the handler was installed; after the run had finished.
SIGTERM_CODES = (75, -signal.SIGTERM, 0)
STAGES = ("before", "half", "after")
COMPARED = ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When to kill: `seconds` after the start by a signal from outside, or at the `call`-th writing system call."""

    seconds: float | None = None
    number: signal.Signals = signal.SIGKILL  # of the signal from outside
    call: int | None = None
    stage: str = "before"
    fresh: bool = False  # in a newly started interpreter


def arguments(inputs: Path, output_dir: Path, *, kernels: str = "fast") -> list[str]:
    """The command line of every attempt, the first one included. `kernels`: `reference` or `fast`."""
    flags = f"""--model_name_or_path {inputs / "model"} --train_file {inputs / "train.csv"}
        --validation_file {inputs / "valid.csv"} --output_dir {output_dir} --offline true
        --kernels {kernels} --load_in_4bit true --precision bf16 --lora_dropout 0.05 --optim paged_adamw_8bit
        --learning_rate 1e-3 --warmup_steps 1 --gradient_accumulation_steps {WINDOW_ROWS}
        --num_train_epochs {NUM_EPOCHS} --max_length 176 --max_new_tokens 16 --save_strategy steps --save_steps 1
        --eval_strategy steps --eval_steps 2 --eval_generate 1 --report_rows 0 --resume_from_checkpoint auto"""
    return flags.split()


def attempt(argv: list[str], log: Path, *, kill: Kill | None = None, counted: Path | None = None) -> int:
    """One process of the run, killed by `kill` if given. Returns its exit code, negative for a signal."""
    if kill is not None and kill.fresh:
        order = json.dumps({"argv": argv, "call": kill.call, "stage": kill.stage})
        with open(log, "ab") as file:
            command = [sys.executable, str(Path(__file__).resolve()), "--attempt", order]
            pid = subprocess.Popen(command, stdout=file, stderr=file).pid
    else:
        pid = fork(lambda: run_attempt(argv, kill, counted), log)
    return wait(pid) if kill is None else wait(pid, seconds=kill.seconds, number=kill.number)


def run_attempt(argv: list[str], kill: Kill | None, counted: Path | None = None) -> int:
    """Run the training script's `main` with patched system calls. Returns the exit code."""
    import torch

    import train_loop
    from medsum_core.process import run_as_script

    torch.set_num_threads(1)
    calls = plant_faults(kill)
    code = run_as_script(lambda: train_loop.main(argv))
    if counted is not None:
        counted.write_text(json.dumps(calls))
    return code


def plant_faults(kill: Kill | None) -> Counter[str]:
    """Wrap the system calls that write: count them, and kill this process at the one that `kill` names."""
    calls: Counter[str] = Counter()

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                return real(*arguments, **keywords)
            if name == "write" and arguments[0] <= 2:
                return real(*arguments, **keywords)
            calls[name] += 1
            is_due = kill is not None and calls.total() == kill.call
            if is_due and kill is not None and kill.stage != "after":
                if name == "write" and kill.stage == "half":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **keywords)
            if is_due:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in FAULTY_CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))
    return calls


def outcome(folder: Path) -> dict[str, Any]:
    """What must be equal: the adapter, the last checkpoint byte for byte, the metrics without timings."""
    last = max((folder / "checkpoints").glob("step-*"))
    found: dict[str, Any] = {f"checkpoint {name}": (last / name).read_bytes() for name in COMPARED}
    found["adapter"] = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    found["metrics"] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in found["metrics"]:
        line.pop("tokens_per_second", None)
    return found


def draw_kill(chance: random.Random, *, seconds: float, calls: int, fresh: bool) -> Kill:
    """One SIGTERM in ten; of the others half from outside and half at a write, uniform over an uninterrupted run."""
    if chance.random() < 0.1:
        return Kill(seconds=chance.uniform(0.0, seconds), number=signal.SIGTERM)
    if chance.random() < 0.5:
        return Kill(seconds=chance.uniform(0.0, seconds) + FRESH_SECONDS * fresh, fresh=fresh)
    return Kill(call=chance.randint(1, calls), stage=chance.choice(STAGES), fresh=fresh)


def run_to_the_end(argv: list[str], log: Path, *, next_kill: Callable[[], Kill | None], endings: Counter[str]) -> None:
    """One run from start to end, killed and resumed. `endings` counts how the attempts ended."""
    code = -1
    while code:
        kill = next_kill()
        code = attempt(argv, log, kill=kill)
        asked_to_stop = kill is not None and kill.number == signal.SIGTERM
        expected_codes = SIGTERM_CODES if asked_to_stop else (0, -signal.SIGKILL)
        assert code in expected_codes, f"exit code {code} ({kill}):\n{log.read_text()[-3000:]}"
        if kill is not None and code == -signal.SIGKILL:
            endings[f"SIGKILL inside a write, {kill.stage}" if kill.call else "SIGKILL at a random time"] += 1
        elif code:
            endings[f"SIGTERM, exit code {code}"] += 1


def crash(folder: Path, *, kernels: str, kills: int, seed: int, num_fresh: int) -> None:
    """Kill and resume until `kills` were counted; raises AssertionError at a difference from the uninterrupted run."""
    make_inputs(folder)
    started = time.monotonic()
    argv, log = arguments(folder, folder / "uninterrupted", kernels=kernels), folder / "uninterrupted.log"
    code = attempt(argv, log, counted=folder / "calls.json")
    assert code == 0, f"the uninterrupted run ended with {code}:\n{log.read_text()}"
    seconds = time.monotonic() - started
    calls = json.loads((folder / "calls.json").read_text())
    expected = outcome(folder / "uninterrupted")
    print(f"uninterrupted run, {kernels} kernels: {seconds:.1f} s, writing calls {calls}", flush=True)
    chance, endings, num_runs = random.Random(seed), Counter[str](), 0

    def num_kills() -> int:
        return sum(count for how, count in endings.items() if how.startswith("SIGKILL"))

    def next_kill() -> Kill | None:
        if num_kills() >= kills:
            return None
        return draw_kill(chance, seconds=seconds, calls=sum(calls.values()), fresh=num_kills() < num_fresh)

    while num_kills() < kills:
        num_runs += 1
        output_dir, log = folder / f"run-{num_runs}", folder / f"run-{num_runs}.log"
        run_to_the_end(arguments(folder, output_dir, kernels=kernels), log, next_kill=next_kill, endings=endings)
        found = outcome(output_dir)
        differing = [name for name in expected if expected[name] != found[name]]
        assert not differing, (
            f"run {num_runs} differs from the uninterrupted run in {differing}:\n{log.read_text()[-3000:]}"
        )
        print(f"run {num_runs}: equal to the byte; {num_kills()} kills so far", flush=True)
        shutil.rmtree(output_dir)
    print(f"{num_kills()} kills in {num_runs} runs, all ended equal to the byte: {dict(sorted(endings.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    choices = ["reference", "fast"]
    parser.add_argument("--kernels", nargs="+", choices=choices, default=["fast"], help="kernels of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=0, help="kills that hit a newly started interpreter")
    parser.add_argument("--attempt", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attempt:
        order = json.loads(options.attempt)
        raise SystemExit(run_attempt(order["argv"], Kill(call=order["call"], stage=order["stage"])))
    preload()
    for kernels in options.kernels:
        with tempfile.TemporaryDirectory() as folder:
            crash(Path(folder), kernels=kernels, kills=options.kills, seed=options.seed, num_fresh=options.fresh)


if __name__ == "__main__":
    main()
