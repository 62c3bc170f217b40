"""`--run` takes a run, a checkpoint or an adapter, and its base may have been moved: the same notes, or one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from notes_command import write
from safetensors.torch import load_file
from support import tiny_model
from tiny_run import flags, make_canary_inputs

import train_loop
from medsum_core.errors import InputError
from medsum_core.merge.__main__ import main as merge

# An adapter alone does not record these.
SETTINGS_OF_THE_RUN = ("--precision", "fp32", "--max_new_tokens", "32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, `model`, and a run of two updates over it, `run`, with a checkpoint of each."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("made"))
    more = "--eval_strategy no --max_steps 2 --save_strategy steps --save_steps 1 --load_in_4bit false"
    train_loop.main(flags(folder, folder / "run", *more.split(), "--learning_rate", "0.1"))
    return folder


@pytest.fixture
def unfinished(made: Path, tmp_path: Path) -> Path:
    """The run as it was before its results were written."""
    folder = tmp_path / "unfinished"
    shutil.copytree(made / "run", folder)
    shutil.rmtree(folder / "adapter")
    (folder / "adapter.sha256.json").unlink()
    return folder


def notes(run: Path, dialogues: Path, *more: str) -> list[dict[str, str]]:
    out = dialogues.with_name("notes.csv")
    rows = write(run, dialogues, out, "--offline", *more)
    out.unlink()
    return rows


def damage(checkpoint: Path) -> None:
    path = checkpoint / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_run_its_last_checkpoint_and_its_adapter_write_the_same_notes(
    made: Path, unfinished: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, checkpoint = made / "run", made / "run" / "checkpoints" / "step-000002"
    expected = notes(run, dialogues)
    earlier = notes(run / "checkpoints" / "step-000001", dialogues)
    assert earlier != expected
    assert notes(checkpoint, dialogues) == notes(run / "adapter", dialogues) == expected
    assert not any(word in capsys.readouterr().err for word in ("not finished", "by itself", "not checked"))
    assert notes(unfinished, dialogues) == expected
    assert "not finished; its newest checkpoint is used, step-000002" in capsys.readouterr().err
    shutil.copytree(checkpoint, tmp_path / "alone")
    assert notes(tmp_path / "alone", dialogues) == expected
    assert "base is not checked" in capsys.readouterr().err
    shutil.copytree(run / "adapter", tmp_path / "bare")
    assert notes(tmp_path / "bare", dialogues, *SETTINGS_OF_THE_RUN) == expected
    messages = capsys.readouterr().err
    assert "an adapter by itself; prompt and lengths are the defaults" in messages and "base is not checked" in messages


def test_a_damaged_checkpoint_is_skipped_or_refused_if_named(
    unfinished: Path, dialogues: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = unfinished / "checkpoints"
    earlier = notes(checkpoints / "step-000001", dialogues)
    damage(checkpoints / "step-000002")
    with pytest.raises(InputError, match=r"a damaged checkpoint .*name another"):
        notes(checkpoints / "step-000002", dialogues)
    capsys.readouterr()
    assert notes(unfinished, dialogues) == earlier
    messages = capsys.readouterr().err
    assert "step-000002 is damaged" in messages and "newest checkpoint is used, step-000001" in messages
    damage(checkpoints / "step-000001")
    with pytest.raises(InputError, match="not finished, and its 2 checkpoints are damaged"):
        notes(unfinished, dialogues)
    shutil.rmtree(checkpoints)
    with pytest.raises(InputError, match="no such folder"):
        notes(unfinished, dialogues)


def test_a_checkpoint_is_merged_like_the_run(made: Path, unfinished: Path, tmp_path: Path) -> None:
    for name, run in (("a", made / "run"), ("b", unfinished)):
        merge(["--run", str(run), "--output_dir", str(tmp_path / name), "--offline", "--num_prompts", "1"])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_moved_base_must_be_given_and_is_recognised_by_its_hashes(
    made: Path, dialogues: Path, tmp_path: Path
) -> None:
    expected = notes(made / "run", dialogues)
    shutil.copytree(made, tmp_path / "made")
    run, moved = tmp_path / "made" / "run", tmp_path / "elsewhere"
    (tmp_path / "made" / "model").rename(moved)
    for path in (run / "config.json", run / "adapter" / "adapter_config.json"):
        path.write_text(path.read_text().replace(str(made / "model"), str(tmp_path / "made" / "model")))
    (run / "adapter.sha256.json").unlink()  # its hash no longer holds: adapter_config.json was edited above
    out = ["--output_dir", str(tmp_path / "merged"), "--offline", "--num_prompts", "1"]
    with pytest.raises(InputError, match=r"is not there; .*--model_name_or_path"):
        notes(run, dialogues)
    with pytest.raises(InputError, match=r"is not there; .*--model_name_or_path"):
        merge(["--run", str(run), *out])
    there = ["--model_name_or_path", str(moved)]
    assert notes(run, dialogues, *there) == expected
    merge(["--run", str(run), *there, *out])
    assert (tmp_path / "merged" / "config.json").exists()
    tiny_model(seed=7).save_pretrained(moved)
    with pytest.raises(InputError, match=r"not the one that .* model\.safetensors differs"):
        notes(run, dialogues, *there)
    facts = json.loads((run / "config.json").read_text())
    del facts["facts"]["base_files"]
    (run / "config.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="no hash to know its base by"):
        notes(run, dialogues, *there)


def test_unused_tokenizer_files_do_not_make_it_another_base(made: Path, dialogues: Path, tmp_path: Path) -> None:
    """These three are not read where there is a tokenizer.json; a merge or a full download may add them to the base."""
    shutil.copytree(made / "model", tmp_path / "moved")
    for name in ("tokenizer.model", "vocab.json", "merges.txt"):
        (tmp_path / "moved" / name).write_bytes(b"{}")
    there = ["--model_name_or_path", str(tmp_path / "moved")]
    assert notes(made / "run", dialogues, *there) == notes(made / "run", dialogues)
    (tmp_path / "moved" / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"added_tokens\.json differs"):
        notes(made / "run", dialogues, *there)
