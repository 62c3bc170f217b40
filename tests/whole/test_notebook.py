"""The notebook's cells, executed from top to bottom by a Jupyter kernel; only the settings are changed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support import tiny_model, tiny_tokenizer

NOTEBOOK = Path(__file__).parents[2] / "examples" / "medsum_colab.ipynb"
INSTALL = "install"  # tag of the cell that calls pip
PARAMETERS = "parameters"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    return cell


def set_parameter(cell: nbformat.NotebookNode, name: str, value: object) -> None:
    """Replace the value of `name` in the settings cell."""
    cell.source, count = re.subn(rf"(?m)^{name} = .*$", lambda _: f"{name} = {value!r}", cell.source)
    assert count == 1, f"the settings cell does not set {name} once"


def make_inputs(folder: Path) -> list[str]:
    """A tiny model folder and two small files; the flags that name them."""
    tiny_model("gemma").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for name, rows in (("train.csv", range(6)), ("valid.csv", range(100, 103))):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["ID", "section_header", "dialogue", "section_text"])
            writer.writerows(
                [f"r{row}", "ROS", f"Doctor: Any cough on day {row}?\nPatient: No.", f"No cough on visit {row}."]
                for row in rows
            )
    named = {"model_name_or_path": "model", "train_file": "train.csv", "validation_file": "valid.csv"}
    flags = [part for flag, name in named.items() for part in (f"--{flag}", str(folder / name))]
    return [*flags, "--offline", "true", "--max_length", "192"]


def test_the_notebook_is_committed_without_outputs_or_images(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not any("attachments" in cell or "data:image" in cell.source for cell in notebook.cells)
    assert not any(re.search(r"environ|%env|getenv", cell.source) for cell in code)
    assert "pip install" in tagged(notebook, INSTALL).source


def test_the_notebooks_cells_run_from_top_to_bottom(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    settings = tagged(notebook, PARAMETERS)
    set_parameter(settings, "PRESET", "demo")
    set_parameter(settings, "OUTPUT_DIR", str(tmp_path / "run"))
    set_parameter(settings, "SHORT", True)
    set_parameter(settings, "FLAGS", make_inputs(tmp_path))
    notebook.cells.remove(tagged(notebook, INSTALL))
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}  # where Jupyter starts a kernel
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()

    shown = {kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert {"text/markdown", "image/png"} <= shown
    assert (tmp_path / "run" / "adapter.zip").stat().st_size > 10_000
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert "GiB GPU" in "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
