"""Without numba everything but the fast kernels works, in a process where importing it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import flags, make_canary_inputs

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys

class NoNumba:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoNumba())
import importlib.util
plain = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numba" else plain(name, package)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def script(module: str, *argv: str) -> subprocess.CompletedProcess[str]:
    code = f"""
import json, runpy
from medsum_core.process import run_as_script
sys.argv = [{module!r}, *json.loads(sys.argv[1])]
runpy.run_module({module!r}, run_name="__main__")
"""
    return run(code, json.dumps(argv))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates on the reference path without numba."""
    folder = tmp_path_factory.mktemp("without")
    inputs = make_canary_inputs(folder / "inputs")
    done = script("train_loop", *flags(inputs, folder / "run", "--max_steps", "2"))
    assert done.returncode == 0, done.stderr
    assert "kernels reference" in done.stderr
    return folder


def test_the_loop_is_imported_without_it() -> None:
    done = run("import train_loop, infer\nassert not any(m.startswith('medsum_core.kernels.') for m in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_a_reference_window_imports_no_kernel_even_where_numba_is(tmp_path: Path) -> None:
    inputs = make_canary_inputs(tmp_path / "inputs")
    argv = flags(inputs, tmp_path / "run", "--max_steps", "1", "--kernels", "reference")
    code = f"import train_loop\ntrain_loop.main({argv!r})\nprint([m for m in sys.modules if 'numba' in m or m.startswith('medsum_core.kernels.')])"
    command = [sys.executable, "-c", "import sys\n" + code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_two_updates_inference_score_grounding_and_merge(trained: Path) -> None:
    rows = trained / "inputs" / "valid.csv"
    notes = trained / "notes.csv"
    for module, argv in (
        ("infer", ["--run", trained / "run", "--input_file", rows, "--output_file", notes, "--max_new_tokens", "4"]),
        ("medsum_core.score", ["--references", rows, "--predictions", notes]),
        ("medsum_core.grounding", ["--input_file", rows, "--note_column", "section_text"]),
        ("medsum_core.merge", ["--run", trained / "run", "--output_dir", trained / "merged", "--num_prompts", "2"]),
    ):
        done = script(module, *map(str, argv))
        assert done.returncode == 0, (module, done.stderr)


def test_asking_for_the_fast_kernels_names_the_extra(trained: Path) -> None:
    fast = flags(trained / "inputs", trained / "fast", "--kernels", "fast")
    done = script("train_loop", *fast)
    assert done.returncode == 2 and "medsum-core[cpu]" in done.stderr, done.stderr
    assert not (trained / "fast").exists()
