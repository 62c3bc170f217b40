"""A file that can't be read is neither missing nor damaged: reading is retried, then the system's error reported."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import fail_to_read
from support import section_record, tiny_model

from medsum_core.config.run_folder import CONFIG_NAME, METRICS_NAME, read_run_config, read_run_facts
from medsum_core.errors import InputError
from medsum_core.generation.made_from import MadeFrom
from medsum_core.generation.note_files import read_finished, write_notes
from medsum_core.generation.part_file import part_path, read_part
from medsum_core.model import embedded
from medsum_core.model.adapter_files import (
    WEIGHTS_NAME,
    adapter_base_name,
    adapter_hashes,
    load_adapter,
)
from medsum_core.model.recorded_files import check_run, record_adapter
from medsum_core.model.weight_files import check_model_folder
from medsum_core.tasks.built_in.section import TASK as SECTION
from medsum_core.training.metrics import read_metrics, records_until

FOLDER = "work"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A function that reads `name` in the folder."""

    name: str
    read: Callable[[Path], Any]


def check_record(folder: Path) -> None:
    check_run(folder, {}, base_name="base", allow_other_base=True)


def load(folder: Path) -> None:
    load_adapter(tiny_model(), folder, base_name=adapter_base_name(folder))


READERS = {
    "settings": Reader(name=CONFIG_NAME, read=read_run_config),
    "facts": Reader(name=CONFIG_NAME, read=read_run_facts),
    "adapter's record": Reader(name="adapter.sha256.json", read=check_record),
    "adapter's settings": Reader(name="adapter_config.json", read=adapter_base_name),
    "adapter": Reader(name=WEIGHTS_NAME, read=load),
    "hashes": Reader(name=WEIGHTS_NAME, read=adapter_hashes),
    "metrics": Reader(name=METRICS_NAME, read=lambda folder: read_metrics(folder / METRICS_NAME)),
    "metrics to a step": Reader(name=METRICS_NAME, read=lambda folder: records_until(folder / METRICS_NAME, step=1)),
    "part file": Reader(name="notes.csv.part.jsonl", read=lambda folder: read_part(part_path(folder / "notes.csv"))),
    "record of notes": Reader(name="notes.csv.made_from.json", read=lambda folder: read_finished(folder / "notes.csv")),
    "notes": Reader(name="notes.csv", read=lambda folder: read_finished(folder / "notes.csv")),
    "conversion": Reader(name="conversion.json", read=embedded._is_whole),
}
WRONG_CAUSES = ("missing", "damaged", "not what", "not JSON", "not the settings", "not safetensors")


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A folder with every file of READERS."""
    folder = tmp_path / FOLDER
    shutil.copytree(run, folder)
    record_adapter(folder, adapter_hashes(folder / "adapter"))
    for path in (folder / "adapter").iterdir():
        shutil.copy(path, folder)
    (folder / METRICS_NAME).write_text('{"step": 1}\n')
    made_from = MadeFrom(settings={}, rows=())
    note = {"row": "r", "id": "1", "note": "Hi.", "num_tokens": 1, "hit_limit": False}
    lines = [{"made_from": made_from.to_json()}, note]
    part_path(folder / "notes.csv").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "conversion.json").write_text('{"files": {}}')
    return folder


@pytest.fixture
def notes(folder: Path) -> None:
    from medsum_core.generation.made_from import row_sha256

    record = section_record(id="1", section_header="CC", dialogue="Doctor: Hi.", note="")
    row = row_sha256(record)
    write_notes(
        folder / "notes.csv",
        {row: record},
        {},
        MadeFrom(settings={}, rows=(row,)),
        task=SECTION,
        set_aside={row: "too long"},
        output_format="csv",
        with_evidence=False,
    )


pytestmark = pytest.mark.usefixtures("notes")


@pytest.mark.parametrize("name", READERS)
def test_a_read_that_fails_twice_is_retried(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pauses = fail_to_read(monkeypatch, folder / READERS[name].name, times=2)
    READERS[name].read(folder)
    assert len(pauses) == 2


@pytest.mark.parametrize("name", READERS)
def test_a_lasting_failure_is_reported_and_not_taken_for_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail_to_read(monkeypatch, folder / READERS[name].name, times=99)
    with pytest.raises((InputError, OSError), match="Input/output error") as caught:
        READERS[name].read(folder)
    assert not [words for words in WRONG_CAUSES if words in str(caught.value)]
    assert FOLDER in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = folder / READERS[name].name
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises((InputError, OSError), match="a pipe or a device"):
        READERS[name].read(folder)


def test_a_model_folder_that_cannot_be_listed_is_reported_after_retries(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="work cannot be read: Input/output error"):
        check_model_folder(folder, "weights")
    assert len(pauses) == 3
