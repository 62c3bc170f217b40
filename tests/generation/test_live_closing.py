"""The live engine at its start and at its end: errors are raised, accepted requests finish or fail, closing is final."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from live_notes import PATIENCE, Heard, Passes, running, wait_until
from small_language import STOPS
from test_live_threads import MODEL, NOTE, Gate, _no_thread_is_left, note, request, submit  # noqa: F401

from medsum_core.generation.live import LiveEngine
from medsum_core.generation.requests import EngineStopped


def test_an_error_at_the_start_of_an_engine_is_raised() -> None:
    passes, alive = Passes(), []

    def fail() -> None:
        alive.append(engine.is_alive)
        raise IndexError

    passes.before = fail
    engine = LiveEngine(
        MODEL,
        decoder=passes.decoder,
        stop_token_ids=STOPS,
        num_slots=1,
        max_tokens=8,
        max_new_tokens=4,
        max_waiting=1,
    )
    with pytest.raises(EngineStopped):
        engine.submit([request(2)], [Heard()])
    with pytest.raises(IndexError):
        engine.start()
    assert alive == [False] and not engine.is_alive
    engine.close(seconds=0)


def test_close_finishes_accepted_requests_and_accepts_no_more() -> None:
    with running(MODEL, num_slots=1) as engine:
        _, heard = submit(engine, request(), request(), request())
        engine.close(seconds=60)
        assert [note(each) for each in heard] == [NOTE] * 3
        assert not engine.is_alive
        with pytest.raises(EngineStopped):
            submit(engine, request())
        engine.close(seconds=0)


def test_close_fails_requests_that_its_time_is_too_short_for() -> None:
    passes = Passes()
    with running(MODEL, passes, num_slots=1) as engine:
        gate = Gate(passes)
        [cancelled, *_], heard = submit(engine, request(), request(), request())
        assert gate.is_reached.wait(60)
        engine.cancel(cancelled)
        closing = threading.Thread(target=engine.close, kwargs={"seconds": 0.0})
        closing.start()
        wait_until(lambda: engine._is_stopping)
        gate.open()
        assert all(isinstance(each.wait().error, EngineStopped) for each in heard[1:])
        closing.join(60)
        assert not engine.is_alive and heard[0].num_ends == 0


def test_an_idle_engine_is_closed_at_once() -> None:
    with running(MODEL) as engine:
        closing = threading.Thread(target=engine.close, kwargs={"seconds": 600.0})
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()


def test_an_engine_that_was_never_started_can_be_closed() -> None:
    bounds: dict[str, Any] = {"num_slots": 1, "max_tokens": 8, "max_new_tokens": 4, "max_waiting": 0}
    engine = LiveEngine(MODEL, decoder=None, stop_token_ids=STOPS, **bounds)
    engine.close(seconds=0)
    assert not engine.is_alive
