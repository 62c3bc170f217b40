"""The requests of a live engine that have not ended, and the calls to their listeners. Thread-safe."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Condition

from medsum_core.errors import InputError
from medsum_core.generation.grounded_rules import Verifier
from medsum_core.generation.requests import EngineStopped, Listener, NoteRequest, QueueFull
from medsum_core.generation.search import Generation, Note

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Request:
    note: Note
    listener: Listener
    waiting: deque[Note]  # where its note waits, or has waited


class RequestQueue:
    """Requests by their ids. `changed` guards all state and is notified when an idle engine has something to do.

    waiting: the notes without a slot, in order of arrival, by `use_adapter`.
    leaving: cancelled notes that still have a slot.
    is_open: whether requests are accepted.
    """

    def __init__(self, *, room: int, lanes: Sequence[bool]) -> None:
        """`room`: the largest number of requests at a time. `lanes`: the accepted values of `use_adapter`."""
        self.changed = Condition()
        self.waiting: dict[bool, deque[Note]] = {use_adapter: deque() for use_adapter in lanes}
        self.leaving: list[Note] = []
        self.is_open = False
        self._room = room
        self._requests: dict[int, _Request] = {}
        self._ids = count()

    @property
    def num_requests(self) -> int:
        """Waiting and running requests."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return sum(map(len, self.waiting.values()))

    def add(self, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
        """Accept all or none; see `LiveEngine.submit`."""
        pairs = list(zip(requests, listeners, strict=True))
        if len(pairs) > self._room:
            raise InputError(f"{len(pairs)} notes at once, but at most {self._room} are taken")
        with self.changed:
            if not self.is_open:
                raise EngineStopped("the engine is not running")
            if self.num_requests + len(pairs) > self._room:
                raise QueueFull(waiting=self.num_waiting)
            ids = [self._add(request, listener) for request, listener in pairs]
            self.changed.notify()
        return ids

    def end(self, number: int) -> Listener | None:
        """Remove an unfinished request and return its listener; None if it has ended already."""
        with self.changed:
            request = self._requests.pop(number, None)
            if request is None:
                return None
            if request.note in request.waiting:
                request.waiting.remove(request.note)
            else:  # the engine is at work on it: there is nobody to notify
                self.leaving.append(request.note)
        return request.listener

    # ---- called by the engine's thread -------------------------------------------------------------------------------

    def tell_token(self, number: int, token: int) -> None:
        """Pass a token to its listener, except for grounded notes, which may take tokens back."""
        request = self._requests.get(number)
        if request is not None and request.note.verifier is None:
            self._tell(number, partial(request.listener.on_token, token))

    def finish(self, number: int, generation: Generation) -> None:
        """Pass a finished note to its listener."""
        with self.changed:
            request = self._requests.pop(number, None)
        if request is not None:
            self._tell(number, partial(request.listener.on_finished, generation))

    def fail(self, number: int, error: BaseException) -> None:
        """Pass an error to the listener of a request that will have no note."""
        listener = self.end(number)
        if listener is not None:
            self._tell(number, partial(listener.on_failed, error))

    def close(self, error: BaseException) -> None:
        """Accept no more requests, and fail all that are left."""
        with self.changed:
            self.is_open = False
            left = list(self._requests)
        for number in left:
            self.fail(number, error)

    def _add(self, request: NoteRequest, listener: Listener) -> int:
        number, waiting = next(self._ids), self.waiting[request.use_adapter]
        verifier = None if request.verifier is None else partial(self._verify, number, request.verifier)
        note = Note(
            index=number,
            prompt=tuple(request.prompt),
            min_new=0,
            max_new=request.max_new_tokens,
            verifier=verifier,
            images=request.images,
        )
        self._requests[number] = _Request(note=note, listener=listener, waiting=waiting)
        waiting.append(note)
        return number

    def _verify(self, number: int, verifier: Verifier, text: str) -> Sequence[tuple[int, int]]:
        """Call a verifier; if it raises, only its own request fails."""
        try:
            return verifier(text)
        except Exception as error:
            logger.error("request %d failed: its verifier raised %s", number, type(error).__name__)
            self.fail(number, error)
            return ()

    def _tell(self, number: int, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # must not affect other requests; the message is not logged, it may hold text
            logger.error("request %d is cancelled: its listener raised %s", number, type(error).__name__)
            self.end(number)
