"""A tiny base on disk, a run over it whose adapter is far from zero, and a file of dialogues, as fixtures.

The libraries are imported in the fixtures, since pytest reads this file in every process, the one that only hands out
tests included.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

DIALOGUES = [
    ("7", "GENHX", "Doctor: What brings you in today?\nPatient: I have had a cough for three days."),
    ("3", "ALLERGY", "Doctor: Any other allergies?\nPatient: None."),
    ("5", "Family history", "Doctor: Any fever?\nPatient: No.\nDoctor: Thank you."),
    ("1", "CC", "Doctor: Hello.\nPatient: My knee hurts."),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("base")
    tiny_model("gemma").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose adapter is far from zero."""
    import torch

    from medsum_core.config.run_config import parse_run
    from medsum_core.config.run_folder import write_run_config
    from medsum_core.model.adapter_files import adapter_config, adapter_tensors, save_adapter
    from medsum_core.model.base import load_base
    from medsum_core.model.lora import LoraSettings, attach_lora

    folder = tmp_path_factory.mktemp("run")
    rows = tmp_path_factory.mktemp("rows") / "train.csv"
    rows.write_text("ID,dialogue,section_text,section_header\n1,Doctor: Hi.,Hi.,CC\n")
    flags = f"--model_name_or_path {base} --train_file {rows} --output_dir {folder} --no_load_in_4bit".split()
    config = parse_run([*flags, "--precision", "fp32", "--max_length", "512", "--max_new_tokens", "24"])
    write_run_config(folder, config.with_resolved(prompt_style="chat"), {})
    settings = LoraSettings(r=4, dropout=0.0)
    model = attach_lora(load_base(str(base), precision="fp32"), settings, base_name=str(base))
    chance = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=chance)
    save_adapter(folder / "adapter", adapter_tensors(model), adapter_config(model))
    return folder


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    path = tmp_path / "dialogues.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "section_header", "dialogue"])
        writer.writerows(DIALOGUES)
    return path
