"""The loss computed from note positions only, against cross-entropy over the full logits of every position."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from windows import relative

from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.training import loss as loss_module
from medsum_core.training.loss import note_nll, note_token_nll

BATCH, NUM_TOKENS, HIDDEN, VOCAB = 3, 13, 32, 211


def make_case(wanted: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets and head; `wanted` says which positions have a target."""
    generator = torch.Generator().manual_seed(3)
    hidden_BTH = torch.randn(BATCH, NUM_TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    head_VH = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
    targets_BT = torch.randint(VOCAB, (BATCH, NUM_TOKENS), generator=generator)
    if wanted == "none":
        targets_BT[:] = IGNORE_INDEX
    elif wanted == "mixed":  # the first row has no target, the second half of them, the third all
        targets_BT[0] = IGNORE_INDEX
        targets_BT[1, :7] = IGNORE_INDEX
    return hidden_BTH, targets_BT, head_VH


def use_tiles(monkeypatch: pytest.MonkeyPatch, num_rows: int, num_words: int) -> None:
    monkeypatch.setattr(loss_module, "CPU_TILE", (num_rows, num_words))


def full_logits_loss(hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, softcap: float | None) -> Tensor:
    logits = hidden_BTH @ head_VH.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("tile", [(1, 8192), (7, 50), (10_000, 1), (256, 210), (256, 8192)])  # 211 words in all
@pytest.mark.parametrize("wanted", ["mixed", "all", "none"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_loss_and_gradient_equal_full_logits(
    softcap: float | None,
    wanted: str,
    tile: tuple[int, int],
    dtype: torch.dtype,
    bound: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_tiles(monkeypatch, *tile)
    hidden, targets, head = make_case(wanted, dtype)
    expected = full_logits_loss(hidden, targets, head, softcap)
    (expected_gradient,) = torch.autograd.grad(expected * 0.37, hidden)
    found = note_nll(hidden, targets, head, softcap=softcap)
    (gradient,) = torch.autograd.grad(found * 0.37, hidden)
    assert found.dtype == dtype
    assert relative(found, expected) <= bound
    assert relative(gradient, expected_gradient) <= bound
    if wanted == "none":
        assert found == 0 and not gradient.any()
    assert not gradient[targets == IGNORE_INDEX].any()


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_positions_without_a_target_count_nothing_where_they_are_read_too(softcap: float | None) -> None:
    hidden, targets, head = make_case("mixed")
    expected = full_logits_loss(hidden, targets, head, softcap)
    (expected_gradient,) = torch.autograd.grad(expected, hidden)
    all_positions = torch.arange(targets.numel()).flip(0)
    found = note_nll(hidden, targets, head, softcap=softcap, read_M=all_positions)
    (gradient,) = torch.autograd.grad(found, hidden)
    assert relative(found, expected) <= 1e-5 and relative(gradient, expected_gradient) <= 1e-5
    assert not gradient[targets == IGNORE_INDEX].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_hidden_states_give_a_loss_in_fp32(dtype: torch.dtype) -> None:
    hidden, targets, head = make_case("mixed", dtype)
    found = note_nll(hidden, targets, head)
    expected = full_logits_loss(hidden.float(), targets, head.float(), None)
    assert found.dtype == torch.float32
    assert relative(found, expected) < 5e-3


def test_a_flat_distribution_over_a_large_vocabulary_does_not_overflow_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiles(monkeypatch, 1, 150_000)
    # Before their division by the sum the exponentials add up to 150,000 x 0.6 here, above fp16's maximum of 65,504.
    head = torch.full((150_000, 4), 0.6, dtype=torch.float16)
    hidden = torch.zeros(1, 1, 4, dtype=torch.float16, requires_grad=True)
    (gradient,) = torch.autograd.grad(note_nll(hidden, torch.tensor([[3]]), head), hidden)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-2  # p x 0.6 summed, less 0.6


def test_a_confident_target_keeps_its_small_gradient_in_16_bits() -> None:
    # p is about 0.999: the gradient is the difference of nearly equal sums, and 16 bits would round each before it.
    generator = torch.Generator().manual_seed(4)
    head = torch.randn(VOCAB, HIDDEN, generator=generator).to(torch.bfloat16)
    targets = torch.tensor([[5]])
    hidden = (head[5] * 0.55)[None, None].clone().requires_grad_()
    (found,) = torch.autograd.grad(note_nll(hidden, targets, head), hidden)
    exact = hidden.detach().double().requires_grad_()
    loss = full_logits_loss(exact, targets, head.double(), None)
    (expected,) = torch.autograd.grad(loss, exact)
    assert 1e-4 < loss < 1e-2
    assert relative(found, expected) < 3e-2


@pytest.mark.parametrize(
    "dtype,factor,small", [(torch.bfloat16, 1 / 1500, 1.0), (torch.float16, 2.0**17, 2.0**10)], ids=["bf16", "fp16"]
)
def test_the_factor_on_the_loss_is_not_rounded_to_the_hidden_states_dtype(
    dtype: torch.dtype, factor: float, small: float
) -> None:
    # 1/1500 in bf16 is 0.2 % off, for every gradient of the window alike; fp16 ends at 65,504, below a scaler's factor.
    hidden, targets, head = make_case("mixed", dtype)
    head = head / 100
    (plain,) = torch.autograd.grad(note_nll(hidden, targets, head) * small, hidden)
    (scaled,) = torch.autograd.grad(note_nll(hidden, targets, head) * factor, hidden)
    assert torch.equal(scaled, (plain.float() * (factor / small)).to(dtype))
    assert torch.isfinite(scaled).all()


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("wanted_nll", [1e-2, 1e-3, 1e-4])
def test_a_grad_scalers_factor_keeps_the_small_gradient_of_a_confident_note_in_fp16(
    wanted_nll: float, softcap: float | None
) -> None:
    # At a loss of 1e-4 the gradient of each logit is about 5e-7, and that of the hidden state, after the product with the
    # head, about 1e-9. fp16 rounds all numbers below 3e-8 to 0, so the scaler must multiply 1e-9 before it is rounded.
    generator = torch.Generator().manual_seed(4)
    head = (torch.randn(VOCAB, 1024, generator=generator) * 0.002).half()  # its rows are nearly orthogonal
    targets = torch.arange(7)[None]
    logit = math.log(VOCAB / wanted_nll)  # where the other words' logits are about 0
    logit = logit if softcap is None else softcap * math.atanh(logit / softcap)
    aimed = head[:7].double() / head[:7].double().square().sum(-1, keepdim=True) * logit
    hidden = aimed[None].half().requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    loss = full_logits_loss(exact, targets, head.double(), softcap)
    assert wanted_nll / 3 < loss / 7 < wanted_nll * 3
    factor = 65536 / 7
    (expected,) = torch.autograd.grad(loss * factor, exact)
    (found,) = torch.autograd.grad(note_nll(hidden, targets, head, softcap=softcap) * factor, hidden)
    assert found.dtype == torch.float16
    assert relative(found, expected) < 1e-2


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_loss_of_each_target_adds_up_to_the_sum(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, targets, head = make_case("mixed")
    use_tiles(monkeypatch, 4, 50)
    nll_N = note_token_nll(hidden, targets, head, softcap=softcap)
    logits = (hidden @ head.T).detach()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    wanted = targets != IGNORE_INDEX
    expected_N = cross_entropy(logits[wanted], targets[wanted], reduction="none")
    torch.testing.assert_close(nll_N, expected_N)
    assert not nll_N.requires_grad
    assert note_token_nll(hidden, torch.full_like(targets, IGNORE_INDEX), head).shape == (0,)


def test_only_target_positions_reach_the_head_a_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles_seen: list[tuple[int, int]] = []

    class Counted(loss_module.TorchArithmetic):
        def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
            tiles_seen.append((len(hidden_CH), len(head_WH)))
            return super().product(hidden_CH, head_WH, out=out)

    use_tiles(monkeypatch, 8, 100)
    hidden, targets, head = make_case("mixed")
    assert int((targets != IGNORE_INDEX).sum()) == 19
    note_nll(hidden, targets, head, arithmetic=Counted())
    assert tiles_seen == [(rows, words) for rows in (8, 8, 3) for words in (100, 100, 11)]


def test_a_head_that_trains_is_refused() -> None:
    hidden, targets, head = make_case("mixed")
    with pytest.raises(ValueError, match="frozen"):
        note_nll(hidden, targets, head.requires_grad_())


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    hidden, targets, head = make_case("mixed")
    (gradient,) = torch.autograd.grad(note_nll(hidden, targets, head).square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
