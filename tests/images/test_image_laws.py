"""Rows with images: packed = alone = transformers' forward from pixels, with bidirectional attention within an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from image_models import image_window
from image_pair import Pair
from torch import Tensor
from transformers import GenerationConfig
from windows import make_run, relative

from medsum_core.data.collator import pack_rows, pad_rows
from medsum_core.data.masking import Example
from medsum_core.generation import kv_cache
from medsum_core.generation.generate import generate
from medsum_core.model import attention
from medsum_core.model.attention import document_attention, find_image_runs
from medsum_core.model.forward import hidden_states, inner_model
from medsum_core.model.lora import trainable_parameters
from train_loop import train_step

BOUND = 1e-5


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def their_hidden(pair: Pair, row: Example) -> Tensor:
    with torch.no_grad():
        return pair.theirs.model(**pair.inputs(row.input_ids), use_cache=False).last_hidden_state[0]


def our_hidden(pair: Pair, batch: Any, kernel: str = "per_document") -> Tensor:
    with torch.no_grad(), document_attention(pair.ours, kernel):
        return hidden_states(pair.ours, batch)


def worst(pair: Pair, kernel: str) -> float:
    """The largest relative difference of a row, packed or padded, from transformers' own forward of it alone."""
    lengths = [row.num_tokens for row in pair.rows]
    packed = our_hidden(pair, pack_rows(pair.rows), kernel)[0].split(lengths)
    padded = our_hidden(pair, pad_rows(pair.rows, pad_token_id=7), kernel)
    expected = [their_hidden(pair, row) for row in pair.rows]
    return max(
        relative(found, own)
        for number, own in enumerate(expected)
        for found in (packed[number], padded[number, : lengths[number]])
    )


@pytest.mark.parametrize("kernel", ["per_document", "sdpa", "eager"])
def test_packed_and_padded_rows_equal_transformers_own_forward_from_pixels(pair: Pair, kernel: str) -> None:
    assert worst(pair, kernel) <= BOUND


@pytest.mark.parametrize("omitted", ["both ways", "window", "image numbers"])
def test_each_part_of_the_mask_matters_to_the_comparison(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, omitted: str
) -> None:
    """Each of these mistakes changes some row by more than 100 times the bound of the test above."""
    own = attention.seen_mask

    def without_windows(*args: Any, **kwargs: Any) -> Tensor:
        return own(*args, **{**kwargs, "window": None})

    def one_image(ids_BT: Tensor) -> Tensor:
        return find_image_runs(ids_BT).clamp(max=0)

    if omitted == "both ways":
        monkeypatch.setattr("medsum_core.model.forward.image_options", lambda *_: {})
    elif omitted == "window":
        monkeypatch.setattr(attention, "seen_mask", without_windows)
    else:
        monkeypatch.setattr("medsum_core.model.forward.find_image_runs", one_image)
    assert worst(pair, "per_document") > 100 * BOUND


def test_cached_features_equal_those_from_pixels_bit_for_bit(pair: Pair) -> None:
    for key, pixels in pair.pixels.items():
        with torch.no_grad():
            own = pair.theirs.get_image_features(pixels, return_dict=True).pooler_output[0]
        assert torch.equal(own, pair.features[key])
        ids = torch.tensor([[9, *pair.images.ids([key]), 9]])
        read = inner_model(pair.ours).get_input_embeddings()(ids)[0, 1:-1]
        assert torch.equal(read, own)


@pytest.mark.parametrize("pack_tokens", [0, 64, 400])
def test_loss_and_gradient_of_a_window_equal_those_of_transformers(pair: Pair, pack_tokens: int) -> None:
    ours, theirs = pair.tuned()
    run = make_run(ours, pack_tokens=pack_tokens, kernels="reference", batch_size=2)
    stats = train_step(run, pair.rows, learning_rate=0.0)
    loss, expected = pair.reference_gradient(theirs)
    assert abs(stats.loss - loss) <= BOUND * loss
    assert relative(run.optimizer.gradients, expected) <= BOUND


def test_only_the_language_model_has_an_adapter(pair: Pair) -> None:
    ours, _ = pair.tuned()
    assert all(".language_model.layers." in name for name, _ in trainable_parameters(ours))
    assert not any("vision_tower" in name or "projector" in name for name, _ in ours.named_parameters())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_notes_from_cached_features_equal_those_of_transformers_generate(pair: Pair, batch_size: int) -> None:
    prompts = [row.prompt_ids for row in pair.rows]
    notes = generate(pair.ours, prompts, stop_token_ids=(1,), max_new_tokens=8, batch_size=batch_size)
    wanted = {"output_logits": True, "return_dict_in_generate": True}
    plain = GenerationConfig(do_sample=False, max_new_tokens=8, eos_token_id=1, pad_token_id=0, **wanted)
    for prompt, note in zip(prompts, notes, strict=True):
        output = pair.theirs.generate(**pair.inputs(prompt), generation_config=plain)
        own = output.sequences[0, len(prompt) :].tolist()
        assert list(note.token_ids) == own[: len(note.token_ids)]
        assert own[len(note.token_ids) :] in ([], [1])
        log_probs = torch.cat(output.logits).log_softmax(-1)
        score = sum(log_probs[step, token].item() for step, token in enumerate(own))
        assert note.score == pytest.approx(score, abs=1e-4)  # the tokens alone could agree by chance


def test_prompts_with_images_do_not_use_the_causal_variable_length_kernel(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the variable-length kernel is causal within an image too")

    monkeypatch.setattr(kv_cache, "has_varlen", lambda *_: True)  # as on a GPU
    monkeypatch.setattr(kv_cache, "attend_packed", refuse)
    generate(pair.ours, [row.prompt_ids for row in pair.rows], stop_token_ids=(1,), max_new_tokens=2)


def test_another_image_changes_its_own_row_only(pair: Pair) -> None:
    keys = list(pair.image_paths)
    other = image_window([keys[2], *keys[1:]], pair.images)
    before, after = our_hidden(pair, pack_rows(pair.rows)), our_hidden(pair, pack_rows([other[0], *pair.rows[1:]]))
    first = pair.rows[0].num_tokens
    assert not torch.equal(before[0, :first], after[0, :first])
    assert torch.equal(before[0, first:], after[0, first:])


def test_attention_functions_that_are_only_causal_are_refused(pair: Pair) -> None:
    batch = pad_rows(pair.rows[:1], pad_token_id=0)
    with pytest.raises(ValueError, match="per_document, sdpa or eager"):
        our_hidden(pair, batch, "varlen")
    with pytest.raises(ValueError, match="--attention auto"):
        our_hidden(pair, batch, "model")
