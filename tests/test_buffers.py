"""Memory for tensors of our own: where it starts, what it looks like, and that it serves again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from medsum_core.buffers import ALIGNMENT, empty, empty_like

SAME_SIZE_TWICE = """
import torch
from medsum_core.buffers import empty

new = lambda: empty((1024, 1024), dtype=torch.uint8, device=torch.device("cpu"))
new()  # its end raises the size from which glibc maps pages of their own
others = [new() for _ in range(8)]
places = {tensor.data_ptr() for tensor in others[::2]}
for index in range(0, 8, 2):
    others[index] = None  # every second one: no two holes merge
print(places == {new_one.data_ptr() for new_one in [new() for _ in range(4)]})
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 64), (0, 4)])
def test_a_buffer_is_aligned_contiguous_and_writable(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = empty(shape, dtype=dtype, device=torch.device("cpu"))
    assert (made.shape, made.dtype, made.is_contiguous()) == (shape, dtype, True)
    assert made.data_ptr() % ALIGNMENT == 0
    assert made.fill_(2).sum().item() == 2 * made.numel()


def test_a_buffer_like_a_transposed_tensor_is_contiguous() -> None:
    like = empty_like(torch.zeros(4, 6).t(), dtype=torch.bfloat16)
    assert (like.shape, like.dtype, like.is_contiguous()) == ((6, 4), torch.bfloat16, True)


def test_other_devices_have_their_own_allocator() -> None:
    assert empty((2, 3), dtype=torch.float32, device=torch.device("meta")).is_meta


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_a_buffer_leaves_serves_one_of_its_size_again() -> None:
    done = subprocess.run([sys.executable, "-c", SAME_SIZE_TWICE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
