"""The hashes of a run's base and adapter are compared before they are used, in decoding and in merging."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from notes_command import write
from support import tiny_model
from tiny_run import flags, make_canary_inputs

import infer
import train_loop
from medsum_core.errors import InputError
from medsum_core.merge.__main__ import main as merge
from medsum_core.model import embedded, recorded_files
from medsum_core.model.embedded import EMBEDDED_NAME, EmbeddedModel, embedded_folder
from medsum_core.model.recorded_files import base_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, `model`, and a run over it, `run`, made by the training script."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("made"))
    train_loop.main(flags(folder, folder / "run", "--eval_strategy", "no", "--max_steps", "1"))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder; its run still names the base of the original."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def base_put_back(made: Path, tmp_path: Path) -> Any:
    """The base, which a test may change: it is restored afterwards."""
    shutil.copytree(made / "model", tmp_path / "former")
    yield made / "model"
    shutil.rmtree(made / "model")
    shutil.copytree(tmp_path / "former", made / "model")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_weights(base: Path) -> None:
    tiny_model(seed=7).save_pretrained(base)


def other_template(base: Path) -> None:
    path = base / "chat_template.jinja"
    assert path.exists()
    path.write_text(path.read_text() + " ")


def notes(run: Path, dialogues: Path, out: Path, *more: str) -> list[dict[str, str]]:
    return write(run, dialogues, out, "--offline", *more)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, r"model\.safetensors"),
        (lambda base: flip_a_bit(base / "model.safetensors"), r"model\.safetensors"),
        (other_template, r"chat_template\.jinja"),
        (lambda base: (base / "added_tokens.json").write_text("{}"), r"added_tokens\.json"),
    ],
    ids=["other weights", "a flipped bit", "other template", "added tokens"],
)
def test_another_base_in_the_same_folder_is_refused(
    made: Path,
    base_put_back: Path,
    dialogues: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    named: str,
) -> None:
    change(base_put_back)
    with pytest.raises(InputError, match=rf"not the one that .* was trained over: .*{named}.*--allow_other_base"):
        notes(made / "run", dialogues, tmp_path / "o.csv")
    with pytest.raises(InputError, match=rf"not the one that .* was trained over: .*{named}.*--allow_other_base"):
        merge(["--run", str(made / "run"), "--output_dir", str(tmp_path / "merged"), "--offline"])
    assert not (tmp_path / "o.csv").exists() and not (tmp_path / "merged").exists()
    capsys.readouterr()
    assert notes(made / "run", dialogues, tmp_path / "o.csv", "--allow_other_base")
    merge(["--run", str(made / "run"), "--output_dir", str(tmp_path / "merged"), "--offline", "--allow_other_base"])
    assert capsys.readouterr().err.count("another base than the run's, as allowed") == 2
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_a_flipped_bit_of_the_adapter_is_refused(copy: Path, dialogues: Path, tmp_path: Path) -> None:
    flip_a_bit(copy / "run" / "adapter" / "adapter_model.safetensors")
    for use in (
        lambda: notes(copy / "run", dialogues, tmp_path / "o.csv", "--allow_other_base"),
        lambda: merge(["--run", str(copy / "run"), "--output_dir", str(tmp_path / "merged"), "--offline"]),
    ):
        with pytest.raises(InputError, match=r"adapter_model\.safetensors is not as training wrote it"):
            use()
    record = copy / "run" / "adapter.sha256.json"
    for text in ("", "[]"):
        record.write_text(text)
        with pytest.raises(InputError, match=r"adapter\.sha256\.json.*restore it"):
            notes(copy / "run", dialogues, tmp_path / "o.csv")


def test_a_checked_run_prints_nothing_and_an_older_one_that_it_is_not_checked(
    made: Path, copy: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = notes(made / "run", dialogues, tmp_path / "a.csv")
    assert "recorded no hash" not in capsys.readouterr().err
    config = copy / "run" / "config.json"
    values = json.loads(config.read_text())
    assert set(values["facts"]["base_files"]) >= {"model.safetensors", "config.json", "tokenizer.json"}
    del values["facts"]["base_files"]
    config.write_text(json.dumps(values))
    (copy / "run" / "adapter.sha256.json").unlink()
    assert notes(copy / "run", dialogues, tmp_path / "b.csv") == expected
    lines = [line for line in capsys.readouterr().err.splitlines() if "older version" in line]
    assert len(lines) == 1 and "no hash of its base and adapter; not checked" in lines[0]


def test_notes_are_not_resumed_with_another_base(
    made: Path, base_put_back: Path, dialogues: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.csv"
    notes(made / "run", dialogues, out)
    other_weights(base_put_back)
    with pytest.raises(InputError, match=r"other settings \(base\)"):
        notes(made / "run", dialogues, out, "--resume", "--allow_other_base")


def test_each_shard_of_a_base_is_hashed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="500KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    before = base_files(str(tmp_path))
    assert len(shards) > 1 and {*shards, "model.safetensors.index.json", "config.json"} <= set(before)
    flip_a_bit(tmp_path / shards[-1])
    after = base_files(str(tmp_path))
    assert [name for name in before if before[name] != after[name]] == [shards[-1]]
    assert "hashing" not in capsys.readouterr().err
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match=r"index\.json is damaged"):
        base_files(str(tmp_path))


def test_a_base_of_the_hub_is_hashed_in_the_local_cache(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache's layout refs/main names the commit and snapshots/<commit> has the files. The network is not used."""
    folder, commit = tmp_path / "models--some--base", "0" * 40
    shutil.copytree(made / "model", folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network is used"))
    assert base_files("some/base", offline=True) == base_files(str(made / "model"))
    assert base_files("some/other", offline=True) == {}


def test_hashing_a_large_base_prints_a_line(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorded_files, "BYTES_WORTH_A_LINE", 0)
    base_files(str(made / "model"))
    assert "GiB" in capsys.readouterr().err


def test_allow_other_base_needs_a_run(base_folder: Path, dialogues: Path, tmp_path: Path) -> None:
    rows = ["--input_file", str(dialogues), "--output_file", str(tmp_path / "o.csv"), "--allow_other_base"]
    with pytest.raises(InputError, match="--allow_other_base"):
        infer.main(["--model_name_or_path", str(base_folder), *rows])


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The conversions made, in a cache folder of the test; each writes two files in the place of the real ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def write_files(model: EmbeddedModel, work: Path) -> None:
        made.append(work)
        (work / "model.safetensors").write_bytes(b"weights" * 100)
        (work / "config.json").write_text("{}")

    monkeypatch.setattr(embedded, "_part_paths", lambda model: [])
    monkeypatch.setattr(embedded, "_assemble", lambda model, parts, path: path.write_bytes(b""))
    monkeypatch.setattr(embedded, "_dequantise", write_files)
    return made


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 700),
        lambda folder: flip_a_bit(folder / "config.json"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ planted }}"),
        lambda folder: (folder / "conversion.json").write_text('{"conversion": 1}'),
    ],
    ids=["zeros", "a flipped bit", "a missing file", "a file too many", "an older format"],
)
def test_a_damaged_conversion_is_reported_once_and_made_anew(
    conversions: list[Path], capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    folder = embedded_folder(EMBEDDED_NAME)
    assert embedded_folder() == folder and len(conversions) == 1
    assert capsys.readouterr().err == ""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    (folder.parent / ".converting-killed_1").mkdir()
    for _ in range(2):
        assert embedded_folder() == folder
    assert capsys.readouterr().err.count("converted again") == 1 and len(conversions) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
