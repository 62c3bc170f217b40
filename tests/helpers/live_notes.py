"""What the tests of the live engine share: a listener that keeps what it hears, and passes that can be stopped at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from medsum_core.generation.generate import Decoder, own_modules
from medsum_core.generation.live import LiveEngine
from medsum_core.generation.search import Generation

PATIENCE = 60.0  # seconds after which a test that waits has failed


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.generation: Generation | None = None
        self.error: BaseException | None = None
        self.num_ends = 0
        self._ended = Event()

    def on_token(self, token: int) -> None:
        self.tokens.append(token)

    def on_finished(self, generation: Generation) -> None:
        self.generation = generation
        self.num_ends += 1
        self._ended.set()

    def on_failed(self, error: BaseException) -> None:
        self.error = error
        self.num_ends += 1
        self._ended.set()

    def wait(self) -> Heard:
        assert self._ended.wait(PATIENCE), "nothing was heard of the request"
        return self


class Passes:
    """Calls `before`, in the engine's thread, at the beginning of each forward pass; keeps the cache that it is given."""

    def __init__(self, decoder: Decoder | None = None) -> None:
        self.before: Callable[[], None] = lambda: None
        self.caches: list[Any] = []
        self._decoder = decoder or own_modules

    @contextmanager
    def decoder(self, causal: Any) -> Iterator[Any]:
        with self._decoder(causal) as forward:

            def watched(cache: Any, *inputs: Any) -> Any:
                if not any(cache is other for other in self.caches):
                    self.caches.append(cache)
                self.before()
                return forward(cache, *inputs)

            yield watched

    def addresses(self) -> list[int]:
        """Where the keys, the values and the tables of all caches lie."""
        tensors = [
            tensor
            for cache in self.caches
            for tensor in (*cache.keys.values(), *cache.values.values(), cache.position_SC, cache.visible_SKC)
        ]
        return [tensor.data_ptr() for tensor in tensors]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.0005)


def is_idle(engine: LiveEngine) -> bool:
    now = engine.stats()
    return now.num_running + now.num_waiting == 0
