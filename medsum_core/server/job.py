"""Pass the notes of one request from the engine's thread to the event loop; cancel them when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from medsum_core.errors import InputError
from medsum_core.generation.requests import EngineStats, EngineStopped, Listener, NoteRequest, QueueFull
from medsum_core.generation.search import Generation
from medsum_core.generation.streamed_text import StreamedText
from medsum_core.server.refusal import Refusal, bad_request, internal_error, stopping, try_later, worker_gone


class Engine(Protocol):
    """The methods of `generation.live.LiveEngine` that the server uses; tests pass their own."""

    @property
    def is_alive(self) -> bool:
        """Whether notes are still written."""
        ...

    def submit(self, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
        """All of them or none. Raises QueueFull, EngineStopped, and InputError for one that is too long."""
        ...

    def cancel(self, request_id: int) -> None:
        """Stop a note, waiting or running; one that has ended is left alone."""
        ...

    def stats(self) -> EngineStats:
        """Counts of its current and finished work."""
        ...

    def close(self, *, seconds: float) -> None:
        """Take no more, finish what runs within the limit, then fail the rest."""
        ...


@dataclass(frozen=True, kw_only=True)
class Piece:
    """More text of the note `index`."""

    index: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The note `index` as it is."""

    index: int
    note: str
    generation: Generation


@dataclass(frozen=True)
class _Event:
    index: int
    token: int | None = None
    generation: Generation | None = None
    error: BaseException | None = None


class _Relay:
    """The listener of one note; forwards its events to the event loop."""

    def __init__(self, index: int, put: Callable[[_Event], None]) -> None:
        self._index = index
        self._put = put

    def on_token(self, token: int) -> None:
        self._put(_Event(self._index, token=token))

    def on_finished(self, generation: Generation) -> None:
        self._put(_Event(self._index, generation=generation))

    def on_failed(self, error: BaseException) -> None:
        self._put(_Event(self._index, error=error))


class Job:
    """The notes of one request. Leaving the `with` block cancels those that have not ended.

    Raises Refusal if the queue is full (429), a prompt is too long (400) or the engine has failed (503).
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[NoteRequest],
        *,
        decode: Callable[[list[int]], str],
        on_first: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._decode = decode
        self._on_first = on_first
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._texts = [StreamedText(decode) for _ in requests]
        self._began = time.perf_counter()
        loop = asyncio.get_running_loop()

        def put(event: _Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self.num_open = len(requests)  # notes that have neither ended nor failed
        self._ids = submit(engine, requests, [_Relay(index, put) for index in range(len(requests))])

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for request_id in self._ids:
            self._engine.cancel(request_id)

    async def __aiter__(self) -> AsyncIterator[Piece | Ended]:
        """The notes' texts as they are written, in pieces, and each note when it has ended.

        Raises Refusal (503) when the engine fails.
        """
        first_is_due = True
        while self.num_open:
            event = await self._events.get()
            if event.error is not None:
                self.num_open = 0
                raise self._refusal(event.error)
            if first_is_due:
                self._on_first(time.perf_counter() - self._began)
                first_is_due = False
            if event.token is not None:
                if piece := self._texts[event.index].add(event.token):
                    yield Piece(index=event.index, text=piece)
            elif event.generation is not None:
                self.num_open -= 1
                note = self._decode(list(event.generation.token_ids))
                if piece := self._texts[event.index].rest(note):
                    yield Piece(index=event.index, text=piece)
                yield Ended(index=event.index, note=note, generation=event.generation)

    def _refusal(self, error: BaseException) -> Refusal:
        """Why there is no note: the server stops, its worker has failed, or only this note has, by its verifier."""
        if isinstance(error, EngineStopped):
            return stopping()
        return internal_error(error) if self._engine.is_alive else worker_gone()

    async def notes(self) -> list[Ended]:
        """All notes in the requests' order."""
        ended = [event async for event in self if isinstance(event, Ended)]
        return sorted(ended, key=lambda one: one.index)


def submit(engine: Engine, requests: Sequence[NoteRequest], listeners: Sequence[Listener]) -> list[int]:
    """`Engine.submit`; what it raises becomes a Refusal."""
    if not engine.is_alive:
        raise worker_gone()
    try:
        return engine.submit(requests, listeners)
    except EngineStopped:
        raise stopping() from None
    except QueueFull as full:
        raise try_later(f"{full.waiting} notes are waiting already") from None
    except InputError as error:
        raise bad_request(str(error), code="too_long") from None
