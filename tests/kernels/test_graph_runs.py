"""Whole runs with `--kernels graphs`, on a CPU: its operations are recorded and repeated instead of a GPU's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_operations import record
from tiny_run import contents, exit_code, flags
from triton_standin import standin

from benchmarks.forked_runs import make_inputs
from medsum_core.kernels import choose
from medsum_core.kernels.gpu import graphs
from medsum_core.training import auto_settings, setup
from medsum_core.training.loss import note_nll

GRAPHS = ("--kernels", "graphs", "--attention", "sdpa", "--pack_tokens", "240", "--save_total_limit", "9")


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(auto_settings, "resolve_kernels", lambda asked, **_: asked)
    monkeypatch.setattr(setup, "choose", lambda name, kind: choose(name, "cuda"))
    monkeypatch.setattr(graphs, "CudaGraphs", lambda: record)
    with standin():
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def test_a_run_resumed_in_the_middle_ends_in_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    each = (*GRAPHS, "--save_strategy", "steps", "--save_steps", "1")
    assert exit_code(flags(inputs, straight, *each)) == 0
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "adapter")
    for step in (2, 3):
        shutil.rmtree(resumed / "checkpoints" / f"step-{step:06d}")
    assert exit_code(flags(inputs, resumed, *each, "--resume_from_checkpoint", "auto")) == 0
    assert contents(resumed / "adapter") == contents(straight / "adapter")


@pytest.mark.parametrize("wrong", [("--attention", "per_document"), ("--pack_tokens", "0")])
def test_settings_that_a_graph_cannot_repeat_write_nothing(
    inputs: Path, tmp_path: Path, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(flags(inputs, tmp_path / "run", *GRAPHS, *wrong)) == 2
    assert "use --kernels triton" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_an_objective_of_ones_own_writes_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def own(*tensors: Any, **options: Any) -> Any:
        return note_nll(*tensors, **options)

    assert exit_code(flags(inputs, tmp_path / "run", *GRAPHS), objective=own) == 2
    assert "use --kernels triton" in capsys.readouterr().err and not (tmp_path / "run").exists()
