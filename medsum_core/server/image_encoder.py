"""Compute the features of a request's images with the vision tower; images and features are not stored.

Imported only for a run whose task has images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from PIL import Image
from torch import Tensor

from medsum_core.data.image_tokens import image_number
from medsum_core.images.embedding import drop_tower, give_features
from medsum_core.images.features import BLANK, image_features
from medsum_core.images.read_image import ImageError, decode
from medsum_core.model.forward import causal_model, inner_model
from medsum_core.server.limits import Limits
from medsum_core.server.refusal import bad_request


class VisionTowerEncoder:
    """The tower of a loaded model, with its image processor; for any thread, one image at a time."""

    def __init__(self, model: Any, processor: Any) -> None:
        """Take the tower out of the model, which from then on reads features that are given with each request."""
        of_this_pass: dict[int, Tensor] = {}  # which the engine fills and clears (`generation/live.py`)
        give_features(model, of_this_pass, size=causal_model(model).config.mm_tokens_per_image, by_number=True)
        self._tower = take_tower(model)
        self._processor = processor
        self._lock = Lock()

    def features(self, files: Sequence[bytes], keys: Sequence[str], *, limits: Limits) -> dict[int, Tensor]:
        """The features of each image by the number of its key. Raises Refusal for one that can't be read."""
        found = {}
        for place, (data, key) in enumerate(zip(files, keys, strict=True)):
            with self._lock:  # on its way an image takes up to 28 bytes a pixel, greys of 16 bits the most
                found[image_number(key)] = self._features(decoded(data, place, limits))
        return found

    def blank(self, key: str) -> Mapping[int, Tensor]:
        """The features of a blank image."""
        return {image_number(key): self._features(BLANK)}

    def _features(self, image: Image.Image) -> Tensor:
        return image_features(self._tower, self._processor, image)


def decoded(data: bytes, place: int, limits: Limits) -> Image.Image:
    """The decoded image file number `place` of a request. Raises Refusal for one that can't be read."""
    try:
        return decode(data, dicom=False, max_pixels=limits.max_image_pixels)
    except ImageError as error:
        raise bad_request(f"image {place + 1} {error}: send it whole, as JPEG or PNG", code="bad_image") from None


def take_tower(model: Any) -> Any:
    """Remove vision tower and projector from the model; returns the encoder made of them.

    It shares no module and no configuration with the model: decoding changes the dtype of a model's weights and the
    attention of its configuration, the tower's too, for as long as it decodes.
    """
    causal: Any = causal_model(model)
    tower = copy.copy(causal.model)
    tower._modules = {name: part for name, part in causal.model.named_children() if part is not inner_model(model)}
    config = copy.deepcopy(tower.vision_tower.config)
    for part in tower.vision_tower.modules():
        if hasattr(part, "config"):
            part.config = config
    drop_tower(model)
    return tower
