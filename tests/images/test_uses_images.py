"""A random model trained on drawn images answers better than without them: the training loop does show images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.images import learn
from medsum_core.images.drawn import ANSWERS, draw_row, main
from medsum_core.report.blind import WAYS


def test_a_trained_model_beats_each_of_its_blind_answers(tmp_path: Path) -> None:
    found = learn(tmp_path, epochs=12, seed=2)
    assert "The tuned model uses the images" in found
    for way in WAYS:
        (low,) = re.findall(rf"^\| tuned, {way} \|.*\| \+\S+ \[([+−]\S+), \S+\] \|$", found, re.M)
        assert low.startswith("+")


def test_the_drawn_set_depends_on_its_seed_only_and_its_answers_are_balanced(tmp_path: Path) -> None:
    main(["--output_dir", str(tmp_path / "one"), "--rows", "24"])
    main(["--output_dir", str(tmp_path / "two"), "--rows", "24"])
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    drawn = [draw_row(number, seed=0)[1:] for number in range(48)]
    for question, answers in ANSWERS.items():
        counts = {sum(row == (question, answer) for row in drawn) for answer in answers}
        assert counts == {12 // len(answers)}


@pytest.mark.parametrize("number", [1, 5, 9, 13])
def test_the_side_asked_for_is_the_brighter_one(number: int) -> None:
    image, question, answer = draw_row(number, seed=3)
    assert question == "on which side is the opacity?"
    halves = [
        image.crop(box).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        for box in ((0, 0, 32, 50), (32, 0, 64, 50))
    ]
    assert (halves[0] > halves[1]) == (answer == "left")
