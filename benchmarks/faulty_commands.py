"""The commands in which faults.py makes system calls fail: short, with fictional files in one folder, run in a fork."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.forked_runs import make_inputs

CHUNKS = 2
UPDATES = 2
TRAIN_ROWS = 3  # windows of two rows and of one
DURATION = re.compile(rb"\d s\b|\d min")
SPEED = re.compile(rb'"tokens_per_second": [^,}]+')
SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}


@dataclass(frozen=True, kw_only=True)
class Command:
    """`run` gets the folder of its files; `again` is the command that a person gives after it has failed."""

    name: str
    files: tuple[str, ...]  # the files it needs, of those that `prepare` makes
    run: Callable[[Path], object]
    again: Callable[[Path], object]
    resumable: bool = True  # a signal ends it with exit code 75
    save_code: int = 2  # exit code if a result can't be written
    again_codes: tuple[int, ...] = (0,)
    rename: Mapping[str, str] = field(default_factory=dict)  # other names of these files for the command


def train(folder: Path) -> None:
    """Two updates with a checkpoint after each, and a report on one row."""
    import train_loop

    flags = f"""--model_name_or_path {folder / "model"} --train_file {folder / "train.csv"} --validation_file
        {folder / "valid.csv"} --output_dir {folder / "run"} --offline true --kernels reference --precision fp32
        --load_in_4bit false --lora_dropout 0.05 --optim adamw_torch --gradient_accumulation_steps 2
        --num_train_epochs 1 --max_length 176 --max_new_tokens 4 --save_strategy steps --save_steps 1
        --eval_strategy epoch --report_rows 1 --resume_from_checkpoint auto"""
    train_loop.main(flags.split())


def write_notes(folder: Path, *more: str) -> None:
    """Notes of three rows, one after another."""
    import infer

    flags = f"""--run {folder / "run"} --input_file {folder / "valid.csv"} --output_file {folder / "notes.csv"}
        --batch_size 1 --kernels reference --offline"""
    infer.main([*flags.split(), *more])


def score(folder: Path) -> None:
    """The scores of the finished notes, as JSON."""
    from medsum_core.score import __main__ as command

    flags = f"--references {folder / 'valid.csv'} --predictions {folder / 'notes.csv'} --json {folder / 'score.json'}"
    command.main(flags.split())


def merge(folder: Path) -> None:
    """A merged model, compared on one prompt."""
    from medsum_core.merge import __main__ as command

    flags = f"""--run {folder / "run"} --output_dir {folder / "merged"} --num_prompts 1 --offline
        --input_file {folder / "valid.csv"}"""
    command.main(flags.split())


def convert(folder: Path) -> None:
    """The conversion of the embedded model, with two chunks of fictional bytes and a tiny model as the result."""
    from medsum_core.model import embedded

    paths = [folder / f"chunk{number}" for number in range(CHUNKS)]
    stub: Any = embedded
    gguf_sha256 = hashlib.sha256(b"".join(map(chunk, range(CHUNKS)))).hexdigest()
    made_up = replace(embedded.embedded_model(embedded.EMBEDDED_NAME), gguf_sha256=gguf_sha256)
    stub.embedded_model = lambda _: made_up
    stub._part_paths = lambda _: paths
    stub._dequantise = lambda _, work: dequantise(work)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    embedded.embedded_folder()


def chunk(number: int) -> bytes:
    return bytes([number]) * 1000


def dequantise(work: Path) -> None:
    from support import tiny_model, tiny_tokenizer

    from medsum_core.quiet_libraries import quiet_libraries

    with quiet_libraries():
        tiny_model(**SHAPE).save_pretrained(work)
        tiny_tokenizer().save_pretrained(work)


INPUTS = ("model", "train.csv", "valid.csv")
COMMANDS = (
    Command(name="train", files=INPUTS, run=train, again=train, save_code=4),
    Command(
        name="resume",
        files=(*INPUTS, "begun"),
        rename={"begun": "run"},
        run=train,
        again=train,
        save_code=4,
    ),
    Command(
        name="infer",
        files=("model", "valid.csv", "run"),
        run=write_notes,
        again=lambda folder: write_notes(folder, "--resume"),
        save_code=4,
    ),
    Command(
        name="infer --resume",
        files=("model", "valid.csv", "run", "notes.csv.part.jsonl"),
        run=lambda folder: write_notes(folder, "--resume"),
        again=lambda folder: write_notes(folder, "--resume"),
        save_code=4,
    ),
    Command(name="score --json", files=("valid.csv", "notes.csv"), run=score, again=score, resumable=False),
    Command(
        name="merge",
        files=("model", "valid.csv", "run"),
        run=merge,
        again=merge,
        again_codes=(0, 2),  # 2: only the last call had failed, and the complete output is not overwritten
        resumable=False,
    ),
    Command(
        name="conversion",
        files=tuple(f"chunk{number}" for number in range(CHUNKS)),
        run=convert,
        again=convert,
        resumable=False,
    ),
)


def prepare(folder: Path) -> None:
    """What the commands start from: inputs, a run begun and finished, notes begun and finished, two chunks."""
    from medsum_core.generation.part_file import PartFile

    make_inputs(folder, num_train_rows=TRAIN_ROWS, **SHAPE)
    for number in range(CHUNKS):
        (folder / f"chunk{number}").write_bytes(chunk(number))
    train(folder)
    shutil.copytree(folder / "run", folder / "begun")
    shutil.rmtree(folder / "begun" / "adapter")
    shutil.rmtree(folder / "begun" / "checkpoints" / f"step-{UPDATES:06d}")
    add = PartFile.add

    def add_first(part: PartFile, *note: Any) -> None:
        add(part, *note)
        PartFile.add = add  # type: ignore[method-assign]
        shutil.copy(part.path, folder / "kept")

    PartFile.add = add_first  # type: ignore[method-assign]
    write_notes(folder)
    os.rename(folder / "kept", folder / "notes.csv.part.jsonl")


def lay_out(command: Command, template: Path, folder: Path) -> None:
    """A fresh folder with what the command starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in command.files:
        source, target = template / name, folder / command.rename.get(name, name)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def outcome(folder: Path) -> dict[str, bytes]:
    """Every file by its path: its bytes without what depends on the clock. Of checkpoints only the last."""
    checkpoints = sorted((folder / "run" / "checkpoints").glob("step-*"))
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or (checkpoints and checkpoints[0].parent in path.parents and checkpoints[-1] != path.parent):
            continue
        name = name.replace(checkpoints[-1].name, "last") if checkpoints else name
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            data = SPEED.sub(b"", data)
        elif path.name == "report.md":  # it states how long each part of the run took
            data = b"\n".join(line for line in data.splitlines() if not DURATION.search(line))
        found[name] = data
    return found
