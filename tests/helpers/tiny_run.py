"""A run of seconds for end-to-end tests: made-up rows with a canary in each dialogue and note, a tiny model, its flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import train_loop
from benchmarks.forked_runs import make_inputs
from medsum_core.process import run_as_script

CANARY = "Zebrafinch"
WINDOW = 4
CHECKS = 3  # calls of an own objective before the first update (training/objective_check.py)
HEADER = "ID,section_header,dialogue,section_text\n"


def make_canary_inputs(folder: Path) -> Path:
    """A model folder, ten training rows and three validation rows; a canary in every dialogue and note."""
    make_inputs(folder)
    for name in ("train.csv", "valid.csv"):
        path = folder / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("Patient: No.", f"Patient: No, {CANARY}.").replace("No cough", f"{CANARY} cough"))
    return folder


def flags(inputs: Path, output_dir: Path, *more: str) -> list[str]:
    """A short run: an epoch of three windows, the last one of two rows."""
    line = f"""--model_name_or_path {inputs / "model"} --train_file {inputs / "train.csv"}
        --validation_file {inputs / "valid.csv"} --output_dir {output_dir} --offline true --precision fp32
        --gradient_accumulation_steps {WINDOW} --max_length 240 --max_new_tokens 32 --report_rows 0"""
    return [*line.split(), *more]


def exit_code(argv: list[str], **settings: Any) -> int:
    """Of the script, run in this process."""
    return run_as_script(lambda: train_loop.main(argv, **settings))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
