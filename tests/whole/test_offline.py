"""No import downloads native code: the package `kernels`, with which libraries would, is made unimportable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# bitsandbytes does this when it is imported on a CPU with AVX512-BF16.
ASK = """
try:
    from kernels import get_kernel
    get_kernel("kernels-community/quantization-bitsandbytes")
except ImportError as error:
    assert error.name == "kernels", error
"""
NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise AssertionError("an import used the network")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
"""
FAKE = """
from pathlib import Path
__version__ = "0.12.0"
(Path(__file__).parents[1] / "imported").touch()
def get_kernel(*_, **__):
    (Path(__file__).parents[1] / "called").touch()
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_, **__: lambda value: value
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package `kernels` that creates a file when it is imported or called."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(FAKE)
    (tmp_path / "kernels-0.12.0.dist-info").mkdir()
    (tmp_path / "kernels-0.12.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.12.0\n"
    )
    return tmp_path


def run(script: str, site: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", **more}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=site, env=environment, capture_output=True, text=True, check=False
    )


ORDERS = [
    "import medsum_core, bitsandbytes",
    "import medsum_core, transformers.integrations.hub_kernels, bitsandbytes",
    "import infer, medsum_core.merge.__main__, medsum_core.preview, medsum_core.score.__main__, train_loop",
]


@pytest.mark.parametrize("imports", ORDERS)
def test_an_installed_package_kernels_is_neither_imported_nor_called(site: Path, imports: str) -> None:
    done = run(NO_NETWORK + imports + ASK, site)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert not (site / "imported").exists() and not (site / "called").exists()


def test_a_package_kernels_that_is_imported_already_is_not_called(site: Path) -> None:
    done = run(f"{NO_NETWORK}import kernels, medsum_core, bitsandbytes{ASK}", site)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert (site / "imported").exists() and not (site / "called").exists()


def test_a_folder_kernels_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """Python makes a namespace package of any folder on its path, such as tests/kernels."""
    (tmp_path / "kernels").mkdir()
    script = "import medsum_core, importlib.util; assert importlib.util.find_spec('kernels') is None" + ASK
    done = run(script, tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


SCRIPTS = ["train_loop.py", "infer.py"]
MODULES = ["medsum_core.preview", "medsum_core.merge"]  # the other modules do not import huggingface_hub


@pytest.mark.parametrize("name", SCRIPTS + MODULES)
def test_a_script_turns_off_telemetry_and_update_checks(tmp_path: Path, name: str) -> None:
    """huggingface_hub reads these variables when it is imported, so they must be set before."""
    start = f"runpy.run_path({str(ROOT / name)!r}, run_name='__main__')"
    if name in MODULES:
        start = f"runpy.run_module({name!r}, run_name='__main__')"
    script = f"""
import runpy, sys
sys.argv = ["script", "--help"]
try:
    {start}
except SystemExit as end:
    assert not end.code, end
import huggingface_hub.constants
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY and huggingface_hub.constants.HF_HUB_DISABLE_UPDATE_CHECK
"""
    off = dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"), "")
    done = run(script, tmp_path, **off)
    assert done.returncode == 0, done.stderr
