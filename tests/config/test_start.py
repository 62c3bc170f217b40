"""Help and refusals need no import of torch and the libraries on top of it, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = {"torch", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "matplotlib"}

COMMANDS = {
    "train_loop.py --help": ([str(ROOT / "train_loop.py"), "--help"], 0),
    "a wrong setting": ([str(ROOT / "train_loop.py"), "--preset", "demo", "--lora_r", "zero"], 2),
    "infer.py --help": ([str(ROOT / "infer.py"), "--help"], 0),
    "a place that cannot be written": (
        [str(ROOT / "infer.py"), *["--run", "r", "--input_file", "in.csv", "--output_file", "absent/notes.csv"]],
        2,
    ),
    "score --help": (["-m", "medsum_core.score", "--help"], 0),
    "grounding --help": (["-m", "medsum_core.grounding", "--help"], 0),
    "a merge of too many prompts": (["-m", "medsum_core.merge", "--run=r", "--output_dir=o", "--num_prompts=99"], 2),
}


@pytest.mark.parametrize("arguments,code", COMMANDS.values(), ids=list(COMMANDS))
def test_nothing_slow_is_imported_for_help_or_a_refusal(tmp_path: Path, arguments: list[str], code: int) -> None:
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"argparse"} <= imported and not imported & SLOW


VARIABLES = ("OMP_WAIT_POLICY", "PYTORCH_ALLOC_CONF")
FAKE_TORCH = f"import os\nraise SystemExit(' '.join(os.environ.get(name, '-') for name in {VARIABLES}))\n"


@pytest.mark.parametrize(
    "given,found",
    [
        ({}, "passive expandable_segments:True"),
        ({"OMP_WAIT_POLICY": "active", "PYTORCH_ALLOC_CONF": "backend:native"}, "active backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "passive -"),  # the variable's former name
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        [str(ROOT / "train_loop.py"), "--preset", "demo"],
        [str(ROOT / "infer.py"), "--model_name_or_path", "r", "--dialogue_file", "visit.txt", "--section", "GENHX"],
        ["-m", "medsum_core.merge", "--run", "r", "--output_dir", "merged"],
    ],
)
def test_threads_and_allocator_are_configured_before_torch_is_imported(
    tmp_path: Path, arguments: list[str], given: dict[str, str], found: str
) -> None:
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    (tmp_path / "visit.txt").write_text("Doctor: Any cough?")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | given
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == found


WRITES = """
import os, sys
from medsum_core.process import start_script
start_script()
file = open(sys.argv[1], "w")
print("a line")
print("a message", file=sys.stderr)
os.write(2, b"a message")
sys.stdin.read()
"""


def test_with_closed_streams_nothing_fails_and_no_file_gets_the_messages(tmp_path: Path) -> None:
    command = 'exec "$0" -c "$1" file <&- >&- 2>&-'
    arguments = ["sh", "-c", command, sys.executable, WRITES]
    assert subprocess.run(arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
