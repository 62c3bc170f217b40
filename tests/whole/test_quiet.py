"""One log line of bitsandbytes is hidden: it asks for the package `kernels`, which is left out on purpose."""

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


def test_importing_the_libraries_prints_nothing(tmp_path: Path) -> None:
    """Only on a CPU with AVX512-BF16 does bitsandbytes log the line."""
    command = [sys.executable, "-c", "import medsum_core.model.base, bitsandbytes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
