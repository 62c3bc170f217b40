"""What a killed process leaves is removed by the next one that writes there; a refused command changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import names
from support import tiny_model, tiny_tokenizer
from tiny_run import contents, exit_code, flags
from transformers import PreTrainedTokenizerFast

from medsum_core.data.prompt import build_renderer
from medsum_core.errors import InputError
from medsum_core.merge import fold
from medsum_core.merge.parity import Parity
from medsum_core.model import embedded

ROOT = Path(__file__).parents[2]
OTHERS = (".tmp-mine", ".tmp-step-1", ".notes.part", ".report.md.0123456.part", ".converting-by-hand", ".out.mine.part")


EVERY_STEP = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no")


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert exit_code(flags(inputs, folder, *EVERY_STEP)) == 0
    return folder


def plant(folder: Path, *drafts: str) -> None:
    """Folders with the given names of drafts, and those of OTHERS, whose names are similar; each has a file."""
    folder.mkdir(exist_ok=True)
    for name in (*drafts, *OTHERS):
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")


def test_a_run_removes_leftover_drafts_of_its_folder_and_no_other_files(
    inputs: Path, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    plant(folder / "checkpoints", ".tmp-step-000009-77", ".tmp-removed-step-000001-77", ".tmp-step-000009-2-77")
    for place in (folder, folder / "adapter"):
        plant(place)
        (place / ".report.md.01234567.part").write_text("half")
    checkpoints = names(trained / "checkpoints")
    assert exit_code(flags(inputs, folder, *EVERY_STEP, "--resume_from_checkpoint", "auto")) == 0
    assert names(folder / "checkpoints") == sorted([*OTHERS, *checkpoints])
    for place in (folder, folder / "adapter"):
        assert {name for name in names(place) if name[0] == "."} == set(OTHERS)


@pytest.mark.parametrize("place,code", [("before", 2), ("after", 0)])
def test_a_torn_line_of_metrics_is_refused_before_the_checkpoint_and_dropped_after_it(
    inputs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, code: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "step-000003")
    path = folder / "metrics.jsonl"
    first, second, third = path.read_text().splitlines()
    torn = [second[:9], second, third] if place == "before" else [second, third[:9], third]
    path.write_text("\n".join([first, *torn]) + "\n")
    (folder / "config.json").write_text("of yesterday")
    before = contents(folder)
    assert exit_code(flags(inputs, folder, *EVERY_STEP, "--resume_from_checkpoint", "auto")) == code
    if code:
        assert "metrics.jsonl, line 2" in capsys.readouterr().err
        assert contents(folder) == before
    else:
        steps = [line.split(",")[0] for line in path.read_text().splitlines()]
        assert steps == [line.split(",")[0] for line in (first, second, third)]
        assert b"of yesterday" not in contents(folder)["config.json"]


@pytest.mark.parametrize("more", [("--learning_rate", "1"), ("--train_file", "VALID"), ("--seed", "1")])
def test_a_refused_resume_changes_no_file(inputs: Path, trained: Path, tmp_path: Path, more: tuple[str, str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 9')
    plant(folder)
    before = contents(folder)
    more = (more[0], more[1].replace("VALID", str(inputs / "valid.csv")))
    assert exit_code(flags(inputs, folder, *EVERY_STEP, "--resume_from_checkpoint", "auto", *more)) == 2
    assert contents(folder) == before


def merge_into(output: Path) -> None:
    renderer = build_renderer(tiny_tokenizer(), style="chat")
    fold.save_if_equal(tiny_model(), [], output, renderer=renderer, max_new_tokens=8, text_files={})


@pytest.fixture
def accept_any_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"num_same_tokens": 1, "num_tokens": 1, "num_prompts": 1}
    parity = Parity(largest_logit_difference=0.0, logit_range=1.0, arithmetic="float32", **counts)
    monkeypatch.setattr(fold, "compare_logits", lambda *_: parity)


@pytest.mark.usefixtures("accept_any_merge")
def test_a_merge_removes_the_leftover_drafts_of_its_own_output(tmp_path: Path) -> None:
    plant(tmp_path, ".out.abc_0123.part")
    (tmp_path / ".other.abc_0123.part").mkdir()
    merge_into(tmp_path / "out")
    assert names(tmp_path) == sorted([*OTHERS, ".other.abc_0123.part", "out"])


@pytest.mark.usefixtures("accept_any_merge")
@pytest.mark.parametrize("refused", [None, "model.safetensors", "config.json"])
def test_a_merge_into_a_mount_point_moves_all_files_or_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    output, order = tmp_path / "out", []
    output.mkdir()
    inode, move = output.stat().st_ino, shutil.move

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def watched(source: Path, target: Path) -> Any:
        order.append(target.name)
        if target.name == refused:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return move(source, target)

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setattr(shutil, "move", watched)
    if refused:
        with pytest.raises(InputError, match="No space left"):
            merge_into(output)
        assert names(output) == []
    else:
        merge_into(output)
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names(output))
        assert order[-1] == "config.json"
    assert names(tmp_path) == ["out"] and output.stat().st_ino == inode


@pytest.mark.usefixtures("accept_any_merge")
def test_a_second_merge_into_the_same_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = fold._save

    def meanwhile(*arguments: Any, **settings: Any) -> None:
        monkeypatch.setattr(fold, "_save", save)
        with pytest.raises(InputError, match="another process"):
            merge_into(tmp_path / "out")
        save(*arguments, **settings)

    monkeypatch.setattr(fold, "_save", meanwhile)
    merge_into(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_conversion_removes_what_killed_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "_part_paths", lambda model: [])
    monkeypatch.setattr(embedded, "_assemble", lambda model, parts, path: path.write_bytes(b""))
    monkeypatch.setattr(embedded, "_dequantise", lambda model, work: (work / "model.safetensors").write_bytes(b""))
    plant(tmp_path / "medsum", ".converting-ab_01234")
    folder = embedded.embedded_folder()
    assert set(names(tmp_path / "medsum")) >= {folder.name, *OTHERS}
    assert ".converting-ab_01234" not in names(tmp_path / "medsum")
    assert not [name for name in names(tmp_path / "medsum") if name.endswith(".lock")]
    left = [
        tmp_path / "medsum" / ".converting-ab_01234",
        folder.with_name("converting.lock"),
    ]  # killed after the last rename
    left[0].mkdir()
    left[1].touch()
    assert embedded.embedded_folder() == folder
    assert not any(path.exists() for path in left)


def refuse_to_save(*_: Any, **__: Any) -> None:
    raise Exception("No space left on device (os error 28)")  # as the package tokenizers does


def test_a_full_disk_while_the_tokenizer_is_written_is_bad_input_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "_save_pretrained", refuse_to_save)
    with pytest.raises(InputError, match=r"--output_dir.*No space left"):
        merge_into(tmp_path / "out")
    assert names(tmp_path) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "_part_paths", lambda model: [])
    monkeypatch.setattr(embedded, "_assemble", lambda model, parts, path: path.write_bytes(b""))
    monkeypatch.setattr(embedded, "_dequantise", lambda model, folder: tiny_tokenizer().save_pretrained(folder))
    with pytest.raises(InputError, match=r"embedded:gemma3-270m.*No space left"):
        embedded.embedded_folder()
    assert names(tmp_path / "medsum") == []


KILLED = """
import sys, time
from pathlib import Path
from medsum_core.files import write_sealed
import medsum_core.files as files

def stop(*_):
    print("writing", flush=True)
    time.sleep(60)

files.sync_folder = stop
write_sealed(Path(sys.argv[1]), {"state.json": b"x"})
"""


def test_the_draft_of_a_killed_save_is_private_and_removed_by_the_next_run(
    inputs: Path, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    target = folder / "checkpoints" / "step-000007"
    command, environment = [sys.executable, "-c", KILLED, str(target)], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        process.kill()
    (draft,) = [path for path in target.parent.iterdir() if path.name[0] == "."]
    assert draft.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in draft.iterdir()} == {0o600}
    assert exit_code(flags(inputs, folder, *EVERY_STEP, "--resume_from_checkpoint", "auto")) == 0
    assert names(target.parent) == names(trained / "checkpoints")
