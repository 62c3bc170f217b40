"""Kernel launches for a window of 16 rows of a model of Gemma 2B's shape, by name; needs no GPU.

`python benchmarks/launches.py --kernels fast --dequantize on` builds the model on the meta device (shapes, no data),
runs `train_step` of train_loop.py up to the gradient, and counts every operation that is not a view. NF4 counts as
bitsandbytes' three launches a weight. `--kernels triton` needs the package triton, and compiles nothing; of `graphs`
the second window is counted, and a replay as one launch. What `torch.autocast` adds on the reference path is not
counted: meta tensors have none.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "benchmarks")]

NUM_ROWS = 16
VOCABULARY = 256_000


def count_launches(kernels: str, *, dequantize: str, num_layers: int = 18) -> Counter[str]:
    """Launches by operation: 16 rows of about 240 tokens, 640 of them targets, packed into one micro-batch."""
    from meta_device import WaitRecorder, collating_aside, gradient_step, meta_patches, meta_run, recording
    from random_models import gemma_config
    from windows import make_example

    config = gemma_config(tiny=False)
    config.num_hidden_layers = num_layers
    rows = range(NUM_ROWS)
    window = [make_example(180 + 7 * row % 40, 30 + 5 * row % 20, seed=row, vocab=VOCABULARY) for row in rows]
    with meta_patches(), _counting_triton(Counter()) as by_triton, _counting_replays(by_triton):
        run = meta_run(config, "varlen", kernels=kernels, pack_tokens=8192, load_in_4bit=dequantize == "off")
        if kernels == "graphs":
            with collating_aside(WaitRecorder()) as collate:
                gradient_step(run, window, collate=collate)
            by_triton.clear()
        recorder = WaitRecorder()
        with collating_aside(recording(recorder)) as collate:
            gradient_step(run, window, collate=collate)
    return Counter(recorder.launches) + by_triton


@contextmanager
def _counting_triton(launches: Counter[str]) -> Iterator[Counter[str]]:
    """Triton's functions take meta tensors within the block; each kernel that they would launch is counted instead."""
    from medsum_core.kernels.layers import triton_choice

    with ExitStack() as patches:
        patches.enter_context(patch.object(triton_choice, "DEVICE_KINDS", ("cuda", "meta")))
        if find_spec("triton") is not None:
            from triton.runtime.jit import JITFunction

            def count(kernel: Any, *_: Any, **__: Any) -> None:
                launches[f"triton {kernel.__name__}"] += 1

            patches.enter_context(patch.object(JITFunction, "run", count))
        yield launches


@contextmanager
def _counting_replays(launches: Counter[str]) -> Iterator[None]:
    """Within the block a graph's function is called where it would be recorded; replays are counted, and do nothing."""
    from medsum_core.kernels.gpu import graphs

    def record(function: Callable[[], Any]) -> Callable[[], None]:
        function()
        return lambda: launches.update(["replay of a graph"])

    with patch.object(graphs, "CudaGraphs", lambda: record):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", choices=("reference", "fast", "triton", "graphs"), default="fast")
    parser.add_argument("--dequantize", choices=("on", "off"), default="on")
    args = parser.parse_args()
    launches = count_launches(args.kernels, dequantize=args.dequantize)
    print(f"{sum(launches.values())} launches, kernels {args.kernels}, NF4 unpacked once: {args.dequantize}")
    for name, count in launches.most_common(20):
        print(f"{count:6} {name}")


if __name__ == "__main__":
    main()
