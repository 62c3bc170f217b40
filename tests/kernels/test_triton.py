"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for several GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medsum_core.checkpoint.fingerprints import environment_fingerprint
from medsum_core.errors import InputError
from medsum_core.kernels import resolve

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, because Triton reads its settings when it is imported."""
    pytest.importorskip("triton", reason="needs triton, which torch for CUDA brings with it on Linux")
    search = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(search), "TRITON_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)


def test_each_kernel_equals_its_numba_twin_in_the_interpreter(tmp_path: Path) -> None:
    options = ("-q", "-n0", "-p", "no:cacheprovider")
    done = run(tmp_path, "-m", "pytest", *options, "tests/kernels/triton_interpreted.py", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


def test_each_kernel_compiles_for_gpus_of_several_capabilities(tmp_path: Path) -> None:
    done = run(tmp_path, "tests/helpers/compile_triton.py", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    kernels = {"_rms_norm", "_rms_norm_backward", "_gated", "_gated_backward", "_rotated", "_kept", "_add_kept"}
    for capability, dtype in ((75, "float16"), (75, "float32"), (80, "bfloat16"), (90, "bfloat16")):
        case = [row for row in found if row[:2] == [capability, f"torch.{dtype}"]]
        assert {name for _, _, name, _, _ in case} == kernels and len(case) == len(kernels)
        assert all(num_bytes > 1000 for _, _, _, num_bytes, _ in case)
        if dtype == "bfloat16":
            assert {name for _, _, name, _, rounds in case if not rounds} == {
                "_kept"
            }  # it only copies or zeroes elements, so it rounds nothing


def test_tritons_version_is_in_the_environment_fingerprint() -> None:
    about = {"device": torch.device("cpu"), "world_size": 1}
    plain = environment_fingerprint(**about)
    assert set(environment_fingerprint(**about, uses_triton=True)) - set(plain) == {"triton version"}


def test_triton_is_refused_where_it_cannot_run_and_never_chosen_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = {"numba", "triton", "gcc"}
    monkeypatch.setattr("medsum_core.kernels.find_spec", lambda name: "a spec" if name in installed else None)
    monkeypatch.setattr("medsum_core.kernels.shutil.which", lambda name: name if name in installed else None)
    monkeypatch.delenv("CC", raising=False)
    gpu = {"device_kind": "cuda", "model_type": "gemma"}
    assert resolve("triton", **gpu) == "triton" and resolve("auto", **gpu) == "reference"
    for missing, remedy in (("gcc", "install gcc"), ("triton", "pip install triton"), ("numba", "medsum-core")):
        installed.remove(missing)
        with pytest.raises(InputError, match=rf"--kernels triton.*{remedy}.*or use --kernels"):
            resolve("triton", **gpu)
    installed |= {"numba", "triton", "gcc"}
    with pytest.raises(InputError, match=r"needs a CUDA GPU.*on cpu.*--kernels fast"):
        resolve("triton", device_kind="cpu", model_type="gemma")
    with pytest.raises(InputError, match=r"--kernels triton: qwen2.*--kernels reference"):
        resolve("triton", device_kind="cuda", model_type="qwen2")
