"""A run that shows images, in seconds: a tiny base's folder, rows of questions about drawn images, and its flags."""

from __future__ import annotations

import csv
from pathlib import Path

from image_models import random_image, save_image_base

QUESTIONS = ["is the left lung clear?", "where is the opacity?", "how many nodules are there?", "is there a fracture?"]
ANSWERS = ["yes", "left side", "two", "no"]


def write_rows(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("qid", "image", "question", "answer"), *rows])
    return path


def make_image_inputs(folder: Path) -> Path:
    """A base, ten training rows and four validation rows over five images; the last row of each shows two."""
    save_image_base(folder / "model")
    (folder / "img").mkdir()
    for seed in range(5):
        random_image(seed).save(folder / "img" / f"p{seed}.png")
    shown = [f"img/p{row % 5}.png" for row in range(14)]
    rows = [(f"q{row}", shown[row], QUESTIONS[row % 4], ANSWERS[row % 4]) for row in range(14)]
    rows[9] = ("q9", "img/p1.png; img/p2.png", *rows[9][2:])
    rows[13] = ("q13", "img/p3.png;img/p4.png", *rows[13][2:])
    write_rows(folder / "train.csv", rows[:10])
    write_rows(folder / "valid.csv", rows[10:])
    return folder


def image_flags(inputs: Path, output_dir: Path, *more: str) -> list[str]:
    line = f"""--model_name_or_path {inputs / "model"} --train_file {inputs / "train.csv"} --task vqa-rad
        --validation_file {inputs / "valid.csv"} --output_dir {output_dir} --offline true --precision fp32
        --gradient_accumulation_steps 4 --max_length 240 --max_new_tokens 16 --load_in_4bit false
        --image_features {inputs / "features"}"""
    return [*line.split(), *more]
