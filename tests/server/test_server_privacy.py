"""Whatever is sent, no text is in errors, logs, statistics or the audit log."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import DIALOGUE, MODEL, FakeServer, fake_server
from starlette.testclient import TestClient

SAID = "Canarysaid"  # in the dialogue
WRITTEN = "Canarywritten"  # in the note
NAMED = "Canarynamed"  # in names of sections and fields
POSTS = ("/v1/chat/completions", "/notes", "/check", "/audit", "/compare/pair", "/compare/vote")
GETS = ("/health", "/metrics", "/options", "/v1/models", "/openapi.json", "/compare/summary")
BODIES = 1_000


def files(server: FakeServer) -> str:
    return "".join(path.read_text() for path in server.folder.iterdir())


def right_bodies(server: FakeServer) -> dict[str, dict[str, Any]]:
    """A body that each route takes."""
    dialogue = f"{DIALOGUE}\nPatient: {SAID} 12 mg."
    chat = {"model": MODEL, "messages": [{"role": "user", "content": dialogue}], "section": NAMED}
    return {
        "/v1/chat/completions": chat,
        "/notes": {"dialogue": dialogue, "sections": [NAMED, "CC"], "grounded": True},
        "/check": {"dialogue": dialogue, "notes": [{"section": NAMED, "note": f"{WRITTEN} 13 mg."}]},
        "/audit": {"id": "0" * 32, "action": "edited", "section": NAMED, "spans": [[0, 4]], "note_sha256": "0" * 64},
        "/compare/pair": {"dialogue": dialogue, "section": NAMED},
    }


def test_text_is_in_the_answers_only(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = fake_server(f"{WRITTEN} 12 mg, a cough.", base_note=f"{WRITTEN} of the base.")
    client = TestClient(server.app)
    answers = []
    for path, body in right_bodies(server).items():
        answers.append(client.post(path, json=body))
        if path in ("/v1/chat/completions", "/notes"):
            answers.append(client.post(path, json={**body, "stream": True}))
    pair = answers[-1].json()["pair_id"]
    answers.append(client.post("/compare/vote", json={"pair_id": pair, "vote": "a"}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 204, 200, 204]
    assert sum(WRITTEN in answer.text for answer in answers) == 5  # in all that have it whole, not in pieces
    server.engine.fail(RuntimeError(f"a fault about {SAID}"))
    answers = [client.post(path, json=body) for path, body in right_bodies(server).items()]
    assert [answer.status_code for answer in answers] == [503, 503, 200, 204, 503]
    shown = "".join(client.get(path).text for path in GETS) + answers[0].text
    everything = [shown, files(server), *capfd.readouterr(), caplog.text]
    assert "edited" in everything[1] and "medsum_tokens" in shown
    assert [canary for text in everything for canary in (SAID, WRITTEN, NAMED) if canary in text] == []


def test_an_internal_error_is_logged_by_its_location_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = fake_server()
    body = right_bodies(server)["/notes"]

    def fault(*_: object) -> None:
        raise ValueError(SAID)

    monkeypatch.setattr("medsum_core.server.service.check_of_note", fault)
    client = TestClient(server.app)
    plain, streamed = client.post("/notes", json=body), client.post("/notes", json={**body, "stream": True})
    assert (plain.status_code, plain.json()["error"]["code"]) == (500, "internal_error")
    assert streamed.text.rstrip().rpartition("event: ")[2].startswith('error\ndata: {"message":')
    said = capfd.readouterr().err
    assert said.count(f"internal error: ValueError at {Path(__file__).name}:") == 2
    assert SAID not in said + plain.text + caplog.text and "Traceback" not in said + plain.text + streamed.text
    assert server.engine.stats().num_running == 0


Change = Callable[[random.Random, Any], Any]


def mutated(chance: random.Random, value: Any) -> Any:
    """The value with one change: another type, a canary, an extra or a missing field."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        action = chance.random()
        if action < 0.15:
            return {key: item for key, item in value.items() if key != name}
        if action < 0.3:
            return {**value, chance.choice([SAID, "temperature", "", "a" * 300]): chance.choice([SAID, 1, None])}
        return {**value, name: mutated(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], mutated(chance, value[place]), *value[place + 1 :] * chance.choice([0, 1, 30])]
    odd = (
        *(None, True, -1, 0, 1.5, 1e308, 10**30, "", " ", "\x00", "\ud800", SAID, SAID * 20_000, f"{SAID}\n" * 3_000),
        *([], {}, [SAID], {SAID: SAID}, [[]] * 50, "Doctor:" * 100, "<script>", "٣ mg", "\u2028", "{{ bos_token }}"),
    )
    return chance.choice(odd)


def as_bytes(chance: random.Random, body: Any) -> bytes:
    """The body, mostly as JSON."""
    text = json.dumps(body).encode()
    action = chance.random()
    if action < 0.05:
        return text[: chance.randrange(len(text) + 1)]
    if action < 0.1:
        place = chance.randrange(len(text) + 1)
        return text[:place] + bytes(chance.randrange(256) for _ in range(3)) + text[place:]
    return {0: b"[" * 100_000, 1: b"NaN", 2: b'"' + SAID.encode() + b'"', 3: text.decode().encode("utf-16")}.get(
        chance.randrange(100), text
    )


def test_a_thousand_invalid_bodies_cause_no_fault_and_leave_no_text(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No answer and no log repeats a refused body; accepted ones leave no text either."""
    caplog.set_level(logging.DEBUG, logger="asyncio")
    chance = random.Random(28)
    server = fake_server("A note.", num_slots=8)
    bodies = right_bodies(server) | {"/compare/vote": {"pair_id": "0" * 32, "vote": "tie"}}
    statuses = []
    with TestClient(server.app) as client:
        for _ in range(BODIES):
            path = chance.choice(POSTS)
            body = as_bytes(chance, mutated(chance, bodies[path]))
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            statuses.append(answer.status_code)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert not any(word in answer.text for word in (SAID, WRITTEN, NAMED, "Traceback", "bos_token"))
    assert set(statuses) <= {200, 204, 400, 404, 413}
    assert statuses.count(400) > 300 and statuses.count(413) > 10 and statuses.count(200) + statuses.count(204) > 50
    everything = "".join((files(server), *capfd.readouterr(), caplog.text))
    assert not any(word in everything for word in (SAID, WRITTEN, NAMED, "Traceback"))
    assert server.engine.stats().num_running == server.engine.stats().num_waiting == 0
