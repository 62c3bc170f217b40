"""Embeddings for negative ids: the features of images, in addition to the model's token embeddings.

Letters: B rows, T positions, N positions of an image, H hidden size, P image positions among B x T, K images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.data.image_tokens import image_number
from medsum_core.model.forward import causal_model, inner_model


def give_features(model: Any, features: Mapping[Any, Tensor], *, size: int, by_number: bool = False) -> None:
    """Make the model's embedding return features of images for negative ids (`data/image_tokens.py`).

    features: (N, H) by an image's key, looked up at each use, so that they may be on disk; with `by_number` by its
    number, so that entries may be added and removed. `size` is N. Other tokens keep their embedding. An image without
    features raises KeyError.
    """
    embedding: Any = inner_model(model).get_input_embeddings()
    of_words, keys = embedding.forward, {} if by_number else {image_number(key): key for key in features}

    def forward(ids_BT: Tensor) -> Tensor:
        is_image_BT = ids_BT < 0
        hidden_BTH: Tensor = of_words(ids_BT.masked_fill(is_image_BT, 0))
        places_P = -1 - ids_BT[is_image_BT]
        if not len(places_P):
            return hidden_BTH
        numbers_K, image_P = (places_P // size).unique(return_inverse=True)
        found_K = [features[number if by_number else keys[number]] for number in numbers_K.tolist()]
        features_KNH = torch.stack(found_K).to(hidden_BTH)
        return hidden_BTH.masked_scatter(is_image_BT[..., None], features_KNH[image_P, places_P % size])

    embedding.forward, embedding.image_features = forward, features


def drop_tower(model: Any) -> None:
    """Remove vision tower and projector, which are not needed once features are computed; the text model stays."""
    causal = causal_model(model)
    assert isinstance(causal, PreTrainedModel)
    outer: Any = causal.model
    outer.vision_tower = outer.multi_modal_projector = None
