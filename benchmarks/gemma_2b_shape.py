"""A model of Gemma 2B's shape in the unchanged `train_loop.py` on a CPU: uninterrupted, and killed and resumed.

    python benchmarks/gemma_2b_shape.py --train_file ROWS.csv --rows 16 --updates 4 --row_tokens 130 --folder MODELS
    python benchmarks/gemma_2b_shape.py --tiny --rows 2 --updates 2 --max_length 512        # seconds, to try the script

A `GemmaForCausalLM` with the configuration of google/gemma-2b-it (2,506,172,416 parameters) and random weights is
written once (`random_models.py`): 5 GB of disk. It trains in NF4. The uninterrupted and the resumed run must end with
the same bytes of adapter and optimiser; `infer.py` then writes notes with the trained adapter. Printed: seconds and
peak memory of each process, beside the estimate. With `--row_tokens` the rows are drawn at random from those that are
not longer. Flags that are not listed go to `train_loop.py`, e.g. `--gradient_checkpointing on`.

Random weights say nothing about notes; shapes, memory, speed and exact resuming are those of the real model.
Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from process_memory import GIB, status_bytes
from random_models import build, check_ids, read_examples

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.05
NOTES, NOTE_TOKENS = 2, 8


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One process of `train_loop.py`."""

    code: int
    seconds: float
    peak_bytes: int  # resident, with the model's files, which are mapped while it loads
    private_bytes: int  # the peak without them, which the system can't reclaim


def main() -> None:
    """Build, train straight, train with a kill, compare; exit code 1 at a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", type=Path, default=ROOT / "medsum_core" / "data" / "sample" / "demo_train.csv")
    parser.add_argument("--rows", type=int, default=16, help="of one update")
    parser.add_argument("--updates", type=int, default=4, help="of the whole run; the kill comes after half of them")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--row_tokens", type=int, help="draw the rows from those of at most so many tokens")
    parser.add_argument(
        "--folder", type=Path, help="where the model is built, for later runs too (default: a temporary folder)"
    )
    parser.add_argument("--tiny", action="store_true", help="a model of the same kind with 16 million parameters")
    options, others = parser.parse_known_args()
    if options.updates < 2:
        parser.error("--updates: at least 2, for a checkpoint half-way")
    with tempfile.TemporaryDirectory() as scratch:
        options.train_file = options.train_file.resolve()
        folder = (options.folder or Path(scratch)).resolve()
        model = build("gemma-2b-tiny" if options.tiny else "gemma-2b-shape", folder)
        if options.row_tokens is not None:
            options.train_file = draw_rows(options, model, Path(scratch))
        check_ids(model, options.train_file, max_length=options.max_length)
        if not compare(options, others, model, Path(scratch)):
            raise SystemExit(1)


def draw_rows(options: argparse.Namespace, model: Path, scratch: Path) -> Path:
    """A file with the rows of the whole run, no row twice, drawn at random (seed 0) from the short enough ones."""
    from medsum_core.data.records import read_records

    examples = read_examples(model, options.train_file, max_length=options.max_length)
    short = [example.id for example in examples if example.num_tokens <= options.row_tokens]
    wanted = options.rows * options.updates
    if len(short) < wanted:
        raise SystemExit(f"only {len(short)} of the {wanted} rows wanted have at most {options.row_tokens} tokens")
    drawn = set(random.Random(0).sample(short, wanted))
    path = scratch / "rows.jsonl"
    records = [record for record in read_records(options.train_file) if record.id in drawn]
    lines = [json.dumps({"id": record.id, **record.parts, "section_text": record.note}) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def compare(options: argparse.Namespace, others: list[str], model: Path, scratch: Path) -> bool:
    """The uninterrupted run and the killed and resumed one; returns whether both ended with the same bytes."""
    half = options.updates // 2
    straight, resumed = scratch / "straight", scratch / "resumed"

    def command(output_dir: Path) -> list[str]:
        # --dequantize off: this measures the least memory; with enough memory `auto` would dequantise once.
        flags = f"""--model_name_or_path {model} --offline true --train_file {options.train_file} --report_rows 0
            --load_in_4bit true --dequantize off --gradient_accumulation_steps {options.rows} --eval_strategy no
            --max_steps {options.updates} --max_length {options.max_length} --save_strategy steps --save_steps {half}
            --output_dir {output_dir} --resume_from_checkpoint auto"""
        return [sys.executable, str(ROOT / "train_loop.py"), *flags.split(), *others]

    report(
        "straight", run_script(command(straight), scratch / "straight.log"), expected=0, log=scratch / "straight.log"
    )
    for line in (scratch / "straight.log").read_text().splitlines():
        if line.strip().startswith("peak"):
            print(f"estimated {' '.join(line.split())}")
    print_metrics(straight)
    checkpoint = resumed / "checkpoints" / f"step-{half:06d}"
    killed = run_script(command(resumed), scratch / "killed.log", kill_at=checkpoint)
    report("killed", killed, expected=-signal.SIGKILL, log=scratch / "killed.log")
    report("resumed", run_script(command(resumed), scratch / "resumed.log"), expected=0, log=scratch / "resumed.log")
    if f"resuming after update {half} " not in (scratch / "resumed.log").read_text():
        raise SystemExit("the killed run was not resumed but started again from the first update")
    equal = outcome(straight, options.updates) == outcome(resumed, options.updates)
    print(f"adapter and optimiser after {options.updates} updates: {'equal to the byte' if equal else 'THEY DIFFER'}")
    write_notes(options.train_file, resumed, scratch)
    return equal


def write_notes(rows: Path, run_folder: Path, scratch: Path) -> None:
    """`infer.py` with the trained adapter on the first rows; the notes of random weights are not looked at."""
    from medsum_core.data.records import read_records

    requests, notes, log = scratch / "requests.jsonl", scratch / "notes.csv", scratch / "infer.log"
    records = read_records(rows)[:NOTES]
    lines = [{"id": r.id, **r.parts} for r in records]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = f"--run {run_folder} --input_file {requests} --output_file {notes} --max_new_tokens {NOTE_TOKENS}"
    ended = run_script([sys.executable, str(ROOT / "infer.py"), *flags.split()], log)
    report("infer.py", ended, expected=0, log=log)
    with notes.open(newline="") as file:
        written = list(csv.DictReader(file))
    if [row["id"] for row in written] != [record.id for record in records]:
        raise SystemExit("infer.py did not write one note for each row")
    print(f"infer.py: {len(written)} notes of {NOTE_TOKENS} tokens at most")


def run_script(command: list[str], log: Path, *, kill_at: Path | None = None) -> Ended:
    """Run to the end, or to a SIGKILL as soon as the checkpoint `kill_at` is there; peak as the kernel counts it."""
    started, peak, private = time.perf_counter(), 0, 0
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent)
        while process.poll() is None:
            peak = max(peak, status_bytes(process.pid, "VmHWM"))
            private = max(private, status_bytes(process.pid, "RssAnon"))
            if kill_at is not None and kill_at.exists():
                process.kill()
            time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - started
    return Ended(code=process.returncode, seconds=seconds, peak_bytes=peak, private_bytes=private)


def report(name: str, ended: Ended, *, expected: int, log: Path) -> None:
    """A line about a process; stops if it did not end as it should."""
    if ended.code != expected:
        raise SystemExit(f"the {name} run ended with {ended.code}:\n{log.read_text()[-3000:]}")
    private, peak = ended.private_bytes / GIB, ended.peak_bytes / GIB
    print(f"{name}: {ended.seconds:.0f} s, peak {private:.2f} GiB, {peak:.2f} with the mapped model files", flush=True)


def print_metrics(run_folder: Path) -> None:
    """Loss and speed of each update."""
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        print(f"  update {values['step']}: loss {values['loss']:.4f}, {values['tokens_per_second']:.1f} tokens/s")


def outcome(run_folder: Path, updates: int) -> dict[str, bytes]:
    """The bytes that must be equal."""
    last = run_folder / "checkpoints" / f"step-{updates:06d}"
    names = ("adapter_model.safetensors", "optimizer.safetensors")
    found = {name: (last / name).read_bytes() for name in names}
    return found | {"adapter": (run_folder / "adapter" / names[0]).read_bytes()}


if __name__ == "__main__":
    main()
