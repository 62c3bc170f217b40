"""The memory table of examples/gpu.md is the one that its script makes, for models of the published sizes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from medsum_core.model.base import empty_model

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {  # parameters, from the models' pages on the hub
    "Gemma 2B": 2_506_172_416,
    "Gemma 3 4B": 4_300_079_472,
    "Gemma 3 12B": 12_187_325_040,
    "Gemma 3 27B": 27_432_406_640,
}


@pytest.fixture
def memory_table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("memory_table")


def test_the_pages_table_is_up_to_date(memory_table: Any, tmp_path: Path) -> None:
    """If the page is out of date, `python benchmarks/memory_table.py` writes it."""
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{memory_table.BEGIN}\nold\n{memory_table.END}\nafter\n")
    memory_table.write_table(page)
    made = page.read_text()
    assert made.startswith("before\n") and made.endswith("\nafter\n") and "old" not in made
    assert made.removeprefix("before\n").removesuffix("\nafter\n") in memory_table.PAGE.read_text()


def test_the_models_have_the_published_shapes(memory_table: Any) -> None:
    assert {name for name, _ in memory_table.PATHS} == set(PUBLISHED)
    for name, count in PUBLISHED.items():
        config = memory_table.config_of(name)
        model = empty_model(config, precision="bf16")
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        text = config.get_text_config()
        if name != "Gemma 2B":
            assert text.layer_types.count("full_attention") == text.num_hidden_layers // 6
            assert (text.sliding_window, text.vocab_size) == (1024, 262_208)
