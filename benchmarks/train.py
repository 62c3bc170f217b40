"""Training speed and memory against TRL's SFTTrainer: same base, rows, prompt and target tokens, LoRA, optimiser.

    pip install -e '.[bench]' -c constraints.txt
    python benchmarks/train.py --train_file ROWS.csv --turns 3 --settings recipe no_checkpointing
    python benchmarks/train.py --train_file ROWS.csv --model_name_or_path llama-135m --folder MODELS
    python benchmarks/train.py --train_file ROWS.csv --profile           # where the time of one of our windows goes
    python benchmarks/train.py --train_file ROWS.csv --growth            # our cost over tokens a row and over rows

Each side trains on the same rows in a fresh process, in turns (ours, TRL, ours, ...); the clock starts when the weights
are loaded. Printed: seconds, tokens/s (prompt and note, without padding), the ratio TRL / ours with its spread, peak
memory above what is resident once the model is loaded, and the share of the machine's measured matrix-product peak:

    FLOP = tokens x (4 x W + 6 x A) + note tokens x 4 x hidden x vocabulary

with W the non-embedding weights and A the adapter's: a frozen weight costs 2 forward and 2 for the gradient of its
input, an adapter's 2 more for its own gradient; recomputation does not count. `--settings` names what TRL runs with.
Models beside a hub id, a folder or embedded:gemma3-270m: those of `random_models.py`, built in `--folder`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from process_memory import OUR_ENVIRONMENT
from train_growth import growth_sides, run_grown
from train_profile import print_profile
from train_sides import TRL_SETTINGS, run_ours, run_trl


def measure_peak(precision: str) -> float:
    """FLOP/s of a large matrix product in this precision, the best of 8: an upper bound for this machine."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1536)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def run_worker(side: str) -> dict[str, Any]:
    """One side in a new process, without network access, since TRL would report each run.

    `train_loop.py` calls `kernels.set_up_process` before its imports; our side's environment does the same here.
    """
    environment = os.environ | ({} if side in TRL_SETTINGS else OUR_ENVIRONMENT) | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", side, *sys.argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    seconds, tokens = result["seconds"], result["tokens"]
    memory = result["peak_bytes"] / 2**20
    print(f"{side}: {seconds:.1f} s, {tokens / seconds:.0f} tokens/s, {memory:.0f} MiB above the model", flush=True)
    return result


def main() -> None:
    """Run the turns and print the comparison, or one of the other questions."""
    args = _parse()
    if args.worker:
        side = args.worker
        grown = side.startswith("grow:")
        found = run_grown(args, side) if grown else run_ours(args) if side == "ours" else run_trl(args, side)
        print(json.dumps(found))
    elif args.profile:
        print_profile(args)
    elif args.growth:
        for side in growth_sides():
            run_worker(side)
    else:
        _compare(args)


def _compare(args: argparse.Namespace) -> None:
    peaks = {precision: measure_peak(precision) for precision in ("fp32", "bf16")}
    sides = ["ours", *args.settings]
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(args.turns):
        for side in sides:
            results[side].append(run_worker(side))
    _print_summary(results, peaks)
    if args.json:
        Path(args.json).write_text(json.dumps({"peaks": peaks, "results": results}, indent=1) + "\n")


def _print_summary(results: dict[str, list[dict[str, Any]]], peaks: dict[str, float]) -> None:
    ours = results["ours"]
    for precision, peak in peaks.items():
        share = statistics.mean(found["flop"] / found["seconds"] for found in ours) / peak
        print(f"ours: {100 * share:.0f} % of the {precision} matrix-product peak, {peak / 1e9:.0f} GFLOP/s")
    for side, turns in results.items():
        seconds = statistics.mean(found["seconds"] for found in turns)
        memory = max(found["peak_bytes"] for found in turns) / 2**20
        print(f"{side}: {seconds:.1f} s mean, peak {memory:.0f} MiB above the loaded model")
        if side == "ours":
            continue
        ratios = [theirs["seconds"] / mine["seconds"] for theirs, mine in zip(turns, ours, strict=True)]
        relative = max(found["peak_bytes"] for found in ours) / max(found["peak_bytes"] for found in turns)
        gap = max(abs(a - b) for a, b in zip(turns[0]["losses"], ours[0]["losses"], strict=True))
        print(
            f"  {statistics.mean(ratios):.2f} x our time (turns {min(ratios):.2f} to {max(ratios):.2f}), "
            f"our memory {relative:.2f} x its, largest loss gap {gap:.4f}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="training speed and memory against TRL")
    parser.add_argument("--train_file", required=True, help="CSV with as many rows as should be trained on")
    parser.add_argument("--model_name_or_path", default="embedded:gemma3-270m")
    parser.add_argument("--folder", help="where a model of random_models.py is built, for later runs too")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--lora_dropout", type=float, default=0.05)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=["recipe"], choices=sorted(TRL_SETTINGS))
    parser.add_argument("--profile", action="store_true", help="one window of ours, part by part")
    parser.add_argument("--growth", action="store_true", help="ours over tokens a row and over rows")
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, help="more flags of train_loop.py for our side; last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
