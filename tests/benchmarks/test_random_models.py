"""The random models of the benchmarks have the sizes of the real ones."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from benchmarks.random_models import gemma_config, llama_config


@pytest.mark.parametrize(
    "config,num_parameters",
    [(gemma_config(tiny=False), 2_506_172_416), (llama_config(), 134_515_008)],
    ids=["google/gemma-2b-it", "HuggingFaceTB/SmolLM2-135M-Instruct"],
)
def test_random_models_have_the_published_number_of_parameters(config: PretrainedConfig, num_parameters: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
