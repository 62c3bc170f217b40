"""The images that rows name: read and checked once, then referred to by the hash of their bytes, not by path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medsum_core.data.image_tokens import SEPARATOR, split_keys
from medsum_core.data.records import Record, SourceRows
from medsum_core.images.read_image import ImageError, decode, key_of, read_bytes
from medsum_core.tasks.task import IMAGES


def with_image_keys(source: SourceRows, folder: Path) -> SourceRows:
    """The rows with the keys of their images instead of paths; `image_paths` has the path of each image, by key.

    `folder`: the start of relative paths. A row without an image, or with one that can't be used, gets the reason as
    its `fault`. Every image is decoded once, which reveals truncated ones.
    """
    found: dict[str, str | ImageError] = {}  # path -> key, or what is wrong
    image_paths: dict[str, Path] = {}
    records = []
    for record in source.records:
        paths = split_keys(record.parts[IMAGES])
        for path in paths:
            if path not in found:
                found[path] = _key(folder / path)
            if isinstance(key := found[path], str):
                image_paths.setdefault(key, (folder / path).resolve())
        records.append(_with_keys(record, [found[path] for path in paths]))
    return replace(source, records=records, image_paths=image_paths)


def _key(path: Path) -> str | ImageError:
    try:
        data = read_bytes(path)
        decode(data)
        return key_of(data)
    except ImageError as error:
        return error


def _with_keys(record: Record, keys: list[str | ImageError]) -> Record:
    wrong = [(number, key) for number, key in enumerate(keys, start=1) if isinstance(key, ImageError)]
    text = SEPARATOR.join(key for key in keys if isinstance(key, str))
    fault = "" if keys else "it names no image"
    if wrong:
        number, error = wrong[0]
        fault = f"its image {error}" if len(keys) == 1 else f"its image {number} of {len(keys)} {error}"
    return replace(record, parts={**record.parts, IMAGES: text}, fault=fault)
