"""The types of a live engine's interface (`live.py`): requests, listeners, statistics, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from medsum_core.errors import MedsumError
from medsum_core.generation.grounded_rules import Verifier

if TYPE_CHECKING:  # code that only passes requests on needs no torch
    from torch import Tensor

    from medsum_core.generation.search import Generation


@dataclass(frozen=True, kw_only=True)
class NoteRequest:
    """A note to write after a prompt (token ids), of at most `max_new_tokens` tokens, the stop token included.

    `verifier`: the note has no fact that it refuses (`grounded.py`). `use_adapter`: False for the base's own note, by
    an engine with `compare`. `images`: the features, (N, H), of each image in the prompt by its number
    (`data/image_tokens.py`). Prompt and images are left out of `repr`, and so out of logs and tracebacks.
    """

    prompt: tuple[int, ...] = field(repr=False)
    max_new_tokens: int
    verifier: Verifier | None = None
    use_adapter: bool = True
    images: Mapping[int, Tensor] = field(default_factory=dict, repr=False)


class Listener(Protocol):
    """Callbacks for one request, called in the engine's thread: all notes wait meanwhile, so they must return at once.

    After `on_finished`, `on_failed` or a cancellation there are no further calls, except one that has already begun. If
    a callback raises, its request is cancelled. Callbacks may submit and cancel, but not close the engine.
    """

    def on_token(self, token: int) -> None:
        """A token of a plain greedy note, the stop token excluded; those of beams and grounded notes may change."""
        ...

    def on_finished(self, generation: Generation) -> None:
        """The whole note."""
        ...

    def on_failed(self, error: BaseException) -> None:
        """There will be no note: a forward pass or its verifier failed, or the engine was closed (EngineStopped).

        The error's text may hold the note's: it belongs in no log.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """An engine's current load, and its totals since it was started."""

    num_waiting: int  # requests without a slot
    num_running: int
    num_slots: int  # with `compare` the tuned model and its base have as many each, and this is their sum
    prompt_tokens: int
    new_tokens: int  # one a step of each note, also of those that were cancelled
    prefill_seconds: float  # in forward passes with a prompt, which also advance running notes
    decode_seconds: float  # in all others


class QueueFull(MedsumError):  # noqa: N818 - as queue.Full
    """There is no room for these requests now; try again later. `waiting`: how many are before them."""

    def __init__(self, *, waiting: int) -> None:
        super().__init__(f"{waiting} notes are waiting already: try again later")
        self.waiting = waiting


class EngineStopped(MedsumError):  # noqa: N818 - a state, which may be wanted
    """The engine is closed, or has failed, and writes no more notes."""
