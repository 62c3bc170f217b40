"""The images that rows name: read and checked once, then known by the hash of their bytes, never by their path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsum_core.data.image_tokens import SEPARATOR, split_keys
from medsum_core.data.records import Record, SourceRows
from medsum_core.images.pictures import PictureError, decode, key_of, read_bytes
from medsum_core.tasks.task import IMAGES


def read_pictures(sources: Sequence[SourceRows], files: Sequence[str | Path]) -> list[SourceRows]:
    """`with_pictures` of each source, whose file says where paths start from."""
    return [with_pictures(source, Path(file).parent) for source, file in zip(sources, files, strict=True)]


def with_pictures(source: SourceRows, folder: Path) -> SourceRows:
    """The rows with the keys of their images in the place of paths; `pictures` tells where each image lies.

    `folder`: what relative paths start from. A row without an image, or with one that can't be used, gets the reason
    as its `fault`. Every picture is decoded once, since a truncated one shows only then.
    """
    found: dict[str, str | PictureError] = {}  # path -> key, or what is wrong
    pictures: dict[str, Path] = {}
    records = []
    for record in source.records:
        paths = split_keys(record.parts[IMAGES])
        for path in paths:
            if path not in found:
                found[path] = _key(folder / path)
            if isinstance(key := found[path], str):
                pictures.setdefault(key, (folder / path).resolve())
        records.append(_with_keys(record, [found[path] for path in paths]))
    return replace(source, records=records, pictures=pictures)


def _key(path: Path) -> str | PictureError:
    try:
        data = read_bytes(path)
        decode(data)
        return key_of(data)
    except PictureError as error:
        return error


def _with_keys(record: Record, keys: list[str | PictureError]) -> Record:
    wrong = [(number, key) for number, key in enumerate(keys, start=1) if isinstance(key, PictureError)]
    text = SEPARATOR.join(key for key in keys if isinstance(key, str))
    fault = "" if keys else "it names no image"
    if wrong:
        number, error = wrong[0]
        fault = f"its image {error}" if len(keys) == 1 else f"its image {number} of {len(keys)} {error}"
    return replace(record, parts={**record.parts, IMAGES: text}, fault=fault)
