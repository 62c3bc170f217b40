"""Rows beyond a model's limits are refused before any weight is loaded; whole runs of two special families."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from support import tiny_config, tiny_model, tiny_tokenizer
from tiny_run import exit_code, flags
from transformers import AutoModelForCausalLM
from windows import make_example

import infer
from medsum_core.config.arguments import LORA_PROJECTIONS
from medsum_core.config.run_folder import read_run_config
from medsum_core.errors import InputError
from medsum_core.generation.generate import generate
from medsum_core.training.limits import check_positions, check_rows


def test_a_row_may_be_as_long_as_the_model_has_positions() -> None:
    config = tiny_config(max_position_embeddings=64)
    check_positions(64, config)
    with pytest.raises(InputError, match="--max_length 65: this model has room for 64 tokens"):
        check_positions(65, config)


def test_a_token_beyond_the_embedding_is_refused_in_rows_stops_and_prompts() -> None:
    rows, small = [make_example(9, 3, seed=1)], tiny_config(vocab_size=64)
    largest = max(rows[0].input_ids)
    check_rows(rows, [1], tiny_config(vocab_size=largest + 1))
    for config, stops in ((small, [1]), (tiny_config(vocab_size=largest + 1), [1, largest + 1])):
        with pytest.raises(InputError, match=r"gives the id \d+, but the model has \d+ embeddings"):
            check_rows(rows, stops, config)
    with pytest.raises(InputError, match="gives the id 64, but the model has 64 embeddings"):
        generate(tiny_model(vocab_size=64), [[2, 64]], stop_token_ids=[1], max_new_tokens=4)


def small_base(inputs: Path, folder: Path, **settings: Any) -> Path:
    """The files of a tiny run, with another base model."""
    shutil.copytree(inputs, folder, ignore=shutil.ignore_patterns("model"))
    tiny_model("llama", **settings).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize(
    "settings,words",
    [({"max_position_embeddings": 100}, "room for 100 tokens"), ({"vocab_size": 128}, "has 128 embeddings")],
    ids=["positions", "embeddings"],
)
def test_a_run_beyond_a_models_limits_ends_before_its_weights_are_read(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    words: str,
) -> None:
    folder = small_base(inputs, tmp_path / "in", **settings)
    (folder / "model" / "model.safetensors").unlink()
    assert exit_code(flags(folder, tmp_path / "run")) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["qwen3_5_text", "gemma3, multimodal"])
def test_a_hybrid_and_a_multimodal_family_train_and_write_notes(inputs: Path, tmp_path: Path, name: str) -> None:
    """Rows, memory, adapter, updates, report and notes of the saved run; what the table does not go through."""
    folder = small_base(inputs, tmp_path / "in")
    family = next(family for family in FAMILIES if family.name == name)
    torch.manual_seed(0)
    config = family.config()
    config.get_text_config().vocab_size = tiny_config().vocab_size
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    run, notes = tmp_path / "run", tmp_path / "notes.csv"
    assert exit_code(flags(folder, run, "--report_rows", "2", "--max_steps", "2")) == 0
    assert read_run_config(run).lora.lora_target_modules == list(LORA_PROJECTIONS)  # what `auto` stood for
    argv = ["--run", str(run), "--input_file", str(folder / "valid.csv"), "--output_file", str(notes)]
    infer.main([*argv, "--max_new_tokens", "4"])
    assert notes.read_text().count("\nr10") == 3  # the three rows' ids
