"""The live engine with threads: cancelled requests free their slots, failures stay with their request."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from queue import Queue
from typing import Any

import pytest
from decoding_models import VOCAB, small_model, some_prompts
from live_notes import LONGEST_NOTE, LONGEST_PROMPT, Heard, Passes, is_idle, running, wait_until
from small_language import STOPS, refused_numbers

from medsum_core.errors import InputError
from medsum_core.generation import batch, grounded_rules, live
from medsum_core.generation.generate import generate
from medsum_core.generation.grounded import GroundedNotes
from medsum_core.generation.live import LiveEngine
from medsum_core.generation.requests import EngineStopped, NoteRequest, QueueFull

MODEL = small_model("gemma")
PROMPT = (2, 9, 20, 11)
NOTE = generate(MODEL, [PROMPT], stop_token_ids=STOPS, max_new_tokens=LONGEST_NOTE)[0].token_ids
SECRET = "secret words of a note"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def request(longest: int = LONGEST_NOTE, **options: Any) -> NoteRequest:
    return NoteRequest(prompt=PROMPT, max_new_tokens=longest, **options)


def submit(engine: LiveEngine, *requests: NoteRequest, listener: Callable[[], Heard] = Heard) -> tuple[list[int], Any]:
    heard = [listener() for _ in requests]
    return engine.submit(requests, heard), heard


def note(heard: Heard) -> tuple[int, ...]:
    generation = heard.wait().generation
    assert generation is not None
    return generation.token_ids


class Gate:
    """Holds the engine in a forward pass until it is opened."""

    def __init__(self, passes: Passes) -> None:
        self.is_reached, self._opened = threading.Event(), threading.Event()
        passes.before = self._wait

    def _wait(self) -> None:
        self.is_reached.set()
        assert self._opened.wait(60)

    def open(self) -> None:
        self._opened.set()


def at_pass(number: int, act: Callable[[], Any]) -> Callable[[], None]:
    """For `Passes.before`: acts in that pass, counted from 1."""
    numbers = count(1)
    return lambda: act() if next(numbers) == number else None


def test_a_request_cancelled_while_it_waits_is_never_read() -> None:
    passes = Passes()
    with running(MODEL, passes, num_slots=1) as engine:
        gate, read = Gate(passes), engine.stats().prompt_tokens
        [first], [heard] = submit(engine, request())
        assert gate.is_reached.wait(60)
        [second, third], others = submit(engine, request(), request())
        assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 2)
        engine.cancel(second)
        engine.cancel(second)
        assert engine.stats().num_waiting == 1
        gate.open()
        assert note(heard) == note(others[1]) == NOTE
        assert others[0].num_ends == 0 and others[0].tokens == []
        assert engine.stats().prompt_tokens - read == 2 * len(PROMPT)
        for number in (first, second, third, 99):
            engine.cancel(number)
        assert engine.is_alive and is_idle(engine)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_request_cancelled_while_it_is_written_frees_its_slot_before_the_next_pass(num_beams: int) -> None:
    passes = Passes()
    with running(MODEL, passes, num_slots=2, num_beams=num_beams) as engine:
        numbers: Queue[int] = Queue()
        passes.before, passes.prompt_lengths = at_pass(3, lambda: engine.cancel(numbers.get(timeout=60))), []
        [number, *_], [cancelled, _, other] = submit(engine, request(), request(), request(longest=1))
        numbers.put(number)
        other.wait()
        assert passes.prompt_lengths[:4] == [(len(PROMPT), len(PROMPT)), (), (), (len(PROMPT),)]
        assert cancelled.num_ends == 0 and len(cancelled.tokens) == (2 if num_beams == 1 else 0)


def test_nothing_is_kept_of_a_cancelled_note_while_the_engine_is_idle() -> None:
    passes = Passes()
    with running(MODEL, passes) as engine:
        gate = Gate(passes)
        [number], _ = submit(engine, request())
        assert gate.is_reached.wait(60)
        engine.cancel(number)
        assert len(engine._queue.leaving) == 1
        gate.open()
        wait_until(lambda: engine._queue.leaving == [])


def test_the_state_of_finished_grounded_notes_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounded_rules, "MAX_RETURNS", 0)  # the first refused number ends a note
    made: list[GroundedNotes] = []

    class Kept(GroundedNotes):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(live, "GroundedNotes", Kept)
    passes, verifier = Passes(), refused_numbers(0, share=1.0)
    with running(MODEL, passes) as engine:
        numbers: Queue[int] = Queue()
        passes.before = at_pass(3, lambda: engine.cancel(numbers.get(timeout=60)))
        requests = [NoteRequest(prompt=tuple(p), max_new_tokens=14, verifier=verifier) for p in some_prompts(1, 6)]
        [number, *_], heard = submit(engine, request(verifier=lambda text: []), *requests)
        numbers.put(number)
        scores = [each.wait().generation.score for each in heard[1:]]
        assert any(score != score for score in scores)  # a note that grounding ended has no score (NaN)
        assert heard[0].num_ends == 0 and made[0]._rules == made[0]._ended == {}


def test_a_full_queue_accepts_all_requests_of_a_call_or_none() -> None:
    passes = Passes()
    with running(MODEL, passes, num_slots=1, max_waiting=2) as engine:
        gate = Gate(passes)
        _, [running_note] = submit(engine, request())
        assert gate.is_reached.wait(60)
        _, [waiting_note] = submit(engine, request())
        with pytest.raises(QueueFull) as full:
            submit(engine, request(), request())
        assert full.value.waiting == 1 and engine.stats().num_waiting == 1
        with pytest.raises(InputError, match="at most 3"):
            submit(engine, *[request()] * 4)
        submit(engine, request())
        gate.open()
        running_note.wait(), waiting_note.wait()
        wait_until(lambda: is_idle(engine))
        submit(engine, request(), request(), request())[1][-1].wait()


def test_first_come_first_served_within_the_tokens_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt that must wait for a pass of its own is not overtaken by short ones that would fit."""
    monkeypatch.setattr(batch, "MAX_PROMPT_TOKENS", 8)
    passes, lengths = Passes(), (3, 4, 12, 1, 2, 8, 1)
    with running(MODEL, passes, num_slots=6) as engine:
        gate, begun = Gate(passes), []
        _, [first] = submit(engine, request(longest=1))
        assert gate.is_reached.wait(60)

        class Begins(Heard):
            def on_finished(self, generation: Any) -> None:
                begun.append(self)
                super().on_finished(generation)

        requests = [NoteRequest(prompt=(2,) * length, max_new_tokens=1) for length in lengths]
        _, heard = submit(engine, *requests, listener=Begins)
        passes.prompt_lengths = []
        gate.open()
        assert [each.wait() for each in heard] and first.wait()
        assert passes.prompt_lengths == [(3, 4), (12,), (1, 2), (8,), (1,)]
        assert [heard.index(each) for each in begun] == [1, 0, 2, 4, 3, 5, 6]  # of one pass the last slot first


@pytest.mark.parametrize("method", ["on_token", "on_finished"])
def test_a_listener_that_raises_fails_its_own_request_only(method: str, caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Heard):
        pass

    def fail(*_: Any) -> None:
        raise ValueError(SECRET)

    setattr(Raises, method, fail)
    with running(MODEL) as engine:
        _, [good, short] = submit(engine, request(), request(longest=3))
        submit(engine, request(), listener=Raises)
        assert note(good) == NOTE and note(short) == NOTE[:3]
        wait_until(lambda: is_idle(engine))
        assert engine.is_alive and note(submit(engine, request())[1][0]) == NOTE
    assert caplog.text.count("its listener raised ValueError") == 1 and SECRET not in caplog.text


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_verifier_that_raises_fails_its_own_request(num_beams: int, caplog: pytest.LogCaptureFixture) -> None:
    def fail(text: str) -> list[tuple[int, int]]:
        raise ValueError(SECRET)

    with running(MODEL, num_beams=num_beams) as engine:
        _, [good, bad] = submit(engine, request(), request(verifier=fail))
        assert isinstance(bad.wait().error, ValueError) and bad.num_ends == 1
        assert good.wait().generation is not None and engine.is_alive
    assert "its verifier raised ValueError" in caplog.text and SECRET not in caplog.text


def test_a_failed_forward_pass_fails_all_requests_and_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    passes, alive = Passes(), []
    model = small_model("gemma").train()
    attention = model.config._attn_implementation

    class Asks(Heard):
        def on_failed(self, error: BaseException) -> None:
            alive.append(engine.is_alive)
            super().on_failed(error)

    def fail() -> None:
        raise RuntimeError(SECRET)

    with running(model, passes, num_slots=2) as engine:
        assert engine.is_alive and not model.training
        passes.before = at_pass(3, fail)
        _, heard = submit(engine, *[request()] * 4, listener=Asks)
        errors = {each.wait().error for each in heard}
        assert len(errors) == 1 and str(errors.pop()) == SECRET
        assert alive == [False] * 4 and is_idle(engine)
        with pytest.raises(EngineStopped):
            submit(engine, request())
    assert not engine.is_alive and model.training and model.config._attn_implementation == attention
    assert "RuntimeError" in caplog.text and SECRET not in caplog.text


def test_eight_threads_submit_and_cancel_at_once() -> None:
    prompts = some_prompts(0, 8)
    notes = [generate(MODEL, [p], stop_token_ids=STOPS, max_new_tokens=6)[0] for p in prompts]
    faults: list[BaseException] = []

    def has_heard(heard: Heard, least: int) -> bool:
        return len(heard.tokens) >= least or heard.num_ends > 0

    def client(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(12):
                heard = Heard()
                [number] = engine.submit([NoteRequest(prompt=tuple(prompts[seed]), max_new_tokens=6)], [heard])
                if chance.random() < 0.4:
                    wait_until(partial(has_heard, heard, chance.randrange(3)))
                    engine.cancel(number)
                else:
                    assert note(heard) == notes[seed].token_ids
        except BaseException as error:
            faults.append(error)

    with running(MODEL) as engine:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert faults == [] and is_idle(engine)


def test_requests_that_an_engine_cannot_serve_are_refused() -> None:
    with running(MODEL, decode=None) as engine:
        for bad, error, words in (
            (NoteRequest(prompt=PROMPT * 6, max_new_tokens=14), InputError, "at most 34 and 14"),
            (request(15), InputError, "at most 34 and 14"),
            (NoteRequest(prompt=(VOCAB,), max_new_tokens=1), InputError, "embeddings"),
            (NoteRequest(prompt=(), max_new_tokens=1), ValueError, "prompt"),
            (request(0), ValueError, "room"),
            (request(use_adapter=False), ValueError, "compare"),
            (request(verifier=lambda text: []), ValueError, "decode"),
        ):
            with pytest.raises(error, match=words):
                submit(engine, request(), bad)
        assert is_idle(engine)
    assert "20" not in repr(request())
    with pytest.raises(InputError, match="room for 32"), running(small_model("gemma", max_position_embeddings=32)):
        pass
    with pytest.raises(ValueError, match="at least one slot"), running(MODEL, num_slots=0):
        pass


def test_the_longest_request_has_room_for_all_its_beams() -> None:
    model = small_model("gemma", max_position_embeddings=LONGEST_PROMPT + LONGEST_NOTE)
    longest = NoteRequest(prompt=(2,) * LONGEST_PROMPT, max_new_tokens=LONGEST_NOTE)
    with running(model, num_slots=1, num_beams=3) as engine:
        assert len(note(submit(engine, longest)[1][0])) == LONGEST_NOTE


def test_stats_count_requests_tokens_and_passes() -> None:
    with running(MODEL, num_slots=2) as engine:
        before = engine.stats()
        for each in submit(engine, request(5), request(3))[1]:
            each.wait()
        now = engine.stats()
        submit(engine, request(1))[1][0].wait()
        assert engine.stats().prefill_seconds > now.prefill_seconds
        assert engine.stats().decode_seconds == now.decode_seconds
    assert now.num_slots == 2 and now.prompt_tokens - before.prompt_tokens == 2 * len(PROMPT)
    assert now.new_tokens - before.new_tokens == 8
    assert now.prefill_seconds > before.prefill_seconds and now.decode_seconds > before.decode_seconds
