"""The likelihood of each option of a choice: the sum of its tokens' log-probabilities after the prompt.

Options are not sampled and not normalised by length. They share forward passes: if all are one token long, as yes, no
and maybe are, one pass over the prompt gives all of them.

Letters: R rows of candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medsum_core.data.prompt import PromptRenderer
from medsum_core.errors import InputError
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.generate import Decoder, generate
from medsum_core.generation.search import Generation, Note, finish

Option = tuple[int, ...]


def likeliest_options(
    model: Any, renderer: PromptRenderer, prompts: Sequence[Sequence[int]], *, decoder: Decoder | None = None
) -> list[str]:
    """The likeliest option after each prompt, of equal ones the first; [] for a task without `by_likelihood`."""
    choice = renderer.task.answer.choice
    if choice is None or not choice.by_likelihood:
        return []
    found = option_log_probs(model, prompts, option_ids(renderer), decoder=decoder)
    return [choice.options[max(range(len(row)), key=row.__getitem__)] for row in found]


def option_ids(renderer: PromptRenderer) -> list[Option]:
    """The tokens of each option. Raises InputError if an answer that begins with an option is tokenized differently."""
    choice = renderer.task.answer.choice
    assert choice is not None
    options = [tuple(renderer.text_ids(option)) for option in choice.options]
    for option, ids in zip(choice.options, options, strict=True):
        if tuple(renderer.note_ids(f"{option}\nA reason."))[: len(ids)] != ids:
            raise InputError(
                "this model's tokenizer joins an option with what follows it: score generated answers only"
            )
    return options


def option_log_probs(
    model: Any, prompts: Sequence[Sequence[int]], options: Sequence[Option], *, decoder: Decoder | None = None
) -> list[list[float]]:
    """For each prompt, the log-probability (nats) of each option's tokens after it."""
    beginnings = list(dict.fromkeys(option[:-1] for option in options))
    search = _ReadOptions(options, beginnings)
    generate(
        model,
        [prompt for prompt in prompts for _ in beginnings],
        stop_token_ids=(),
        max_new_tokens=[len(beginning) + 1 for _ in prompts for beginning in beginnings],
        decoder=decoder,
        search=lambda _: search,
    )
    joined: list[dict[Option, float]] = [{} for _ in prompts]
    for number, values in search.found.items():
        joined[number // len(beginnings)] |= values
    return [[values[option] for option in options] for values in joined]


class _ReadOptions:
    """A decoding rule that writes the tokens of an option but the last, then reads the log-probability of the last."""

    num_beams = 1
    num_candidates = 1 << 30  # the whole vocabulary

    def __init__(self, options: Sequence[Option], beginnings: Sequence[Option]) -> None:
        self._options, self._beginnings = options, beginnings
        self.found: dict[int, dict[Option, float]] = {}  # log-probabilities by a note's number

    def advance(self, notes: Sequence[Note], candidates: Candidates) -> tuple[Tensor, None, list[bool]]:
        """See `Search`."""
        log_probs_RV = torch.empty_like(candidates.log_probs_Mk).scatter_(
            1, candidates.tokens_Mk, candidates.log_probs_Mk
        )
        tokens, done = [], []
        for note, log_probs_V in zip(notes, log_probs_RV, strict=True):
            beginning = self._beginnings[note.index % len(self._beginnings)]
            is_last = note.num_written == len(beginning)
            token = 0 if is_last else beginning[note.num_written]  # the last is not read any more
            if is_last:
                ends = [option for option in self._options if option[:-1] == beginning]
                self.found[note.index] = {option: note.score + log_probs_V[option[-1]].item() for option in ends}
            note.score += log_probs_V[token].item()
            note.tokens.append(token)
            note.num_written += 1
            tokens.append(token)
            done.append(is_last)
        return torch.tensor(tokens, device=candidates.tokens_Mk.device)[:, None], None, done

    def written(self, notes: Sequence[Note]) -> list[list[int]]:
        """See `Search`."""
        return [note.tokens for note in notes]

    def result(self, note: Note, slot: int) -> Generation:
        """See `Search`."""
        return finish(note.tokens, note.score, frozenset())

    def move_slot(self, source: int, target: int) -> None:
        """See `Search`. There is no state by slot."""
