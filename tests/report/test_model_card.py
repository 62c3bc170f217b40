"""The model card is valid for the hub, names no folder of the user's, and says what the adapter was trained to write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from test_report import AUDIT, DATA, SUMMARY, compared

from medsum_core.report.model_card import write_model_card
from medsum_core.tasks.find import find_task, task_names


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_the_model_card_is_valid_for_the_hub(tmp_path):
    from huggingface_hub import ModelCard

    write_model_card(tmp_path, summary=SUMMARY, data=DATA, comparison=compared()[0], audit=AUDIT)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("google/gemma-2b-it", "peft", "gemma")
    for piece in ("clinician", "protected health information", "Gemma Terms of Use", "ROUGE-Lsum", "unsupported rate"):
        assert piece in card.text
    for private in ("row-4", "t1", "output_dir", "a|b"):
        assert private not in card.text


@pytest.mark.parametrize("relative", [True, False])
def test_a_local_base_folder_is_not_named_as_a_hub_model(tmp_path, monkeypatch, relative):
    (tmp_path / "jane" / "weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base_name = "jane/weights" if relative else str(tmp_path / "jane" / "weights")
    summary = replace(SUMMARY, base_name=base_name, base_type="llama", base_revision=None)
    write_model_card(tmp_path, summary=summary, data=replace(DATA, source="mts-dialog"), comparison=None)
    matter, text = front_matter(tmp_path), (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in matter and matter["license"] == "other"
    assert "jane" not in text and "CC BY 4.0" in text and "Gemma" not in text


@pytest.mark.parametrize("name", task_names())
def test_the_card_states_its_own_task_and_no_other(tmp_path: Path, name: str) -> None:
    task = find_task(name)
    write_model_card(tmp_path, summary=replace(SUMMARY, task=task), data=DATA, comparison=None)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"> {task.instruction}" in text and f"task {name}" in text
    assert ("section of a clinical note" in text) == (name in ("section", "section-with-header"))
    shows_images = name in ("findings", "vqa-rad")
    assert front_matter(tmp_path)["pipeline_tag"] == ("image-text-to-text" if shows_images else "text-generation")
