"""Gemma 2B's real shape through the unchanged `train_loop.py` on a CPU: straight, and killed half-way and resumed.

    python benchmarks/gemma_2b_shape.py --train_file ROWS.csv --rows 16 --updates 4
    python benchmarks/gemma_2b_shape.py --tiny --rows 2 --updates 2 --max_length 512        # seconds, to try the script

A `GemmaForCausalLM` with the configuration of google/gemma-2b-it (2,506,172,416 parameters) and random weights is
written once, a file a layer, so that building it takes 2 GiB at most; 5 GB of disk. It trains in NF4. The straight run
and the resumed one must end with the same bytes of adapter and optimiser; `infer.py` then writes notes with the trained
adapter. Printed: seconds and peak memory of each process, beside the estimate. Flags that are not listed go to
`train_loop.py`, e.g. `--gradient_checkpointing on`.

Random weights say nothing about notes; shapes, memory, speed and exact resuming are those of the real model. The
tokenizer is the embedded model's, Gemma 3's: its 262,144 entries end with 6,143 unused ones, so that text stays below
Gemma 2B's 256,000 ids. That is checked for every row. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

GIB = 1 << 30
NUM_PARAMETERS = 2_506_172_416
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 64, "num_attention_heads": 2}
POLL_SECONDS = 0.05
NOTES, NOTE_TOKENS = 2, 8


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One process of `train_loop.py`."""

    code: int
    seconds: float
    peak_bytes: int  # resident, the model's files included, which are mapped while it loads
    private_bytes: int  # the peak without them: what the system can't take back


def main() -> None:
    """Build, train straight, train with a kill, compare; exit code 1 at a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", type=Path, default=ROOT / "medsum_core" / "data" / "demo_train.csv")
    parser.add_argument("--rows", type=int, default=16, help="of one update")
    parser.add_argument("--updates", type=int, default=4, help="of the whole run; the kill comes after half of them")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where the model is kept for another time (default: nowhere)")
    parser.add_argument("--tiny", action="store_true", help="a model of the same kind with 16 million parameters")
    options, others = parser.parse_known_args()
    if options.updates < 2:
        parser.error("--updates: at least 2, for a checkpoint half-way")
    with tempfile.TemporaryDirectory() as scratch:
        options.train_file = options.train_file.resolve()
        folder = (options.folder or Path(scratch)).resolve()
        model = folder / ("tiny-model" if options.tiny else "gemma-2b-shape")
        build(model, tiny=options.tiny)
        check_ids(model, options.train_file, max_length=options.max_length)
        if not compare(options, others, model, Path(scratch)):
            raise SystemExit(1)


def build(folder: Path, *, tiny: bool) -> None:
    """The model folder: weights in one file a layer, configuration, tokenizer. Kept if it is there already."""
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import AutoModelForCausalLM

    started = time.perf_counter()
    config = gemma_2b_config(tiny=tiny)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    num_parameters = sum(parameter.numel() for parameter in empty.parameters())
    assert tiny or num_parameters == NUM_PARAMETERS
    folder.mkdir(parents=True, exist_ok=True)
    num_bytes = write_weights(folder, {name: parameter.shape for name, parameter in empty.named_parameters()})
    write_tokenizer(folder)
    config.save_pretrained(folder)  # last: it marks the folder as complete
    print(
        f"built {num_parameters:,} parameters, {num_bytes / GIB:.2f} GiB, in {time.perf_counter() - started:.0f} s, "
        f"peak {status_bytes(os.getpid(), 'VmHWM') / GIB:.2f} GiB",
        flush=True,
    )


def gemma_2b_config(*, tiny: bool) -> Any:
    """The configuration of google/gemma-2b-it; with `tiny` its vocabulary and kind, but small layers."""
    from transformers import GemmaConfig

    shape: dict[str, Any] = {
        "vocab_size": 256_000,
        "hidden_size": 2048,
        "intermediate_size": 16_384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "architectures": ["GemmaForCausalLM"],
        "dtype": "bfloat16",
    }
    return GemmaConfig(**(shape | (TINY if tiny else {})))


def write_weights(folder: Path, shapes: dict[str, Any]) -> int:
    """Random bf16 weights, one safetensors file for each layer and one for each other tensor; returns their bytes."""
    import torch
    from safetensors.torch import save_file

    files: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        parts = name.split(".")
        files[".".join(parts[: parts.index("layers") + 2]) if "layers" in parts else name].append(name)
    chance = torch.Generator().manual_seed(0)
    num_bytes, places = 0, {}
    for number, names in enumerate(files.values(), start=1):
        file_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {name: torch.empty(shapes[name], dtype=torch.bfloat16) for name in names}
        for name, tensor in tensors.items():
            # Gemma's norms multiply by 1 + weight.
            tensor.zero_() if "norm" in name else tensor.normal_(std=0.02, generator=chance)
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        places |= dict.fromkeys(names, file_name)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return num_bytes


def write_tokenizer(folder: Path) -> None:
    """The embedded model's tokenizer with a chat template of Gemma's turns, as the instruct model has one."""
    from support import GEMMA_TEMPLATE

    from medsum_core.embedded import EMBEDDED_NAME
    from medsum_core.model import load_tokenizer

    tokenizer = load_tokenizer(EMBEDDED_NAME)
    tokenizer.chat_template = GEMMA_TEMPLATE
    tokenizer.save_pretrained(folder)


def check_ids(model: Path, train_file: Path, *, max_length: int) -> None:
    """Stop unless every token of every row has a row in the model's embedding."""
    from medsum_core.batching import build_examples
    from medsum_core.model import load_config, load_tokenizer
    from medsum_core.prompt import build_renderer
    from medsum_core.records import read_records

    renderer = build_renderer(load_tokenizer(str(model)))
    examples, _ = build_examples(read_records(train_file), renderer, max_length=max_length, max_new_tokens=256)
    vocabulary = load_config(str(model)).vocab_size
    largest = max(max(*example.input_ids, *example.targets) for example in examples)
    if largest >= vocabulary:
        raise SystemExit(f"{train_file}: token {largest} is outside of the model's vocabulary of {vocabulary:,}")
    tokens = sum(example.num_tokens for example in examples) / len(examples)
    print(f"{len(examples)} rows, {tokens:.0f} tokens a row, largest id {largest:,} of {vocabulary:,}", flush=True)


def compare(options: argparse.Namespace, others: list[str], model: Path, scratch: Path) -> bool:
    """The straight run, the killed and resumed one, and whether both ended with the same bytes."""
    half = options.updates // 2
    straight, resumed = scratch / "straight", scratch / "resumed"

    def command(output_dir: Path) -> list[str]:
        # Unpacking NF4 once would be chosen where memory is plenty; this is about how little it takes.
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
        raise SystemExit("the killed run was not resumed but started anew")
    equal = outcome(straight, options.updates) == outcome(resumed, options.updates)
    print(f"adapter and optimiser after {options.updates} updates: {'equal to the byte' if equal else 'THEY DIFFER'}")
    write_notes(options.train_file, resumed, scratch)
    return equal


def write_notes(rows: Path, run_folder: Path, scratch: Path) -> None:
    """`infer.py` with the trained adapter on the first rows; the notes of random weights are not looked at."""
    from medsum_core.records import read_records

    requests, notes, log = scratch / "requests.jsonl", scratch / "notes.csv", scratch / "infer.log"
    records = read_records(rows)[:NOTES]
    lines = [{"id": r.id, "dialogue": r.dialogue, "section_header": r.section_header} for r in records]
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


def status_bytes(process_id: int, name: str) -> int:
    """A figure of the kernel's about a process, e.g. its high-water mark VmHWM; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


if __name__ == "__main__":
    main()
