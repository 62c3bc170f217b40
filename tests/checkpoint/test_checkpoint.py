"""Checkpoints are read back bit for bit, and training continues bit for bit."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import ALL_FILES, names, nf4_model, save
from peft import PeftModel
from transformers import AutoModelForCausalLM

from medsum_core.checkpoint.checkpoint import Progress, load_checkpoint
from medsum_core.checkpoint.rng import capture_rng, restore_rng, start_rng
from medsum_core.errors import InputError
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter_tensors
from medsum_core.model.lora import trainable_parameters
from medsum_core.training.optimizer import build_optimizer
from medsum_core.training.optimizer_state import load_optimizer_state, optimizer_state


def test_a_checkpoint_is_read_back_unchanged_and_is_private(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        path = save(tmp_path / "checkpoints", 3)
    finally:
        os.umask(former)
    found = load_checkpoint(path)
    assert path.name == "step-000003"
    assert found.progress == Progress(step=3, epoch=0, window=3, best_metric=0.1 + 0.2)
    expected = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).t()
    assert torch.equal(found.adapter_tensors["layer.lora_A.weight"], expected)
    assert found.optimizer_tensors["layer.state1"].dtype == torch.uint8
    assert (found.adapter_config, found.rng, found.resolved) == ({"r": 4}, [{"torch": "00"}], {"precision": "fp32"})
    assert (found.optimizer_scalars["steps"], found.scaler) == ({"layer": 3}, {"scale": 65536.0})
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}
    assert names(path) == sorted(ALL_FILES)


def test_every_random_generator_continues_where_it_was() -> None:
    random.gauss(0, 1)  # gauss caches a second value, which is part of the state
    np.random.standard_normal()
    state = json.loads(json.dumps(capture_rng()))
    first = draw()
    restore_rng(state)
    assert draw() == first


def draw() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), np.random.standard_normal(5).tolist(), torch.randn(5).tolist()


def test_every_random_generator_begins_anew_from_all_the_numbers_given() -> None:
    found = []
    for numbers in ((1, 2), (1, 2), (1, 3), (0, 2)):
        start_rng(*numbers)
        found.append(draw())
    assert found[0] == found[1]
    for other in found[2:]:
        assert all(one != two for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("missing", ["python", "numpy", "torch"])
def test_a_missing_generator_state_is_an_error(missing: str) -> None:
    state = capture_rng()
    del state[missing]
    with pytest.raises(InputError, match="random state"):
        restore_rng(state)


def test_a_generator_state_of_another_size_is_an_error() -> None:
    with pytest.raises(InputError, match="choose another one"):
        restore_rng({**capture_rng(), "torch": "00"})


def train_some(model: PeftModel, optimizer: torch.optim.Optimizer, num_steps: int) -> list[float]:
    losses = []
    for _ in range(num_steps):
        ids = torch.randint(0, 512, (2, 12))  # drawn from the restored generator, as dropout is
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_nf4_with_dropout_and_8bit_state_continues_bit_for_bit(base_folder: Path, tmp_path: Path) -> None:
    def start() -> tuple[PeftModel, torch.optim.Optimizer, list[str]]:
        model = nf4_model(base_folder)
        trained = trainable_parameters(model)
        optimizer = build_optimizer(trained, name="paged_adamw_8bit", learning_rate=5e-3)
        return model, optimizer, [name for name, _ in trained]

    model, optimizer, trained_names = start()
    train_some(model, optimizer, 3)
    tensors, scalars = optimizer_state(optimizer, trained_names)
    assert {tensor.dtype for key, tensor in tensors.items() if ".state" in key} == {torch.uint8, torch.float32}
    path = save(
        tmp_path,
        3,
        adapter_tensors=adapter_tensors(model),
        adapter_config=adapter_config(model),
        optimizer_tensors=tensors,
        optimizer_scalars=scalars,
        rng=[capture_rng()],
    )
    straight_losses = train_some(model, optimizer, 4)
    straight_state, _ = optimizer_state(optimizer, trained_names)

    torch.manual_seed(99)
    resumed, second, _ = start()
    found = load_checkpoint(path)
    load_adapter_tensors(resumed, found.adapter_tensors)
    load_optimizer_state(second, trained_names, found.optimizer_tensors, found.optimizer_scalars)
    restore_rng(found.rng[0])
    assert train_some(resumed, second, 4) == straight_losses
    resumed_state, _ = optimizer_state(second, trained_names)
    straight_adapter = adapter_tensors(model)
    assert all(torch.equal(tensor, straight_adapter[name]) for name, tensor in adapter_tensors(resumed).items())
    assert straight_state.keys() == resumed_state.keys()
    assert all(torch.equal(tensor, resumed_state[name]) for name, tensor in straight_state.items())
    # PEFT's own loader takes the folder as an adapter.
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), str(path))
    assert all(torch.equal(tensor, found.adapter_tensors[name]) for name, tensor in adapter_tensors(plain).items())
