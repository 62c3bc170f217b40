"""Generate notes for records, with training's prompt budget and a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.truncation import prompt_within
from medsum_core.generation.generate import Decoder, generate
from medsum_core.generation.note_files import GeneratedNote
from medsum_core.generation.search import Generation


def generated_note(id: str, generation: Generation, renderer: PromptRenderer) -> GeneratedNote:
    """The note of the row `id` from its tokens."""
    return GeneratedNote(
        id=id,
        note=renderer.decode(list(generation.token_ids)),
        num_tokens=len(generation.token_ids),
        hit_limit=generation.hit_limit,
    )


def generate_notes(
    model: Any,
    renderer: PromptRenderer,
    records: Sequence[Record],
    *,
    max_length: int,
    max_new_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    batch_size: int = 16,
    label: str = "notes",
    show_progress: bool = True,
    decoder: Decoder | None = None,
) -> list[GeneratedNote]:
    """A note for each record, in the records' order, decoded greedily or by beams under the training's prompt budget.

    The prompt gets `max_length - max_new_tokens` tokens, as in training; a dialogue that does not fit loses whole
    turns. Leaves each module in its training or evaluation mode.
    """
    budget = max_length - max_new_tokens
    prompts = [prompt_within(record, renderer, max_prompt_tokens=budget).ids for record in records]
    with tqdm(total=len(records), desc=label, unit="note", disable=not show_progress) as bar:

        def advance(index: int, generation: Generation) -> None:
            bar.update()

        generations = generate(
            model,
            prompts,
            stop_token_ids=renderer.stop_token_ids,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            batch_size=batch_size,
            decoder=decoder,
            on_finished=advance,
        )
    return [
        generated_note(record.id, generation, renderer) for record, generation in zip(records, generations, strict=True)
    ]
