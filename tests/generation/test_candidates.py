"""The likeliest tokens of a row: a full sort of `log_softmax`, in vocabularies that are searched by groups and whole."""

from __future__ import annotations

import pytest
import torch

from medsum_core.generation.banned_tokens import Ban
from medsum_core.generation.candidates import GROUP_SIZE, candidates_of_logits


@pytest.mark.parametrize("banned", [False, True])
@pytest.mark.parametrize(
    ("vocabulary_size", "num_candidates"),
    [(5, 9), (300, 1), (3 * GROUP_SIZE, 1), (300, 3), (7 * GROUP_SIZE, 3)],  # the third and the last by groups
)
def test_candidates_are_the_first_of_all_log_probabilities_sorted(
    vocabulary_size: int, num_candidates: int, banned: bool
) -> None:
    chance = torch.Generator().manual_seed(vocabulary_size)
    logits = torch.randn(4, vocabulary_size, generator=chance) * 3
    logits[1] += 100.0  # exp() of it overflows
    logits[2, :2] += 20.0  # the likeliest tokens are neighbours
    expected = logits.log_softmax(-1)
    best = expected.argmax(-1).tolist()
    pairs = [(row, token) for row in (0, 3) for token in best] if banned else []
    for row, token in pairs:
        expected[row, token] = float("-inf")
    values_Mk = expected.sort(-1, descending=True).values[:, :num_candidates]
    found = candidates_of_logits(logits.clone(), num_candidates, Ban.of(pairs, device=logits.device))
    torch.testing.assert_close(found.log_probs_Mk, values_Mk, atol=1e-4, rtol=0)
    assert torch.equal(expected.gather(1, found.tokens_Mk), values_Mk)
    assert all(len(set(row)) == len(row) for row in found.tokens_Mk.tolist())  # equal values need two tokens


@pytest.mark.parametrize("vocabulary_size", [50, 3 * GROUP_SIZE])  # of 50 equal logits `topk` takes the 34th
def test_of_equal_logits_the_first_token_is_taken(vocabulary_size: int) -> None:
    logits = torch.zeros(2, vocabulary_size)
    first = vocabulary_size // 3
    logits[1, [first, vocabulary_size // 2, vocabulary_size - 1]] = 1.0
    assert candidates_of_logits(logits, 1).tokens_Mk.tolist() == [[0], [first]]


def test_16_bit_logits_get_log_probabilities_in_fp32() -> None:
    logits = torch.randn(2, 3 * GROUP_SIZE, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = candidates_of_logits(logits.clone(), 1)
    torch.testing.assert_close(found.log_probs_Mk[:, 0], logits.float().log_softmax(-1).amax(-1))
