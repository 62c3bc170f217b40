"""The compiled attention, in blocks of queries: equal to a dense mask, and for long documents it saves no attention weights."""

from __future__ import annotations

from typing import Any

import pytest
from attention_heads import DOCUMENTS, attend, make_heads
from torch import nn
from windows import relative, tensors_saved

from medsum_core.kernels.cpu.document_attention import attend_per_document
from medsum_core.model.attention import attend_block_mask

BOUND = 1e-5


@pytest.mark.parametrize(
    "options", [{}, {"sliding_window": 6}, {"softcap": 2.0}, {"sliding_window": 5, "softcap": 2.0}]
)
@pytest.mark.parametrize("block_queries", [4, 256])  # documents of 1 to 17 tokens: up to 5 blocks, or 1
@pytest.mark.parametrize("saved_tokens", [0, 8, 512])  # attention weights of none, some, all documents
def test_documents_of_several_blocks_equal_the_dense_mask(
    options: dict[str, Any], saved_tokens: int, block_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsum_core.kernels.cpu.document_attention.SAVED_TOKENS", saved_tokens)
    monkeypatch.setattr("medsum_core.kernels.cpu.document_attention.BLOCK_QUERIES", block_queries)
    found, gradients = attend(attend_per_document, **options)
    expected, expected_gradients = attend(attend_block_mask, eager=True, **options)
    assert relative(found, expected) <= BOUND
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, reference) <= BOUND


def test_long_documents_save_only_queries_keys_and_values_for_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medsum_core.kernels.cpu.document_attention.SAVED_TOKENS", 0)
    heads = [part.requires_grad_() for part in make_heads()]
    with tensors_saved() as saved:
        attend_per_document(nn.Module(), *heads, None, document_lengths=DOCUMENTS)
    assert {tensor.data_ptr() for tensor in saved} <= {
        part.data_ptr() for tensor in heads for part in tensor.unbind()
    }  # no scores: memory grows with the tokens, not with their square
