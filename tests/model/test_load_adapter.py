"""transformers' own `base.load_adapter(folder)` reads the adapter folder, without a PeftModel around the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from windows import tuned

from medsum_core.model.adapter_files import adapter_config, adapter_tensors, save_adapter
from medsum_core.model.lora import LoraSettings

TOKENS_BT = torch.arange(6, 46).view(2, 20)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS_BT, use_cache=False).logits
    return found


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_transformers_loads_the_adapter_with_equal_logits(kind: str, tmp_path: Path) -> None:
    tiny_model(kind).save_pretrained(tmp_path / "base")
    model = tuned(tiny_model(kind), LoraSettings(r=8, dropout=0.05)).eval()
    save_adapter(tmp_path / "adapter", adapter_tensors(model), adapter_config(model))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    without = logits(plain)
    plain.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=2e-5)
    assert not torch.allclose(logits(plain), without, atol=1e-2)  # the adapter does something
