"""The README's two worked examples, as printed there: another loss, another collator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from medsum_core.data.collator import split_window
from medsum_core.data.masking import Example
from medsum_core.training.loss import note_nll

README = Path(__file__).parents[2] / "README.md"


def _example(name: str) -> object:
    """The function `name` of the README's code, without its last line, which would start a run."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [block for block in blocks if f"def {name}(" in block]
    assert code.rstrip().splitlines()[-1].startswith("train_loop.main([")
    scope: dict[str, object] = {}
    exec("\n".join(code.rstrip().splitlines()[:-1]), scope)
    return scope[name]


def _rows(*lengths: int) -> list[Example]:
    return [
        Example(
            id=str(length),
            input_ids=tuple(range(1, length + 1)),
            targets=(*[-100] * (length - 2), 7, -100),
            num_prompt_tokens=length - 1,
            num_turns_dropped=0,
        )
        for length in lengths
    ]


def test_the_other_loss_is_the_notes_loss_plus_its_penalty() -> None:
    z_loss = _example("z_loss")
    torch.manual_seed(0)
    hidden_BTH, head_VH = torch.randn(1, 4, 8, requires_grad=True), torch.randn(16, 8)
    targets_BT = torch.tensor([[-100, 3, 5, -100]])
    logits_NV = hidden_BTH[0, 1:3] @ head_VH.T
    expected = note_nll(hidden_BTH, targets_BT, head_VH) + 1e-4 * logits_NV.logsumexp(-1).square().sum()
    found = z_loss(hidden_BTH, targets_BT, head_VH, softcap=None)  # type: ignore[operator]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert hidden_BTH.grad is not None and not hidden_BTH.grad[0, 0].any() and hidden_BTH.grad[0, 1].any()


def test_the_other_collator_keeps_every_row_and_every_target() -> None:
    by_length, rows = _example("by_length"), _rows(9, 3, 7, 5, 4)
    settings = {"batch_size": 1, "pack_tokens": 64, "pad_token_id": 0}
    found = by_length(rows, **settings)  # type: ignore[operator]
    assert [batch.ids for batch in found] == [("3", "4", "5", "7"), ("9",)]
    assert sum(batch.num_targets for batch in found) == sum(b.num_targets for b in split_window(rows, **settings))
