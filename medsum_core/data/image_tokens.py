"""Images in a prompt: each is a sequence of negative ids derived from its content, so a row is still a list of ids.

    "\n\n" <start of image>  id-1 ... id-N  <end of image> "\n\n"       as transformers' Gemma3Processor writes it

A negative id encodes an image and one of its N positions: `-1 - (number * N + position)`, where the number is the first
48 bits of the sha256 of the image's bytes. Packing, truncation, checkpoints and decoding treat these ids as any others;
only the model's embedding (`images/embedding.py`) and its attention (`model/attention.py`) look at the sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsum_core.errors import InputError
from medsum_core.tasks.task import Task

SEPARATOR = ";"  # between the images of a row, in a file's column and in a record
NUMBER_DIGITS = 12  # hex digits of a key: a collision among a million images has a probability of about 1/500
AROUND = "\n\n"  # what Gemma3Processor writes before and after each image

BLANK_KEY = hashlib.sha256(b"a grey picture of medsum").hexdigest()  # of a blank image, for a baseline


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """How a model's prompts hold images: `size` positions each, between two control tokens."""

    size: int
    start: str
    end: str
    between_ids: tuple[int, ...]  # ids of: end of an image, AROUND twice, start of the next

    def ids(self, keys: Sequence[str]) -> list[int]:
        """The ids between the first start token and the last end token. `keys`: sha256 (hex) of each image's bytes."""
        ids: list[int] = []
        for key in keys:
            ids += self.between_ids if ids else ()
            first = -1 - image_number(key) * self.size
            ids += range(first, first - self.size, -1)
        return ids


def image_number(key: str) -> int:
    """The number that represents the image of this key in ids."""
    return int(key[:NUMBER_DIGITS], 16)


def numbers_in(ids: Iterable[int], config: Any) -> set[int]:
    """The numbers of the images in a prompt; empty for a prompt without images."""
    return {(-1 - token) // int(config.mm_tokens_per_image) for token in ids if token < 0}


def split_keys(text: str) -> list[str]:
    """The entries of a part or cell that lists images, in order, without empty ones."""
    return [entry.strip() for entry in text.split(SEPARATOR) if entry.strip()]


def image_tokens(config: Any, tokenizer: Any) -> ImageTokens:
    """How the prompts of a model hold images, from its configuration. Raises InputError for a model without images."""
    size = getattr(config, "mm_tokens_per_image", None)
    indices = [getattr(config, f"{name}_token_index", None) for name in ("boi", "eoi")]
    if config.model_type != "gemma3" or not size or None in indices:
        raise InputError(
            f"--model_name_or_path: {config.model_type} reads no images here; take a Gemma 3 with its vision tower, "
            "such as google/gemma-3-4b-it or google/medgemma-4b-it"
        )
    start, end = (tokenizer.convert_ids_to_tokens(index) for index in indices)
    if start is None or end is None:
        raise InputError(
            "--model_name_or_path: this tokenizer lacks the tokens around an image; is it the model's own?"
        )
    between = tokenizer(f"{end}{AROUND}{AROUND}{start}", add_special_tokens=False)["input_ids"]
    return ImageTokens(size=int(size), start=str(start), end=str(end), between_ids=tuple(between))


def with_image_tokens(settings: Mapping[str, Any], config: Any, tokenizer: Any) -> dict[str, Any]:
    """The arguments of `build_renderer`, with `images` added if their task has images."""
    task: Task | None = settings.get("task")
    shows = task is not None and task.images_part is not None
    return {**settings, **({"images": image_tokens(config, tokenizer)} if shows else {})}
