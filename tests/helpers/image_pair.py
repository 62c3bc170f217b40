"""Our model over cached features and transformers' own over pixels, with the same weights, for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from image_models import (
    SIZE,
    image_model,
    image_processor_of_tiny,
    image_window,
    random_image,
    save_images,
    tokens_of_images,
)
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from windows import NO_DROPOUT, plain_peft, randomise_adapter

from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.images.embedding import drop_tower, give_features
from medsum_core.images.features import image_features
from medsum_core.model.lora import attach_lora, fit_to, trainable_parameters


class Pair:
    """Our model with cached features and no tower, transformers' own with tower and pixels, and rows for both."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.theirs, self.ours = (image_model().to(device) for _ in range(2))
        self.image_paths = save_images(folder, 3)
        processor = image_processor_of_tiny()
        images = dict(zip(self.image_paths, map(random_image, range(3)), strict=True))
        self.pixels = {
            key: processor(image, return_tensors="pt")["pixel_values"].to(device) for key, image in images.items()
        }
        self.features = {key: image_features(self.ours, processor, image) for key, image in images.items()}
        self.images = tokens_of_images(self.ours)
        self.rows = image_window(list(self.image_paths), self.images)
        self.targets = fit_to(self.ours, NO_DROPOUT)
        drop_tower(self.ours)
        give_features(self.ours, self.features, size=SIZE)

    def tuned(self) -> tuple[PeftModel, PeftModel]:
        """Both with the same random adapter."""
        self.ours.requires_grad_(False)
        ours = randomise_adapter(attach_lora(self.ours, self.targets, base_name="tiny"))
        return ours, plain_peft(self.theirs, ours, self.targets)

    def inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        """What transformers takes for a row: soft tokens for images, their pixels, and where they are."""
        ids_T = torch.tensor(ids, device=self.theirs.device)
        firsts = [-1 - token for token in ids if token < 0 and (-1 - token) % SIZE == 0]
        by_number = {int(key[:12], 16): key for key in self.image_paths}
        pixels = [self.pixels[by_number[first // SIZE]] for first in firsts]
        soft = self.theirs.config.image_token_id
        return {
            "input_ids": ids_T.masked_fill(ids_T < 0, soft)[None],
            "token_type_ids": (ids_T < 0).long()[None],
            "attention_mask": torch.ones_like(ids_T)[None],
            **({"pixel_values": torch.cat(pixels)} if pixels else {}),
        }

    def reference_gradient(self, theirs: PeftModel) -> tuple[float, list[Tensor]]:
        """Loss and adapter gradients of the rows' window by transformers' own forward of each row from pixels."""
        losses = []
        for row in self.rows:
            logits = theirs(**self.inputs(row.input_ids), use_cache=False).logits[0]
            targets = torch.tensor(row.targets, device=logits.device)
            losses.append(cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum"))
        loss = torch.stack(losses).sum() / sum(row.num_targets for row in self.rows)
        parameters = [parameter for _, parameter in trainable_parameters(theirs)]
        return loss.item(), list(torch.autograd.grad(loss, parameters))
