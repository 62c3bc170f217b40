"""What a model reads at ids below 0: the features of images, which stand beside its table of words.

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
    """From here on the model's embedding answers ids below 0 (`data/image_tokens.py`) with features of images.

    features: (N, H) by an image's key; asked for each time, so that they may lie on disk; with `by_number` by its
    number, so that they may come and go. `size` is N. Words have the same embedding as before. An image that is not
    among them raises KeyError.
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
    """Remove vision tower and projector, which nothing needs once features are there; the text model stays."""
    causal = causal_model(model)
    assert isinstance(causal, PreTrainedModel)
    outer: Any = causal.model
    outer.vision_tower = outer.multi_modal_projector = None
