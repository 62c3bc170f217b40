"""Without the extras `cpu` and `serve` all else works, in a process where importing their packages fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_run import flags, make_canary_inputs

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
ABSENT = ("numba", "llvmlite", "starlette", "uvicorn", "prometheus_client")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
plain = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ABSENT else plain(name, package)
"""


RUN = """
import json, runpy
for argv in json.loads(sys.argv[1]):
    sys.argv = argv
    try:
        runpy.run_module(argv[0], run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code, flush=True)
"""


def scripts(*commands: list[str]) -> tuple[list[str], str]:
    """The exit codes of the commands, one after another in one process without the extras, and their messages."""
    command = [sys.executable, "-c", BLOCK + RUN, json.dumps(commands)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return re.findall(r"^exit code (\d+)$", done.stdout, re.MULTILINE), done.stderr


def test_every_command_works_without_extras_and_names_one_that_it_needs(tmp_path: Path) -> None:
    inputs = make_canary_inputs(tmp_path / "inputs")
    rows, notes = str(inputs / "valid.csv"), str(tmp_path / "notes.csv")
    run, merged = str(tmp_path / "run"), str(tmp_path / "merged")
    codes, messages = scripts(
        ["train_loop", *flags(inputs, tmp_path / "fast", "--kernels", "fast")],
        ["train_loop", *flags(inputs, Path(run), "--max_steps", "2")],
        ["infer", "--run", run, "--input_file", rows, "--output_file", notes, "--max_new_tokens", "4"],
        ["medsum_core.score", "--references", rows, "--predictions", notes],
        ["medsum_core.grounding", "--input_file", rows, "--note_column", "section_text"],
        ["medsum_core.merge", "--run", run, "--output_dir", merged, "--num_prompts", "2"],
        ["medsum_core.preview", "--train_file", rows, "--model_name_or_path", str(inputs / "model")],
        ["medsum_core.server", "--run", run],
        ["medsum_core.generation.live"],  # imported, of those that a user's program may do without a server
    )
    assert codes == ["2", "0", "0", "0", "0", "0", "0", "2"], messages
    assert "error: the server needs starlette, uvicorn, prometheus_client, of the extra `serve`" in messages
    assert "error: --kernels fast: needs numba: pip install 'medsum-core[cpu]'" in messages
    assert "kernels reference" in messages
    assert not (tmp_path / "fast").exists()
