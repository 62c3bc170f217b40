"""The features of images: vision tower and projector run once per image; their output is cached in verified files.

A file is the sha256 of its content, then safetensors; its name is derived from image, tower, image processor and
precision, so that no other features can be read by mistake. Features reveal an image's content: they are patients'
data, mode 0600.
Letters: N positions of an image, H hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from medsum_core.checkpoint.fingerprints import base_fingerprint, json_sha256
from medsum_core.data.image_tokens import BLANK_KEY
from medsum_core.errors import InputError, reason
from medsum_core.files import PRIVATE_MODE, cache_folder, make_cache_folder, read_plain_file, write_bytes_atomic
from medsum_core.images.embedding import drop_tower, give_features
from medsum_core.images.read_image import ImageError, decode, key_of, read_bytes
from medsum_core.model.embedded import embedded_folder, is_embedded
from medsum_core.model.forward import causal_model
from medsum_core.quiet_libraries import quiet_libraries

FORMAT = 1
HEX = 64  # characters of a sha256
BLANK = Image.new("RGB", (64, 64), (128, 128, 128))


class FeatureFiles(Mapping[str, Tensor]):
    """Features by an image's key, read and verified at each use: (N, H), in the model's dtype, on the CPU."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def __getitem__(self, key: str) -> Tensor:
        features = _read(self._paths[key])
        if features is None:
            raise InputError(
                f"{self._paths[key]}: features of an image are damaged or gone; start again, with --resume"
            )
        return features

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def show_images(
    model: Any,
    image_paths: Mapping[str, Path],
    *,
    base_name: str,
    folder: str | Path | None = None,
    keep: bool = True,
    revision: str | None = None,
    offline: bool = False,
) -> None:
    """Give the model the features of these images and of a blank one, and remove its vision tower.

    image_paths: the file of each image, by its key. `folder`: where features are cached (default: the user's cache
    folder); with `keep` false they stay in memory only. Raises InputError for an image that has changed since.
    """
    causal = causal_model(model)
    processor = image_processor(base_name, revision=revision, offline=offline)
    wanted: dict[str, Path | None] = {**image_paths, BLANK_KEY: None}
    features: Mapping[str, Tensor]
    if keep:
        features = _kept(causal, processor, wanted, Path(folder or cache_folder() / "image_features"))
    else:
        features = {key: image_features(causal, processor, _open(key, path)) for key, path in _shown(wanted)}
    drop_tower(model)
    give_features(model, features, size=causal.config.mm_tokens_per_image)


def image_processor(name: str, *, revision: str | None = None, offline: bool = False) -> Gemma3ImageProcessorPil:
    """The base's own image processor, by Pillow, without crops. Raises InputError where its file is absent."""
    if is_embedded(name):
        name = str(embedded_folder(name))
    asked: dict[str, Any] = {"revision": revision or "main", "do_pan_and_scan": False}
    with quiet_libraries():
        try:
            return Gemma3ImageProcessorPil.from_pretrained(name, local_files_only=offline, **asked)
        except (OSError, ValueError) as error:
            raise InputError(f"--model_name_or_path {name}: its preprocessor_config.json: {reason(error)}") from error


@torch.no_grad()
def image_features(causal: Any, processor: Gemma3ImageProcessorPil, image: Image.Image) -> Tensor:
    """(N, H) on the CPU, in the model's dtype: transformers' `get_image_features` for this image alone."""
    pixels = processor(image, return_tensors="pt")["pixel_values"].to(causal.device, causal.dtype)
    features: Tensor = causal.get_image_features(pixels, return_dict=True).pooler_output[0]
    return features.cpu().contiguous()


def _kept(
    causal: Any, processor: Gemma3ImageProcessorPil, wanted: Mapping[str, Path | None], folder: Path
) -> FeatureFiles:
    make_cache_folder(folder)
    suffix = _maker_sha256(causal, processor)[:16]
    paths = {key: folder / f"{key}-{suffix}.features" for key in wanted}
    missing = {key: wanted[key] for key, path in paths.items() if _read(path) is None}
    for key, path in _shown(missing):
        data = save({"features": image_features(causal, processor, _open(key, path))})
        write_bytes_atomic(paths[key], hashlib.sha256(data).hexdigest().encode() + data, mode=PRIVATE_MODE)
    return FeatureFiles(paths)


def _shown(wanted: Mapping[str, Path | None]) -> Iterator[tuple[str, Path | None]]:
    yield from tqdm(wanted.items(), desc="images", unit="image", disable=not wanted)


def _open(key: str, path: Path | None) -> Image.Image:
    if path is None:
        return BLANK
    try:
        data = read_bytes(path)
        if key_of(data) == key:
            return decode(data)
        what = "has changed since its row was read"
    except ImageError as error:
        what = str(error)
    raise InputError(f"an image {what}: start again")


def _maker_sha256(causal: Any, processor: Gemma3ImageProcessorPil) -> str:
    """Hash of what features depend on besides the image: weights of tower and projector, processor, dtype, versions."""
    # `base_fingerprint` skips trainable parameters; these are never trained.
    modules = [part.requires_grad_(False) for part in (causal.model.vision_tower, causal.model.multi_modal_projector)]
    about = [
        FORMAT,
        *(base_fingerprint(module.named_parameters()) for module in modules),
        causal.config.vision_config.to_dict(),
        processor.to_dict(),
        [str(causal.dtype), causal.device.type],
        [metadata.version(package) for package in ("torch", "transformers", "pillow")],
    ]
    return json_sha256(about)


def _read(path: Path) -> Tensor | None:
    """The features in a file; None where it is absent or not as it was written."""
    try:
        data = read_plain_file(path)
    except OSError:
        return None
    if hashlib.sha256(data[HEX:]).hexdigest().encode() != data[:HEX]:
        return None
    return load(data[HEX:])["features"]
