"""Gemma 3 4B, 12B and 27B, tuned on text: packed like their text model; their vision tower gets no adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import gpu
from image_models import image_config, image_model
from support import TINY_VOCAB, tiny_config
from torch.nn.functional import cross_entropy
from transformers import Gemma3ForConditionalGeneration
from windows import NO_DROPOUT, make_example, make_run, make_window, plain_peft, randomise_adapter, relative

from medsum_core.config.run_config import RunConfig, parse_run
from medsum_core.data.collator import pack_rows
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import hidden_states
from medsum_core.model.lora import attach_lora, fit_to, trainable_parameters
from medsum_core.training.auto_settings import resolve_arithmetic, resolve_memory
from medsum_core.training.memory import measure_model
from train_loop import train_step

BOUND = 1e-5
LENGTHS = (3, 8, 9, 21)  # around the sliding window of 8


@pytest.fixture(scope="module")
def base() -> Gemma3ForConditionalGeneration:
    return image_model()


@pytest.mark.parametrize("kernel", ["per_document", "sdpa", "eager"])
def test_packed_documents_equal_each_alone(base: Gemma3ForConditionalGeneration, kernel: str) -> None:
    documents = [make_example(length - 2, 2, seed=length) for length in LENGTHS]
    with torch.no_grad(), document_attention(base, kernel):
        packed = hidden_states(base, pack_rows(documents))[0].split(LENGTHS)
    for found, document in zip(packed, documents, strict=True):
        with torch.no_grad():
            own = base.model(input_ids=torch.tensor([document.input_ids]), use_cache=False)
        assert relative(found, own.last_hidden_state[0]) <= BOUND


def test_a_packed_window_trains_every_adapter_and_the_tower_has_none() -> None:
    rows, settings = make_window(6, vocab=TINY_VOCAB - 112), fit_to(image_model(), NO_DROPOUT)
    ours = randomise_adapter(attach_lora(image_model().requires_grad_(False), settings, base_name="tiny"))
    theirs = plain_peft(image_model(), ours, settings)
    tower = [name for name, _ in ours.named_modules() if "vision_tower" in name and name.endswith("q_proj")]
    trained = [name for name, _ in trainable_parameters(ours)]
    assert tower and len(trained) == 2 * 7 * 2 and not any("vision" in name or "projector" in name for name in trained)
    run = make_run(ours, pack_tokens=64, kernels="reference")
    stats = train_step(run, rows, learning_rate=0.0)
    gradients: Any = run.optimizer.gradients  # type: ignore[attr-defined]
    assert all(gradient.abs().max() > 0 for gradient in gradients) and len(gradients) == len(trained)
    losses = []
    for row in rows:  # each alone, by transformers and PEFT
        ids_1T = torch.tensor([row.input_ids])
        logits = theirs(input_ids=ids_1T, token_type_ids=torch.zeros_like(ids_1T), use_cache=False).logits[0]
        losses.append(cross_entropy(logits, torch.tensor(row.targets), ignore_index=IGNORE_INDEX, reduction="sum"))
    loss = torch.stack(losses).sum() / sum(row.num_targets for row in rows)
    expected = torch.autograd.grad(loss, [parameter for _, parameter in trainable_parameters(theirs)])
    assert abs(stats.loss - loss.item()) <= BOUND * loss.item()
    assert relative(gradients, expected) <= BOUND


@pytest.mark.parametrize(
    ("capability", "attention", "precision"), [((8, 0), "varlen", "bf16"), ((7, 5), "per_document", "fp32")]
)
def test_automatic_settings_are_those_of_the_text_model(
    capability: tuple[int, int], attention: str, precision: str
) -> None:
    device = gpu(capability)
    asked = parse_run(["--preset", "demo", "--max_length", "256"])

    def resolved(config: Any) -> RunConfig:
        run = resolve_arithmetic(asked, config, device, asked=asked)
        size = measure_model(config, NO_DROPOUT, precision=run.model.precision, kernels=run.model.kernels)
        assert size.tower == 0  # it stays loaded, so it counts among the other weights
        return resolve_memory(run, config.model_type, device, size, asked=asked)

    beside, alone = resolved(image_config()), resolved(tiny_config("gemma3_text"))
    assert (beside.model.attention, beside.model.precision) == (attention, precision)
    assert beside.train.pack_tokens == alone.train.pack_tokens == 8 * 256
    assert beside.settings() == alone.settings()
