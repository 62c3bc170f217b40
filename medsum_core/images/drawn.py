"""A fictional data set of questions about drawn images, to test whether a model uses images: no patients, no licence.

    python -m medsum_core.images.drawn --output_dir drawn

writes `train.csv`, `valid.csv` (`qid, image, question, answer`, as --task vqa-rad reads them) and a PNG a row: soft
bright spots ("opacities") and an outlined marker on a grey field with noise. Each answer is chosen first, evenly over
the possible ones, and the image drawn to match: a model that sees the question alone can only guess.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from medsum_core.config.home_folder import PathParser
from medsum_core.errors import InputError
from medsum_core.process import run_as_script

SIDE = 64
VALIDATION_SHARE = 0.2
COUNTS, SHAPES, SIDES = ("none", "one", "two", "three"), ("circle", "square", "triangle"), ("left", "right")
ANSWERS = {
    "is there an opacity?": ("yes", "no"),
    "on which side is the opacity?": SIDES,
    "how many opacities are there?": COUNTS,
    "which shape has the marker?": SHAPES,
}


def draw_row(number: int, *, seed: int) -> tuple[Image.Image, str, str]:
    """Image, question and answer of a row; a pure function of its number and the seed."""
    draws = random.Random(f"{seed} {number}")
    question = list(ANSWERS)[number % len(ANSWERS)]
    answers = ANSWERS[question]
    answer = answers[number // len(ANSWERS) % len(answers)]
    places = draws.sample([(column, row) for column in (12, 26, 40, 54) for row in (11, 27, 43)], 4)
    if answer in SIDES:
        count, places = 1, [place for place in places if (place[0] < SIDE // 2) == (answer == "left")]
        places = places or [(12 if answer == "left" else 54, 27)]
    elif answer in COUNTS:
        count = COUNTS.index(answer)
    else:
        count = {"yes": draws.randint(1, 3), "no": 0}.get(answer, draws.randint(0, 2))
    shape = answer if answer in SHAPES else draws.choice(SHAPES)
    return _draw(places[:count], shape, draws), question, answer


def _draw(spots: Sequence[tuple[int, int]], shape: str, draws: random.Random) -> Image.Image:
    grey = draws.randint(60, 110)
    light = Image.new("L", (SIDE, SIDE), 0)
    for x, y in spots:
        radius = draws.randint(4, 6)
        ImageDraw.Draw(light).ellipse((x - radius, y - radius, x + radius, y + radius), fill=draws.randint(130, 160))
    field = ImageChops.add(Image.new("L", (SIDE, SIDE), grey), light.filter(ImageFilter.GaussianBlur(1.5)))
    page = ImageDraw.Draw(field)
    outline = {"circle": page.ellipse, "square": page.rectangle, "triangle": page.polygon}[shape]
    outline([(31, 53), (25, 62), (37, 62)] if shape == "triangle" else [(26, 54), (36, 62)], outline=0, width=2)
    noise = Image.frombytes("L", (SIDE, SIDE), bytes(draws.randrange(16) for _ in range(SIDE * SIDE)))
    return ImageChops.add(field, noise)


def write_set(folder: Path, *, rows: int, seed: int) -> None:
    """The whole set into `folder`, the last fifth of the rows for validation. Raises InputError for a folder in use."""
    try:
        (folder / "images").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: can't be made ({error.strerror}); name a new one") from None
    table = []
    for number in range(rows):
        image, question, answer = draw_row(number, seed=seed)
        name = f"images/{number:04d}.png"
        image.save(folder / name)
        table.append((f"d{number:04d}", name, question, answer))
    first = rows - int(VALIDATION_SHARE * rows)
    for name, part in (("train.csv", table[:first]), ("valid.csv", table[first:])):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("qid", "image", "question", "answer"), *part])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = PathParser(prog="python -m medsum_core.images.drawn", allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("--rows", type=int, default=200, metavar="N", help="rows, each with its image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another set of the same kind (%(default)s)")
    values = parser.parse_args(argv)
    write_set(values.output_dir, rows=values.rows, seed=values.seed)
    print(f"{values.rows} rows in {values.output_dir}: train.csv, valid.csv, images/")


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
