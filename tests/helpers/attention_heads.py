"""Random heads, and what an attention function makes of them: output and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def make_heads(seed: int = 0, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Query (2, 4, 24, 16), key and value (2, groups, 24, 16), all differentiable."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, 24, 16, generator=generator)
    key, value = (torch.randn(2, groups, 24, 16, generator=generator) for _ in range(2))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


DOCUMENTS = ((5, 9, 10), (1, 17))  # the second row ends in 6 positions of padding


def attend(function: Callable[..., Any], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """A function's output without padding, and the gradients of query, key and value."""
    heads = make_heads(groups=options.pop("groups", 2))
    out, weights = function(nn.Module(), *heads, None, document_lengths=DOCUMENTS, scaling=0.2, **options)
    assert weights is None
    documents = torch.cat([out[0], out[1, :18]])
    probe = torch.randn(documents.shape, generator=torch.Generator().manual_seed(9))
    return documents.detach(), list(torch.autograd.grad((documents * probe).sum(), heads))
