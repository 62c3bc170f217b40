"""Training speed and memory against TRL's SFTTrainer: same base, rows, prompt and target tokens, LoRA, optimiser.

    pip install -e '.[bench]' -c constraints.txt
    python benchmarks/train.py --train_file ROWS.csv --turns 3 --settings recipe no_checkpointing batch4

Each side trains on the same rows in a fresh process, in turns (ours, TRL, ours, ...); the clock starts when the weights
are loaded. Printed: seconds, tokens/s (prompt and note, without padding), the ratio TRL / ours with its spread, peak
memory above what is resident once the model is loaded, and the share of the machine's measured matrix-product peak:

    FLOP = tokens x (4 x W + 6 x A) + note tokens x 4 x hidden x vocabulary

with W the non-embedding weights and A the adapter's: a frozen weight costs 2 forward and 2 for the gradient of its
input, an adapter's 2 more for its own gradient; recomputation does not count. `--settings` names what TRL runs with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "recipe": {"gradient_checkpointing": True, "per_device_train_batch_size": 1},
    "no_checkpointing": {"gradient_checkpointing": False, "per_device_train_batch_size": 1},
    "batch4": {"gradient_checkpointing": False, "per_device_train_batch_size": 4},
}
WINDOW_ROWS = 16
SAMPLE_SECONDS = 0.02


class PeakMemory:
    """Peak resident bytes of this process while the block runs, above those at its start."""

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process = psutil.Process()
        self._start = self.peak = self._process.memory_info().rss
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()

    @property
    def above_start(self) -> int:
        """Bytes."""
        return self.peak - self._start

    def _watch(self) -> None:
        while self._running:
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(SAMPLE_SECONDS)


def run_ours(args: argparse.Namespace) -> dict[str, Any]:
    """One pass over the rows with this project's own step, as `train_loop.py` would do it."""
    import tempfile

    from medsum_core.prepare import build, prepare
    from train_loop import train_step

    with tempfile.TemporaryDirectory() as folder:
        run, progress = build(prepare(_our_config(args, folder)))
        memory = PeakMemory()
        started = time.perf_counter()
        losses = []
        with memory:
            for start in range(0, len(run.rows), WINDOW_ROWS):
                window = run.rows[start : start + WINDOW_ROWS]
                losses.append(train_step(run, window, learning_rate=run.learning_rate(progress.step)).loss)
        seconds = time.perf_counter() - started
    return _result(run.rows, losses, seconds, memory) | {"flop": _flop(run.model, run.rows)}


def run_trl(args: argparse.Namespace, setting: str) -> dict[str, Any]:
    """One pass of TRL's SFTTrainer over the very same ids and labels, in the same order."""
    import tempfile

    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medsum_core.model import keep_4bit_differentiable, load_base, load_tokenizer, lora_config
    from medsum_core.plan import lora_settings
    from medsum_core.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(_our_config(args, folder))
        rows = plan.corpus.train
        data = Dataset.from_list([{"input_ids": list(row.input_ids), "labels": _labels(row)} for row in rows])
        name = args.model_name_or_path
        base = load_base(name, precision=args.precision, load_in_4bit=True)
        keep_4bit_differentiable(base)
        batch = TRL_SETTINGS[setting]["per_device_train_batch_size"]
        trainer = SFTTrainer(
            model=base,
            args=SFTConfig(
                output_dir=folder,
                dataset_kwargs={"skip_prepare_dataset": True},
                gradient_accumulation_steps=WINDOW_ROWS // batch,
                num_train_epochs=1,
                max_length=None,
                learning_rate=2e-4,
                optim="paged_adamw_8bit",
                bf16=args.precision == "bf16",
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                save_strategy="no",
                logging_steps=1,
                train_sampling_strategy="sequential",
                disable_tqdm=True,
                **TRL_SETTINGS[setting],
            ),
            train_dataset=data,
            processing_class=load_tokenizer(name),
            peft_config=lora_config(lora_settings(plan.config), base_name=name),
        )
        memory = PeakMemory()
        started = time.perf_counter()
        with memory:
            trainer.train()
        seconds = time.perf_counter() - started
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return _result(rows, losses, seconds, memory)


def _our_config(args: argparse.Namespace, folder: str) -> Any:
    from medsum_core.config import parse_run

    flags = ["--preset", "demo", "--model_name_or_path", args.model_name_or_path, "--train_file", args.train_file]
    flags += ["--precision", args.precision, "--output_dir", folder, "--eval_strategy", "no", "--report_rows", "0"]
    flags += ["--lora_dropout", str(args.lora_dropout), *(args.ours or [])]
    return parse_run(flags)


def _labels(row: Any) -> list[int]:
    """TRL shifts by itself: the label of a position is that position's own token."""
    return [-100, *row.targets[:-1]]


def _result(rows: Any, losses: list[float], seconds: float, memory: PeakMemory) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "tokens": sum(row.num_tokens for row in rows),
        "targets": sum(row.num_targets for row in rows),
        "losses": losses,
        "peak_bytes": memory.above_start,
    }


def _flop(model: Any, rows: Any) -> float:
    config = model.config.get_text_config()
    frozen = sum(_num_weights(layer) for layer in model.modules() if hasattr(layer, "base_layer"))
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tokens, targets = sum(row.num_tokens for row in rows), sum(row.num_targets for row in rows)
    return tokens * (4 * frozen + 6 * adapter) + targets * 4 * config.hidden_size * config.vocab_size


def _num_weights(layer: Any) -> int:
    linear = layer.base_layer
    return int(linear.in_features * linear.out_features)


def measure_peak(precision: str) -> float:
    """FLOP/s of a large matrix product in this precision, the best of some: what the machine can do at most."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    size = 1536
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def run_worker(args: argparse.Namespace, side: str) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--worker", side]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Run the turns and print the comparison."""
    args = _parse()
    if args.worker:
        result = run_ours(args) if args.worker == "ours" else run_trl(args, args.worker)
        print(json.dumps(result))
        return
    peaks = {precision: measure_peak(precision) for precision in ("fp32", "bf16")}
    sides = ["ours", *args.settings]
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(args.turns):
        for side in sides:
            results[side].append(run_worker(args, side))
            found = results[side][-1]
            print(
                f"turn {turn + 1} {side}: {found['seconds']:.1f} s, {found['tokens'] / found['seconds']:.0f} tokens/s"
            )
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
        gap = max(abs(a - b) for a, b in zip(turns[0]["losses"], ours[0]["losses"], strict=False))
        print(
            f"  {statistics.mean(ratios):.2f} x our time (turns {min(ratios):.2f} to {max(ratios):.2f}), "
            f"our memory {relative:.2f} x its, largest loss gap {gap:.4f}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="training speed and memory against TRL")
    parser.add_argument("--train_file", required=True, help="CSV with as many rows as should be trained on")
    parser.add_argument("--model_name_or_path", default="embedded:gemma3-270m")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--lora_dropout", type=float, default=0.05)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=["recipe"], choices=sorted(TRL_SETTINGS))
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, help="more flags of train_loop.py for our side; last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
