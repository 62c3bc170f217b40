"""What a run on text by the reference path doesn't import, in a process of its own: kernels, and what reads images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_run import flags, make_canary_inputs

ROOT = Path(__file__).parents[2]
READERS = ("medsum_core.images", "medsum_core.server.image_encoder", "pydicom")
SCRIPT = """
import json, sys
import infer, train_loop
argv, run, rows, notes = json.loads(sys.argv[1])
train_loop.main(argv)
print(json.dumps([*sys.modules]))
infer.main(["--run", run, "--input_file", rows, "--output_file", notes])
from medsum_core.server.arguments import parse_options
from medsum_core.server.loading import load
args = parse_options(["--run", run, "--offline"])
load(infer.prepare_writer(args), args).engine.close(seconds=0)
print(json.dumps([*sys.modules]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The modules after training with a report, then those after writing notes and loading the server's engine too."""
    inputs = make_canary_inputs(tmp_path_factory.mktemp("inputs"))
    run, notes = inputs / "run", inputs / "notes.csv"
    argv = flags(inputs, run, "--max_steps", "1", "--kernels", "reference", "--report_rows", "2")
    command = [sys.executable, "-c", SCRIPT, json.dumps([argv, str(run), str(inputs / "valid.csv"), str(notes)])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_a_reference_window_imports_no_kernel_even_where_numba_is(imported: list[list[str]]) -> None:
    assert [name for name in imported[0] if "numba" in name or name.startswith("medsum_core.kernels.")] == []


def test_a_run_on_text_imports_nothing_that_reads_images(imported: list[list[str]]) -> None:
    assert len(imported) == 2 and "medsum_core.server.loading" in imported[1]
    assert all(find_spec(name) for name in READERS if name != "pydicom")  # an extra; ours are still called so
    assert [name for name in imported[1] if name.startswith(READERS)] == []
