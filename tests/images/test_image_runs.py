"""Whole runs with images: resumed to the byte, answers to a file, merged."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from image_files import image_flags, make_image_inputs, write_rows
from image_models import image_processor_of_tiny, random_image
from PIL import Image
from tiny_run import contents, exit_code, metrics
from transformers import AutoModelForCausalLM, Gemma3ForConditionalGeneration
from windows import relative

import infer
from medsum_core.merge.__main__ import main as merge
from medsum_core.model.adapter_files import load_adapter
from medsum_core.model.base import load_base
from medsum_core.preview import main as preview
from medsum_core.score.__main__ import main as score


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_inputs(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert exit_code(image_flags(inputs, folder, "--save_strategy", "steps", "--save_steps", "1")) == 0
    return folder


def written(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_resumed_image_run_ends_in_the_bytes_of_an_uninterrupted_one(inputs: Path, run: Path, tmp_path: Path) -> None:
    interrupted = tmp_path / "interrupted"
    saved = ("--save_strategy", "steps", "--save_steps", "1", "--report_rows", "0")
    assert exit_code(image_flags(inputs, interrupted, *saved, "--max_steps", "1")) == 0
    again = ("--resume_from_checkpoint", "auto", "--max_steps", "3")
    assert exit_code(image_flags(inputs, interrupted, *saved, *again)) == 0
    assert (
        contents(interrupted / "adapter")["adapter_model.safetensors"]
        == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    assert [line["loss"] for line in metrics(interrupted) if "loss" in line] == [
        line["loss"] for line in metrics(run) if "loss" in line
    ]


def test_other_pixels_under_the_same_name_are_refused_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "inputs"
    mine.mkdir()
    make_image_inputs(mine)
    folder = tmp_path / "run"
    short = ("--report_rows", "0", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no")
    assert exit_code(image_flags(mine, folder, *short, "--max_steps", "1")) == 0
    random_image(77).save(mine / "img" / "p1.png")
    assert exit_code(image_flags(mine, folder, *short, "--resume_from_checkpoint", "auto")) == 2
    assert "training rows" in capsys.readouterr().err


def test_the_report_says_whether_the_model_uses_its_images(run: Path) -> None:
    report = (run / "report.md").read_text()
    assert "**The tuned model does no better than blind** (question only, images shuffled, images blank)" in report
    assert len(re.findall(r"^\| tuned, (?:question only|images shuffled|images blank) \|", report, re.M)) == 3


def test_answers_of_a_file_are_written_and_scored(inputs: Path, run: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "out.csv", tmp_path / "scores.json"
    infer.main(["--run", str(run), "--input_file", str(inputs / "valid.csv"), "--output_file", str(out), "--offline"])
    assert [row["id"] for row in written(out)] == ["q10", "q11", "q12", "q13"]
    score(
        [
            "--task",
            "vqa-rad",
            "--references",
            str(inputs / "valid.csv"),
            "--predictions",
            str(out),
            "--json",
            str(figures),
        ]
    )
    assert '"closed_accuracy_count": 2' in figures.read_text()
    assert '"open_f1_count": 2' in figures.read_text()


def test_a_row_whose_image_cannot_be_read_is_set_aside_and_the_others_are_used(
    inputs: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (inputs / "img" / "p0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(tmp_path / "other.gif")
    (tmp_path / "good.png").write_bytes(whole)
    rows = [(name, image, "is it?", "yes") for name, image in (
        ("gone", "Jane_Doe.png"), ("cut", "good.png;cut.png"), ("gif", "other.gif"), ("none", ""), ("fine", "good.png"),
    )]  # fmt: skip
    file = write_rows(tmp_path / "rows.csv", rows)
    flags = image_flags(inputs, tmp_path / "run", "--dry_run", "true")
    flags[flags.index("--train_file") + 1] = str(file)
    assert exit_code(flags) == 0
    captured = capsys.readouterr()
    printed = captured.err + captured.out
    assert "row id gone is set aside: its image can't be read (No such file or directory)" in printed
    assert "row id cut is set aside: its image 2 of 2 is truncated" in printed
    assert "row id gif is set aside: its image is neither JPEG, PNG nor DICOM" in printed
    assert "row id none is set aside: it names no image" in printed
    assert "1 of 1 rows used" in printed
    assert "Jane" not in printed
    out = tmp_path / "out.csv"
    infer.main(["--run", str(run), "--input_file", str(file), "--output_file", str(out), "--offline"])
    assert [bool(row["set_aside"]) for row in written(out)] == [True, True, True, True, False]


def test_the_merged_model_loads_in_plain_transformers_with_its_tower(inputs: Path, run: Path, tmp_path: Path) -> None:
    merge(["--run", str(run), "--output_dir", str(tmp_path / "merged"), "--num_prompts", "2", "--offline"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert isinstance(merged, Gemma3ForConditionalGeneration)
    name = str(inputs / "model")
    tuned = load_adapter(load_base(name, precision="fp32"), run / "adapter", base_name=name)
    pixels = image_processor_of_tiny()(random_image(3), return_tensors="pt")["pixel_values"]
    soft = merged.config.image_token_id
    ids = torch.tensor([[2, 9, *[soft] * 4, 9, 11]])
    shown = {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == soft).long()}
    with torch.no_grad():
        assert relative(merged(**shown).logits, tuned.eval()(**shown).logits) < 2e-2  # bf16 weights
    assert (tmp_path / "merged" / "preprocessor_config.json").exists()


def test_the_preview_marks_the_positions_of_images(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preview(
        ["--train_file", str(inputs / "train.csv"), "--task", "vqa-rad", "--model_name_or_path", str(inputs / "model")]
    )
    shown = capsys.readouterr().out
    assert "<image>|" * 4 in shown
    assert "holds: the prompt is the one that decoding builds" in shown
