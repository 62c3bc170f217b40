"""The kernels' memory is aligned and contiguous, and reused only once nothing refers to it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from medsum_core.kernels.cpu import arena
from medsum_core.kernels.cpu.arena import (
    ALIGNMENT,
    ARENA_BYTES,
    GRADIENTS,
    LARGEST_BLOCK,
    empty,
    empty_for_backward,
    empty_like,
    lasting_copy,
    mm,
    return_free_blocks,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [empty, empty_for_backward])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 64), (0, 4), (300, 700)])
def test_a_tensor_is_aligned_contiguous_and_writable(
    make: Callable[..., torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    made = make(shape, dtype=dtype, device=torch.device("cpu"))
    assert (made.shape, made.dtype, made.is_contiguous()) == (shape, dtype, True)
    assert made.data_ptr() % ALIGNMENT == 0
    assert bool((made.fill_(2) == 2).all())


def test_a_tensor_like_a_transposed_one_is_contiguous() -> None:
    like = empty_like(torch.zeros(4, 6).t(), dtype=torch.bfloat16)
    assert (like.shape, like.dtype, like.is_contiguous()) == ((6, 4), torch.bfloat16, True)


def test_other_devices_use_their_own_allocator() -> None:
    assert empty((2, 3), dtype=torch.float32, device=torch.device("meta")).is_meta


@pytest.fixture(autouse=True)
def _without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_blocks", {})
    monkeypatch.setattr(arena.ACTIVATIONS, "block", None)
    monkeypatch.setattr(arena.GRADIENTS, "block", None)


def block() -> torch.Tensor:
    return empty((512, 640), dtype=torch.float32, device=CPU)


def test_a_block_is_reused_once_nothing_refers_to_it() -> None:
    first = block()
    address, view = first.data_ptr(), first.view(-1)[5:]
    del first
    second = block()
    assert second.data_ptr() != address  # a view still refers to the first one's memory
    del view
    assert block().data_ptr() == address


def test_a_block_in_use_by_another_thread_is_not_reused() -> None:
    with ThreadPoolExecutor(4) as pool:
        held = list(pool.map(lambda _: block(), range(64)))
    assert len({tensor.data_ptr() for tensor in held}) == 64


def test_tensors_for_backward_are_adjacent_in_arenas_that_are_reused_as_a_whole() -> None:
    def fill() -> list[torch.Tensor]:
        return [empty_for_backward((2**20,), dtype=torch.uint8, device=CPU) for _ in range(40)]  # 2.5 arenas

    held = fill()
    assert [len(blocks) for blocks in arena._blocks.values()] == [3]
    starts = [tensor.data_ptr() for tensor in held[:16]]
    assert [start - starts[0] for start in starts] == [index * 2**20 for index in range(16)]
    del held[1:16]  # one tensor of the first arena is left
    more = fill()
    assert not {tensor.data_ptr() for tensor in more} & set(starts)
    assert len(arena._blocks[ARENA_BYTES]) == 5
    del held, more
    for _ in range(4):
        fill()
    assert len(arena._blocks[ARENA_BYTES]) == 5


def test_gradients_do_not_keep_the_arenas_of_activations_in_use() -> None:
    gradients = []
    for _ in range(40):  # layers whose activations are recomputed
        activations = empty_for_backward((2**22,), dtype=torch.uint8, device=CPU)
        gradients.append(empty_for_backward((2**18,), dtype=torch.uint8, device=CPU, arena=GRADIENTS))
        assert activations.fill_(1).sum().item() == activations.numel()
        del activations
    assert len(arena._blocks[ARENA_BYTES]) == 1
    assert [len(gradients), len(arena._blocks[LARGEST_BLOCK])] == [40, 3]


def test_a_tensor_larger_than_a_block_is_returned_to_the_system() -> None:
    held = empty((LARGEST_BLOCK + 2,), dtype=torch.uint8, device=CPU)
    assert held.fill_(1).sum().item() == held.numel()
    assert not arena._blocks


def test_without_huge_pages_ordinary_pages_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)  # unknown advice: EINVAL, as without huge pages
    assert empty((LARGEST_BLOCK + 2,), dtype=torch.uint8, device=CPU).fill_(1).all()


def test_unused_blocks_are_returned_to_the_system() -> None:
    held, free = block(), block()
    del free
    return_free_blocks()
    assert [len(blocks) for blocks in arena._blocks.values()] == [1]
    assert held.fill_(1).sum().item() == held.numel()


def test_a_lasting_copy_has_the_same_bits() -> None:
    for x in (torch.randn(100, 64), torch.randn(3), torch.randn(100, 64).bfloat16()):
        assert torch.equal(lasting_copy(x), x) and lasting_copy(x).data_ptr() != x.data_ptr()
    assert lasting_copy(torch.empty(4096, device="meta")).is_meta


def test_mm_is_bit_identical_to_torchs_and_has_no_gradient() -> None:
    a, b = torch.randn(200, 300, requires_grad=True), torch.randn(300, 100)
    assert torch.equal(mm(a, b), a @ b) and not mm(a, b).requires_grad
