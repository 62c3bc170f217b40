"""An engine without a model: it writes what it is told to, a token of each running note a step, first come first served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medsum_core.generation.requests import EngineStats, EngineStopped, Listener, NoteRequest, QueueFull
from medsum_core.generation.search import Generation


@dataclass
class _Note:
    request: NoteRequest
    listener: Listener
    answer: list[int]
    num_written: int = 0


class FakeEngine:
    """`answer(request)`: the tokens of its note. `held`: while it is set, nothing is written (a slow model).

    `hold_after`: a number of tokens; once a note has as many, `held` is set.
    """

    def __init__(
        self,
        answer: Callable[[NoteRequest], Sequence[int]],
        *,
        num_slots: int = 4,
        max_waiting: int = 16,
        seconds_per_step: float = 0.0,
    ) -> None:
        self._answer = answer
        self._num_slots, self._max_waiting = num_slots, max_waiting
        self._seconds_per_step = seconds_per_step
        self.held = threading.Event()
        self.hold_after: int | None = None
        self.is_alive = True
        self._is_closing = False
        self._changed = threading.Condition()
        self._notes: dict[int, _Note] = {}  # in the order in which they came
        self._count = 0
        self._prompt_tokens = self._new_tokens = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
        with self._changed:
            if self._is_closing or not self.is_alive:
                raise EngineStopped("the engine is not running")
            if len(self._notes) + len(requests) > self._num_slots + self._max_waiting:
                raise QueueFull(waiting=max(0, len(self._notes) - self._num_slots))
            ids = []
            for request, listener in zip(requests, listeners, strict=True):
                self._notes[self._count] = _Note(request, listener, list(self._answer(request)))
                self._prompt_tokens += len(request.prompt)
                ids.append(self._count)
                self._count += 1
            self._changed.notify()
        return ids

    def cancel(self, request_id: int) -> None:
        with self._changed:
            self._notes.pop(request_id, None)

    def stats(self) -> EngineStats:
        with self._changed:
            running = min(self._num_slots, len(self._notes))
            return EngineStats(
                num_waiting=len(self._notes) - running,
                num_running=running,
                num_slots=self._num_slots,
                prompt_tokens=self._prompt_tokens,
                new_tokens=self._new_tokens,
                prefill_seconds=0.0,
                decode_seconds=0.0,
            )

    def close(self, *, seconds: float) -> None:
        self._is_closing = True
        end = time.monotonic() + seconds
        while self._notes and time.monotonic() < end:
            time.sleep(0.005)
        self._end(EngineStopped("the engine was closed before this note was finished"))

    def fail(self, error: BaseException) -> None:
        """As after a fault in a forward pass."""
        self._end(error)

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self.is_alive = False
            left, self._notes = list(self._notes.values()), {}
            self._changed.notify()
        for note in left:
            note.listener.on_failed(error)

    def _run(self) -> None:
        while self.is_alive:
            with self._changed:
                self._changed.wait_for(lambda: self._notes or not self.is_alive)
                running = list(self._notes.items())[: self._num_slots]
            if self.held.is_set() or self._seconds_per_step:
                time.sleep(self._seconds_per_step or 0.002)
            if not self.held.is_set():
                for number, note in running:
                    self._step(number, note)

    def _step(self, number: int, note: _Note) -> None:
        limit = min(len(note.answer), note.request.max_new_tokens)
        if note.num_written < limit:
            token = note.answer[note.num_written]
            note.num_written += 1
            self._new_tokens += 1
            if note.num_written == self.hold_after:
                self.held.set()
            with self._changed:  # after `_end` the listener's event loop may be closed
                if number in self._notes and note.request.verifier is None:
                    note.listener.on_token(token)
            return
        with self._changed:
            is_open = self._notes.pop(number, None) is not None
        if is_open:
            tokens = tuple(note.answer[:limit])
            note.listener.on_finished(Generation(token_ids=tokens, hit_limit=limit < len(note.answer), score=0.0))
