"""A tiny random Gemma 3 with its SigLIP tower, a tokenizer with the tokens of images, images, and rows that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from support import TINY_VOCAB, tiny_config, tiny_tokenizer
from transformers import AddedToken, Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from windows import make_example

from medsum_core.data.image_tokens import ImageTokens, image_tokens
from medsum_core.data.masking import Example
from medsum_core.images.read_image import key_of

SIZE = 4  # positions of an image; the sliding window is 8
SIDE = 28  # pixels
EXTRA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


def image_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(chat=chat)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in EXTRA.values()])
    for name, token in EXTRA.items():  # as Gemma's own tokenizer has them, which Gemma3Processor asks for
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def image_config(tokenizer: Any = None, **text: Any) -> Gemma3Config:
    tokenizer = tokenizer or image_tokenizer()
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    indices = {
        f"{name}_token_index": tokenizer.convert_tokens_to_ids(EXTRA[f"{name}_token"])
        for name in ("boi", "eoi", "image")
    }
    shape = {"initializer_range": 0.08, **text}
    return Gemma3Config(
        text_config=tiny_config("gemma3_text", **shape).to_dict(),
        vision_config={**vision, "image_size": SIDE, "patch_size": 14},
        mm_tokens_per_image=SIZE,
        tie_word_embeddings=True,
        **indices,
    )


def image_model(*, seed: int = 0, **text: Any) -> Gemma3ForConditionalGeneration:
    """In evaluation mode, fp32. transformers leaves the projector at zero, which would hide every image."""
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(image_config(**text))
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.3)
    return model.eval()


def image_processor_of_tiny() -> Gemma3ImageProcessorPil:
    return Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_pan_and_scan=False)


def save_image_base(folder: Path, *, chat: bool = True, **text: Any) -> Path:
    """A base's folder: weights, tokenizer, image processor."""
    image_model(**text).save_pretrained(folder)
    image_tokenizer(chat=chat).save_pretrained(folder)
    image_processor_of_tiny().save_pretrained(folder)
    return folder


def random_image(seed: int, *, side: int = 40) -> Image.Image:
    draws = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(draws.numpy())


def save_images(folder: Path, number: int) -> dict[str, Path]:
    """Random images as PNG, by their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.png" for seed in range(number)]
    for seed, path in enumerate(paths):
        random_image(seed).save(path)
    return {key_of(path.read_bytes()): path for path in paths}


def tokens_of_images(model: Any) -> ImageTokens:
    return image_tokens(model.config, image_tokenizer())


def with_images(example: Example, keys: list[str], images: ImageTokens, *, at: int = 3) -> Example:
    """The row with images among its prompt, from position `at` on."""
    tokenizer = image_tokenizer()
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in (images.start, images.end))
    added = [start, *images.ids(keys), end]
    ids, targets = list(example.input_ids), list(example.targets)
    return Example(
        id=example.id,
        input_ids=tuple(ids[:at] + added + ids[at:]),
        targets=tuple(targets[:at] + [-100] * len(added) + targets[at:]),
        num_prompt_tokens=example.num_prompt_tokens + len(added),
        num_turns_dropped=0,
    )


def image_window(keys: list[str], images: ImageTokens) -> list[Example]:
    """Rows with one image, with two, with the same image twice, and with none; some longer than the window of 8."""
    shown = [keys[:1], keys[1:3], [keys[0], keys[0]], [], keys[2:3], [keys[1], keys[0], keys[2]]]
    rows = [
        make_example(5 + 3 * number, 3 + number, seed=number, vocab=TINY_VOCAB - 112) for number in range(len(shown))
    ]
    return [with_images(row, some, images) if some else row for row, some in zip(rows, shown, strict=True)]
