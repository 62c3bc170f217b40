"""Notes written as they are asked for: they join and leave the batch between two forward passes, for a server.

One thread owns the model; any other may submit and cancel. Who comes first starts first, as soon as a slot is free and
within `batch.MAX_PROMPT_TOKENS` of a forward pass, so that no request is starved. A note is the one that `generate`
writes for its prompt alone, whoever comes and goes beside it: both take their steps by `Batch`.

The cache is allocated once, slots times the most keys of a request. Only families that are decoded one by one
(`own_cache.py`) have a cache of the model's own for each note, which comes and goes with it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from threading import Condition, Event, Thread
from time import perf_counter
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

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
from medsum_core.generation.requests import EngineStats, EngineStopped, Listener, NoteRequest, QueueFull
from medsum_core.generation.search import Generation, Note
from medsum_core.model.forward import causal_model, evaluation_mode

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Lane:
    """The notes of the tuned model, or those of its base: a batch, and who waits for it."""

    batch: Batch
    adapter: Callable[[], AbstractContextManager[Any]]  # in which the batch takes its steps
    waiting: deque[Note] = field(default_factory=deque)


@dataclass(kw_only=True)
class _Request:
    """A request that has not ended."""

    note: Note
    listener: Listener
    lane: _Lane


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
        """What is given to `generate`, and the engine's bounds; nothing is allocated before `start`.

        num_slots: notes being written at a time, each with all its beams.
        max_tokens, max_new_tokens: the most of a request's prompt and note together, and of its note.
        max_waiting: the most requests beyond those that have a slot.
        decode, full_stops: as in `Grounding`; without `decode` no request may have a verifier.
        compare: requests may be for the base alone too; it has as many slots of its own.
        Raises InputError where the model has no room for so many tokens, ValueError for bounds that make no sense.
        """
        self._model, self._causal = model, causal_model(model)
        room = num_positions(self._causal.config)
        if not (num_slots > 0 and num_beams > 0 and 0 < max_new_tokens < max_tokens and max_waiting >= 0):
            raise ValueError("num_slots, num_beams and 0 < max_new_tokens < max_tokens must be positive numbers")
        if compare and not isinstance(model, PeftModel):
            raise ValueError("compare: a model without an adapter has no base to compare it with")
        if room is not None and max_tokens > room:
            raise InputError(f"{max_tokens} tokens for prompt and note, but this model has room for {room}")
        self._decoder, self._cache_type = decoder_and_cache(self._causal, decoder)
        self._stops = frozenset(stop_token_ids)
        self._rules = BeamRules(num_beams=num_beams, length_penalty=length_penalty)
        self._bans = BanRules(stop_token_ids=self._stops, no_repeat_ngram_size=no_repeat_ngram_size)
        self._num_slots, self._max_tokens, self._max_new_tokens = num_slots, max_tokens, max_new_tokens
        self._decode, self._full_stops, self._adapters = decode, full_stops, (True, False)[: 1 + compare]
        self._room = num_slots * len(self._adapters) + max_waiting

        self._thread = Thread(target=self._run, name="medsum-engine", daemon=True)
        self._changed = Condition()  # guards all that follows
        self._ready, self._is_alive, self._is_closing, self._is_stopping = Event(), False, False, False
        self._error: BaseException | None = None
        self._lanes: dict[bool, _Lane] = {}  # by use_adapter
        self._open: dict[int, _Request] = {}
        self._leaving: list[tuple[_Lane, Note]] = []
        self._ids = count()
        self._prompt_tokens = self._new_tokens = 0
        self._prefill_seconds = self._decode_seconds = 0.0

    def start(self) -> None:
        """Start the thread; returns once it can write notes, the cache allocated. Raises what kept it from that."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    @property
    def is_alive(self) -> bool:
        """Whether the thread goes on writing notes."""
        return self._is_alive

    def submit(self, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
        """Take all of these requests, or none; returns their ids. Their listeners may be called before it returns.

        Raises QueueFull, EngineStopped, InputError for one that this engine can't write, ValueError for one that makes
        no sense.
        """
        for request in requests:
            self._check(request)
        if len(requests) > self._room:
            raise InputError(f"{len(requests)} notes at once, but at most {self._room} are taken")
        with self._changed:
            if self._is_closing or not self._is_alive:
                raise EngineStopped("the engine is not running")
            if len(self._open) + len(requests) > self._room:
                raise QueueFull(waiting=self._num_waiting())
            pairs = zip(requests, listeners, strict=True)
            ids = [self._take(request, listener) for request, listener in pairs]
            self._changed.notify()
        return ids

    def cancel(self, request_id: int) -> None:
        """Forget a request, waiting or running; its slot is free before the next forward pass. Twice does no harm."""
        self._end(request_id)

    def stats(self) -> EngineStats:
        """Counts of this moment."""
        with self._changed:
            num_waiting = self._num_waiting()
            return EngineStats(
                num_waiting=num_waiting,
                num_running=len(self._open) - num_waiting,
                num_slots=self._num_slots * len(self._adapters),
                prompt_tokens=self._prompt_tokens,
                new_tokens=self._new_tokens,
                prefill_seconds=self._prefill_seconds,
                decode_seconds=self._decode_seconds,
            )

    def close(self, *, seconds: float) -> None:
        """Take no more requests; finish those taken within `seconds`, then fail the rest and end the thread.

        A forward pass that has begun is waited for.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(seconds)
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _check(self, request: NoteRequest) -> None:
        if not request.prompt or request.max_new_tokens < 1:
            raise ValueError("a request needs a prompt and room for a token")
        num_tokens = len(request.prompt) + request.max_new_tokens
        if num_tokens > self._max_tokens or request.max_new_tokens > self._max_new_tokens:
            raise InputError(
                f"prompt and note could have {num_tokens} tokens, the note {request.max_new_tokens} of them: at most "
                f"{self._max_tokens} and {self._max_new_tokens} are taken"
            )
        check_token_ids(request.prompt, self._causal.config)
        if request.use_adapter not in self._adapters:
            raise ValueError("use_adapter=False: this engine was not made with compare=True")
        if request.verifier is not None:
            check_can_go_back(self._causal.config, self._cache_type)
            if self._decode is None:
                raise ValueError("a verifier needs an engine with `decode`")

    def _take(self, request: NoteRequest, listener: Listener) -> int:
        number, lane = next(self._ids), self._lanes[request.use_adapter]
        verifier = None if request.verifier is None else partial(self._verify, number, request.verifier)
        longest = request.max_new_tokens
        note = Note(index=number, prompt=tuple(request.prompt), min_new=0, max_new=longest, verifier=verifier)
        self._open[number] = _Request(note=note, listener=listener, lane=lane)
        lane.waiting.append(note)
        return number

    def _num_waiting(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def _end(self, number: int) -> _Request | None:
        """The request, which from now on is neither waiting nor heard of; None if it has ended before."""
        with self._changed:
            request = self._open.pop(number, None)
            if request is None:
                return None
            if request.note in request.lane.waiting:
                request.lane.waiting.remove(request.note)
            else:
                self._leaving.append((request.lane, request.note))
                self._changed.notify()
        return request

    # ---- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException = EngineStopped("the engine was closed before this note was finished")
        try:
            with ExitStack() as stack:
                self._open_lanes(stack)
                self._is_alive = True
                self._ready.set()
                while self._next_step():
                    for lane in self._lanes.values():
                        self._step(lane)
        except BaseException as found:  # whatever it was: no request may be left waiting for ever
            error = self._error = found
            logger.error("no more notes are written: %s", type(found).__name__)
        with self._changed:
            self._is_alive = False
            left = list(self._open)
        for number in left:
            self._fail(number, error)
        self._ready.set()

    def _open_lanes(self, stack: ExitStack) -> None:
        """The decoder and the cache of each lane, for as long as the engine lives."""
        stack.enter_context(evaluation_mode(self._causal))
        stack.enter_context(torch.no_grad())
        for use_adapter in self._adapters:
            adapter: Any = nullcontext if use_adapter else self._model.disable_adapter
            with adapter():  # packed weights are those of the adapters that are active now
                forward = stack.enter_context(self._decoder(self._causal))
                batch = self._batch(forward)
                # A cache is allocated at its first use: too little memory shows now, not in somebody's request.
                batch.join(deque([Note(index=-1, prompt=(0,), min_new=0, max_new=1)]))
                batch.step()
            self._lanes[use_adapter] = _Lane(batch=batch, adapter=adapter)

    def _batch(self, forward: Forward) -> Batch:
        room: dict[str, Any] = {"num_slots": self._num_slots, "max_new_tokens": self._max_new_tokens}
        rule = built_in_rule(self._rules, self._stops, **room, device=self._causal.device, on_token=self._on_token)
        beams = rule.num_beams
        capacity = self._max_tokens - self._max_new_tokens + beams * (self._max_new_tokens - 1)
        cache = self._cache_type(self._num_slots, beams, capacity, device=self._causal.device)
        grounded = None
        if self._decode is not None:
            grounded = GroundedNotes(rule, self._stops, decode=self._decode, full_stops=self._full_stops)
        return Batch(forward, rule, self._bans, cache, num_slots=self._num_slots, grounded=grounded)

    def _next_step(self) -> bool:
        """Wait for something to do, and let notes leave and join; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._leaving or self._is_closing)
            if self._is_stopping or (self._is_closing and not self._open):
                return False
            for lane, note in self._leaving:
                lane.batch.leave(note)
            self._leaving.clear()
            for lane in self._lanes.values():
                lane.batch.join(lane.waiting)
        return True

    def _step(self, lane: _Lane) -> None:
        if not (lane.batch.active or lane.batch.starting):
            return
        num_prompt_tokens = sum(len(note.prompt) for note in lane.batch.starting)
        begin = perf_counter()
        with lane.adapter():
            finished = lane.batch.step()
        seconds = perf_counter() - begin
        with self._changed:
            self._prompt_tokens += num_prompt_tokens
            self._new_tokens += len(lane.batch.active) + len(finished)
            if num_prompt_tokens:
                self._prefill_seconds += seconds
            else:
                self._decode_seconds += seconds
        for note, generation in finished:
            self._finish(note.index, generation)

    # ---- listeners ---------------------------------------------------------------------------------------------------

    def _on_token(self, number: int, token: int) -> None:
        request = self._open.get(number)
        if request is not None and request.note.verifier is None:
            self._tell(number, partial(request.listener.on_token, token))

    def _finish(self, number: int, generation: Generation) -> None:
        with self._changed:
            request = self._open.pop(number, None)
        if request is not None:
            self._tell(number, partial(request.listener.on_finished, generation))

    def _fail(self, number: int, error: BaseException) -> None:
        request = self._end(number)
        if request is not None:
            self._tell(number, partial(request.listener.on_failed, error))

    def _tell(self, number: int, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a listener's fault is not another's; its message could hold text
            logger.error("request %d is cancelled: its listener raised %s", number, type(error).__name__)
            self.cancel(number)

    def _verify(self, number: int, verifier: Callable[[str], Sequence[tuple[int, int]]], text: str) -> Any:
        """A verifier that fails must not take others' notes with it."""
        try:
            return verifier(text)
        except Exception as error:
            logger.error("request %d failed: its verifier raised %s", number, type(error).__name__)
            self._fail(number, error)
            return ()
