"""What is hidden: one line of bitsandbytes that asks for a package left out on purpose, nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import medsum_core
from medsum_core.quiet_libraries import KERNELS_LINE, KERNELS_LOGGER

MISSING = ModuleNotFoundError("No module named 'kernels'", name="kernels")
OTHER = ModuleNotFoundError("No module named 'numpy'", name="numpy")


@pytest.mark.parametrize(
    "message,arguments,is_shown",
    [
        (f"{KERNELS_LINE}: %s. Please `pip install kernels`", (MISSING,), False),
        (f"{KERNELS_LINE}: %s. Please `pip install kernels`", (OTHER,), True),
        (f"{KERNELS_LINE}: %s. Please `pip install kernels`", (OSError("no network"),), True),
        ("Failed to load anything else: %s", (MISSING,), True),
        ("no arguments", (), True),
    ],
    ids=["the line", "another module", "another reason", "another line", "no arguments"],
)
def test_only_that_line_is_hidden(
    caplog: pytest.LogCaptureFixture, message: str, arguments: tuple[object, ...], is_shown: bool
) -> None:
    assert medsum_core.__version__  # importing the package is what hides it
    logging.getLogger(KERNELS_LOGGER).warning(message, *arguments)
    assert len(caplog.records) == is_shown


def test_a_fresh_process_says_nothing_when_it_imports_the_libraries(tmp_path: Path) -> None:
    """On a CPU without AVX512-BF16 bitsandbytes doesn't log the line, so that nothing is tested there."""
    command = [sys.executable, "-c", "import medsum_core.model.base, bitsandbytes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
