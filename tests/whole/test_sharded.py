"""A base that FSDP shards over two processes has the gradient of one process and the bytes of two with a whole base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sharded_pairs import WINDOWS, window_gradients
from tiny_run import contents, flags, make_canary_inputs, metrics
from windows import relative

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = "adapter/adapter_model.safetensors"
# Three windows, of 4, 4 and 2 rows; with dropout, so that random states matter.
OPTIONS = (
    "--load_in_4bit true --gradient_accumulation_steps 2 --save_strategy steps --save_steps 1 --save_total_limit 9"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_canary_inputs(tmp_path_factory.mktemp("inputs"))


def in_pairs(inputs: Path, folder: Path, *jobs: list[str]) -> None:
    """Run the jobs in order, each on two processes, which must end with exit code 0."""
    helpers = ROOT / "tests" / "helpers"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{helpers}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(helpers / "sharded_pairs.py"), str(inputs), str(folder), json.dumps(jobs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.stdout.split() == ["[0,", "0]"] * len(jobs), done.stderr[-3000:]


def test_a_sharded_base_has_the_gradient_of_a_whole_one_and_runs_resume_either_way(
    inputs: Path, tmp_path: Path
) -> None:
    run, resume = OPTIONS.split(), [*OPTIONS.split(), "--resume_from_checkpoint", "auto"]
    folders = {name: tmp_path / name for name in ("whole", "sharded", "whole2", "sharded2")}
    in_pairs(
        inputs,
        tmp_path,
        ["gradients"],
        ["run", "whole", *flags(inputs, folders["whole"], *run, "--kernels", "reference", "--dequantize", "off")],
        ["run", "sharded", *flags(inputs, folders["sharded"], *run)],
        ["break", str(folders["sharded"]), str(folders["whole2"])],
        ["run", "whole", *flags(inputs, folders["whole2"], *resume)],
        ["break", str(folders["whole"]), str(folders["sharded2"])],
        ["run", "sharded", *flags(inputs, folders["sharded2"], *resume)],
    )

    for in_4bit in (False, True):
        expected = window_gradients(inputs, in_4bit=in_4bit, shard=False)  # of one process
        for rank in (0, 1):
            found = load_file(tmp_path / f"{rank}.safetensors")
            kept, all_elements = found[f"{in_4bit}.kept"].tolist()
            assert all_elements > 0 and 0.45 < kept / all_elements < 0.55
            for window in WINDOWS:
                names = [name for name in expected if name.startswith(f"{window}.")]
                assert len(names) == 1 + 2 * 7 * 2
                pairs = [found[f"{in_4bit}.{name}"] for name in names], [expected[name] for name in names]
                assert relative(*pairs) <= 1e-6, (in_4bit, window)

    reference = contents(folders["whole"])
    assert contents(folders["sharded"]).keys() == reference.keys()
    assert contents(folders["sharded"])[ADAPTER] == reference[ADAPTER]
    assert [line.get("eval_loss") for line in metrics(folders["sharded"])] == [
        line.get("eval_loss") for line in metrics(folders["whole"])
    ]

    for name in ("whole2", "sharded2"):
        assert contents(folders[name])[ADAPTER] == reference[ADAPTER]
