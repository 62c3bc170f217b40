"""The prompt of a task that shows images, without them: what a model writes that has seen nothing."""

from __future__ import annotations

from dataclasses import replace

from medsum_core.data.image_tokens import AROUND
from medsum_core.data.prompt import PromptRenderer


def question_only(renderer: PromptRenderer) -> PromptRenderer:
    """The same prompt without its images, nor the tokens around them."""
    images, (before, after, *others) = renderer.images, renderer.fixed_texts
    assert images is not None
    text = before.removesuffix(AROUND + images.start) + after.removeprefix(images.end + AROUND)
    ids = renderer.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
    return replace(
        renderer,
        task=renderer.task.without_images(),
        fixed_ids=(tuple(ids), *renderer.fixed_ids[2:]),
        fixed_texts=(text, *others),
        images=None,
    )
