"""What the tests of a GPU share: the card, who is skipped without one, and the state in which a run has the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from accelerate.state import AcceleratorState

from medsum_core.device import AMPERE, find_device
from medsum_core.process import set_arithmetic

CUDA = torch.device("cuda", 0)
HAS_VARLEN = torch.cuda.is_available() and torch.cuda.get_device_capability() >= AMPERE
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_varlen = pytest.mark.skipif(not HAS_VARLEN, reason="the variable-length kernel needs capability 8.0")
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@contextmanager
def as_in_a_run() -> Iterator[None]:
    """Accelerate's device is the GPU, fp32 products are exact, and bits repeat; afterwards nothing of it is left."""
    AcceleratorState._reset_state(reset_partial_state=True)
    set_arithmetic(find_device(), precision="fp32")
    yield
    torch.use_deterministic_algorithms(False)
    AcceleratorState._reset_state(reset_partial_state=True)
