"""An engine for a server: requests join and leave the batch between two forward passes (continuous batching).

One thread owns the model; any other may submit and cancel. Requests start in the order of arrival, as soon as a slot is
free and within `batch.MAX_PROMPT_TOKENS` per forward pass, so that none starves. A note equals that of `generate` for
its prompt alone, whatever else is in the batch: both use `Batch`.

The cache is allocated once, for all slots and the largest request. Only families that are decoded one by one
(`own_cache.py`) allocate the model's own cache for each note.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Event, Thread
from time import perf_counter
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from medsum_core.data.image_tokens import numbers_in
from medsum_core.errors import InputError
from medsum_core.generation.banned_tokens import BanRules
from medsum_core.generation.batch import Batch, Forward
from medsum_core.generation.beam import BeamRules
from medsum_core.generation.generate import (
    Decoder,
    built_in_rule,
    check_can_go_back,
    check_token_ids,
    decoder_and_cache,
    num_positions,
)
from medsum_core.generation.grounded import GroundedNotes
from medsum_core.generation.request_queue import RequestQueue
from medsum_core.generation.requests import EngineStats, EngineStopped, Listener, NoteRequest
from medsum_core.generation.search import Note
from medsum_core.model.forward import causal_model, evaluation_mode, inner_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """The tuned model's notes, or its base's: the batch, its queue, and the context in which its steps run."""

    batch: Batch
    waiting: deque[Note]
    adapter: Callable[[], AbstractContextManager[Any]]


class LiveEngine:
    """Writes the notes that any thread submits. `start` it, and `close` it at the end."""

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        *,
        decoder: Decoder | None,
        stop_token_ids: Sequence[int],
        num_slots: int,
        max_tokens: int,
        max_new_tokens: int,
        max_waiting: int,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        decode: Callable[[list[int]], str] | None = None,
        full_stops: frozenset[int] = frozenset(),
        compare: bool = False,
    ) -> None:
        """The arguments of `generate`, and the engine's limits; nothing is allocated before `start`.

        num_slots: notes being written at a time, each with all its beams.
        max_tokens, max_new_tokens: limits of a request's prompt and note together, and of its note.
        max_waiting: limit of requests without a slot.
        decode, full_stops: as in `Grounding`; without `decode` no request may have a verifier.
        compare: requests may also be for the base alone, which then has its own slots, as many as the tuned model.
        Raises InputError where the model has too few positions, ValueError for invalid limits.
        """
        self._model, self._causal = model, causal_model(model)
        room = num_positions(self._causal.config)
        if not (num_slots > 0 and num_beams > 0 and 0 < max_new_tokens < max_tokens and max_waiting >= 0):
            raise ValueError("at least one slot and beam, 0 < max_new_tokens < max_tokens and 0 <= max_waiting")
        if compare and not isinstance(model, PeftModel):
            raise ValueError("compare: a model without an adapter has no base to compare it with")
        if room is not None and max_tokens > room:
            raise InputError(
                f"{max_tokens} tokens for prompt and note, but this model has room for {room}: lower --max_new_tokens"
            )
        self._decoder, self._cache_type = decoder_and_cache(self._causal, decoder)
        self._stops = frozenset(stop_token_ids)
        self._rules = BeamRules(num_beams=num_beams, length_penalty=length_penalty)
        self._bans = BanRules(stop_token_ids=self._stops, no_repeat_ngram_size=no_repeat_ngram_size)
        self._num_slots, self._max_tokens, self._max_new_tokens = num_slots, max_tokens, max_new_tokens
        self._decode, self._full_stops, self._adapters = decode, full_stops, (True, False)[: 1 + compare]
        self._queue = RequestQueue(room=num_slots * len(self._adapters) + max_waiting, lanes=self._adapters)
        self._thread = Thread(target=self._run, name="medsum-engine", daemon=True)
        self._is_ready, self._is_closing, self._is_stopping = Event(), False, False
        self._error: BaseException | None = None
        self._prompt_tokens = self._new_tokens = 0
        self._prefill_seconds = self._decode_seconds = 0.0

    def start(self) -> None:
        """Start the thread; returns when the cache is allocated and notes can be written. Raises the thread's error."""
        self._thread.start()
        self._is_ready.wait()
        if self._error is not None:
            raise self._error

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and writes notes."""
        return self._is_ready.is_set() and self._error is None and self._thread.is_alive()

    def submit(self, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
        """Accept all of these requests, or none; returns their ids. Their listeners may be called before it returns.

        Raises QueueFull, EngineStopped, InputError for a request beyond this engine's limits, ValueError for an invalid
        one.
        """
        for request in requests:
            self._check(request)
        return self._queue.add(requests, listeners)

    def cancel(self, request_id: int) -> None:
        """Cancel a request, waiting or running; its slot is free before the next forward pass. May be called twice."""
        self._queue.end(request_id)

    def stats(self) -> EngineStats:
        """The current counts."""
        with self._queue.changed:
            num_waiting = self._queue.num_waiting
            return EngineStats(
                num_waiting=num_waiting,
                num_running=self._queue.num_requests - num_waiting,
                num_slots=self._num_slots * len(self._adapters),
                prompt_tokens=self._prompt_tokens,
                new_tokens=self._new_tokens,
                prefill_seconds=self._prefill_seconds,
                decode_seconds=self._decode_seconds,
            )

    def close(self, *, seconds: float) -> None:
        """Accept no more requests; give accepted ones `seconds` to finish, then fail the rest and end the thread.

        Waits for a running forward pass.
        """
        with self._queue.changed:
            self._queue.is_open, self._is_closing = False, True
            self._queue.changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(seconds)
        self._is_stopping = True  # read before each forward pass: a closing engine waits for nothing else
        self._thread.join()

    def _check(self, request: NoteRequest) -> None:
        if not request.prompt or request.max_new_tokens < 1:
            raise ValueError("a request needs a prompt and room for a token")
        num_tokens = len(request.prompt) + request.max_new_tokens
        if num_tokens > self._max_tokens or request.max_new_tokens > self._max_new_tokens:
            raise InputError(
                f"prompt and note could have {num_tokens} tokens, the note {request.max_new_tokens} of them: at most "
                f"{self._max_tokens} and {self._max_new_tokens} are taken; shorten the source text"
            )
        check_token_ids(request.prompt, self._causal.config)
        if not numbers_in(request.prompt, self._causal.config) <= set(request.images):
            raise ValueError("an image of the prompt has no features")
        if request.use_adapter not in self._adapters:
            raise ValueError("use_adapter=False: this engine was not made with compare=True")
        if request.verifier is not None:
            check_can_go_back(self._causal.config, self._cache_type)
            if self._decode is None:
                raise ValueError("a verifier needs an engine with `decode`")

    # ---- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException = EngineStopped("the engine was closed before this note was finished")
        try:
            with ExitStack() as stack:
                lanes = self._open_lanes(stack)
                self._queue.is_open = not self._is_closing
                self._is_ready.set()
                while self._next_step(lanes):
                    for lane in lanes:
                        self._step(lane)
        except BaseException as found:  # any error: no request may wait for ever
            error = self._error = found
            logger.error("no more notes are written: %s", type(found).__name__)
        self._queue.close(error)
        self._is_ready.set()

    def _open_lanes(self, stack: ExitStack) -> list[_Lane]:
        """A decoder and a cache for the tuned model and, with `compare`, for its base; closed by `stack`."""
        lanes = []
        stack.enter_context(evaluation_mode(self._causal))
        stack.enter_context(torch.no_grad())
        for use_adapter in self._adapters:
            adapter: Any = nullcontext if use_adapter else self._model.disable_adapter
            with adapter():  # packed weights are those of the adapters that are active now
                forward = stack.enter_context(self._decoder(self._causal))
                batch = self._batch(forward)
                # The cache is allocated at its first use: do that now, so that lack of memory fails no request later.
                batch.join(deque([Note(index=-1, prompt=(0,), min_new=0, max_new=1)]))
                batch.step()
            lanes.append(_Lane(batch=batch, waiting=self._queue.waiting[use_adapter], adapter=adapter))
        return lanes

    def _batch(self, forward: Forward) -> Batch:
        room: dict[str, Any] = {"num_slots": self._num_slots, "max_new_tokens": self._max_new_tokens}
        tell = self._queue.tell_token
        rule = built_in_rule(self._rules, self._stops, **room, device=self._causal.device, on_token=tell)
        beams = rule.num_beams
        capacity = self._max_tokens - self._max_new_tokens + beams * (self._max_new_tokens - 1)
        cache = self._cache_type(self._num_slots, beams, capacity, device=self._causal.device)
        grounded = None
        if self._decode is not None:
            grounded = GroundedNotes(rule, self._stops, decode=self._decode, full_stops=self._full_stops)
        return Batch(forward, rule, self._bans, cache, num_slots=self._num_slots, grounded=grounded)

    def _next_step(self, lanes: Sequence[_Lane]) -> bool:
        """Wait for work, then remove ended notes and add waiting ones; False when the engine is to stop."""
        queue = self._queue
        with queue.changed:
            queue.changed.wait_for(lambda: queue.num_requests or queue.leaving or self._is_closing)
            if self._is_stopping or (self._is_closing and not queue.num_requests):
                return False
            for lane in lanes:
                for note in queue.leaving:
                    lane.batch.leave(note)
                lane.batch.join(lane.waiting)
            queue.leaving.clear()
        return True

    def _step(self, lane: _Lane) -> None:
        if not (lane.batch.active or lane.batch.starting):
            return
        num_prompt_tokens = sum(len(note.prompt) for note in lane.batch.starting)
        begin = perf_counter()
        with lane.adapter(), self._shown(lane.batch.starting):
            finished = lane.batch.step()
        seconds = perf_counter() - begin
        with self._queue.changed:
            self._prompt_tokens += num_prompt_tokens
            self._new_tokens += len(lane.batch.active) + len(finished)
            if num_prompt_tokens:
                self._prefill_seconds += seconds
            else:
                self._decode_seconds += seconds
        for note, generation in finished:
            self._queue.finish(note.index, generation)

    @contextmanager
    def _shown(self, starting: Sequence[Note]) -> Iterator[None]:
        """Set the image features of the notes that start, for this forward pass only, in which prompts are read."""
        images = {number: features for note in starting for number, features in note.images.items()}
        if not images:
            yield
            return
        table: Any = inner_model(self._model).get_input_embeddings()
        table.image_features.update(images)
        try:
            yield
        finally:
            table.image_features.clear()
