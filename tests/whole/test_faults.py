"""One system call of a command fails: nothing is lost, and the repeated command ends as if nothing had happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = ("train", "resume", "infer", "infer --resume", "score --json", "merge", "conversion")
POINTS = 5  # of each command


def test_after_a_failed_system_call_every_command_can_be_repeated_to_the_same_end() -> None:
    """A sample; `python benchmarks/faults.py` makes every call of every command fail."""
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--sample", str(POINTS), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert f"{POINTS * len(COMMANDS)} points tried, 0 failed" in done.stdout
    for name in COMMANDS:
        assert re.search(rf"^{name}: \d+ calls, {POINTS} of \d+ points, 0 failed", done.stdout, re.MULTILINE)
