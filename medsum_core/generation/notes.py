"""Records in, the model's notes out: the prompt budget of training, a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.truncation import prompt_within
from medsum_core.generation.generate import Generation, generate


@dataclass(frozen=True, kw_only=True)
class GeneratedNote:
    """A note that a model wrote. The text is kept out of `repr`, and so out of logs and tracebacks."""

    id: str
    note: str = field(repr=False)
    num_tokens: int  # without the stop token
    hit_limit: bool  # True: it did not stop by itself
    truncated: bool  # True: the dialogue lost turns to fit the prompt budget


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
) -> list[GeneratedNote]:
    """A note for each record, in the records' order, decoded greedily or by beams under the training's prompt budget.

    The prompt gets `max_length - max_new_tokens` tokens, as in training; a dialogue that does not fit loses whole
    turns. The modules' modes are left as found.
    """
    budget = max_length - max_new_tokens
    prompts = [prompt_within(record, renderer, max_prompt_tokens=budget) for record in records]
    with tqdm(total=len(records), desc=label, unit="note", disable=not show_progress) as bar:

        def advance(index: int, generation: Generation) -> None:
            bar.update()

        generations = generate(
            model,
            [prompt.ids for prompt in prompts],
            stop_token_ids=renderer.stop_token_ids,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            batch_size=batch_size,
            on_finished=advance,
        )
    return [
        GeneratedNote(
            id=record.id,
            note=renderer.decode(list(generation.token_ids)),
            num_tokens=len(generation.token_ids),
            hit_limit=generation.hit_limit,
            truncated=prompt.num_turns_dropped > 0,
        )
        for record, generation, prompt in zip(records, generations, prompts, strict=True)
    ]
