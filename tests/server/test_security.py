"""Which requests are refused, and that no client can block the server: hosts, origins, tokens, sizes, slow clients."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from fake_server import DIALOGUE, MODEL, TOKEN, fake_server, tokens_of
from serve_fake import Served, serve_fake
from starlette.testclient import TestClient

from medsum_core.server.limits import Limits

BODY = {"dialogue": DIALOGUE, "sections": ["CC"]}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": DIALOGUE}], "section": "CC"}


def eventually(is_so: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Host": "evil.example:8000"}, "wrong_host"),
        ({"Host": "127.0.0.1.evil.example"}, "wrong_host"),
        ({"Host": ""}, "wrong_host"),
        ({"Host": "[half"}, "wrong_host"),
        ({"Origin": "http://evil.example"}, "wrong_origin"),
        ({"Origin": "null"}, "wrong_origin"),
        ({"Origin": "http://localhost:9999"}, "wrong_origin"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/health", "/notes", "/nowhere"])
def test_other_hosts_and_origins_are_refused(headers: dict[str, str], code: str, path: str) -> None:
    client = TestClient(fake_server().app, base_url="http://localhost:8000")
    answer = client.post(path, json=BODY, headers=headers) if path == "/notes" else client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_our_own_page_is_accepted(host: str) -> None:
    client = TestClient(fake_server().app, base_url=f"http://{host}")
    answer = client.post("/notes", json=BODY, headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers and "set-cookie" not in answer.headers
    assert (
        answer.headers["cache-control"] == "no-store"
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:8000/health", "evil.example", 200),  # the Host header does not count then
        ("HTTP://127.0.0.1", "localhost", 200),
        ("http://evil.example/health", "localhost", 403),
        ("http://user@/health", "localhost", 403),
        ("ftp://localhost/health", "localhost", 404),
        ("*", "localhost", 404),
    ],
)
def test_a_whole_address_as_the_target_is_a_request_to_that_host(target: str, host: str, status: int) -> None:
    """RFC 9112, section 3.2.2."""
    server, messages = fake_server(), []
    scope = {
        "type": "http",
        "method": "GET",
        "path": target,
        "headers": [(b"host", host.encode())],
        "query_string": b"",
    }

    async def send(message: dict[str, object]) -> None:
        messages.append(message)

    asyncio.run(server.app(scope, None, send))
    assert messages[0]["status"] == status
    assert status != 200 or 'route="other"' not in server.service.metrics.text().decode()


def test_no_cross_origin_request_is_ever_allowed() -> None:
    client = TestClient(fake_server().app)
    preflight = client.options(
        "/notes", headers={"Origin": "http://testserver", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405 and "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN],
)
def test_requests_without_the_token_are_refused(authorization: str | None) -> None:
    server = fake_server(tokens=tokens_of(f"ann:{TOKEN}"))
    client = TestClient(server.app)
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/notes", "/v1/chat/completions", "/check", "/audit", "/compare/pair", "/health"):
        assert client.post(path, json=BODY, headers=headers).status_code == 401, path
    for path in ("/v1/models", "/options", "/metrics", "/compare/summary", "/nowhere", "/health/"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    assert client.get("/health", headers=headers).status_code == 200
    assert server.audit == ""


def test_the_tokens_name_is_in_the_audit_log() -> None:
    server = fake_server(tokens=tokens_of(f"ann:{TOKEN}", "bob:another-token-0123456789"))
    client = TestClient(server.app)
    assert client.post("/notes", json=BODY, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert [json.loads(line)["who"] for line in server.audit.splitlines()] == ["ann", "ann"]
    assert TOKEN not in server.audit


def test_requests_that_are_too_large_are_refused() -> None:
    limits = Limits(max_body_bytes=10_000, max_dialogue_characters=4_000, max_turns=50, max_note_characters=100)
    client = TestClient(fake_server(limits=limits).app)

    def chunks() -> Iterator[bytes]:
        yield from [b" " * 1_000] * 11

    large = [
        client.post("/notes", content=b" " * 10_001, headers={"Content-Type": "application/json"}),
        client.post("/notes", content=chunks(), headers={"Content-Type": "application/json"}),
        client.post("/notes", json={**BODY, "dialogue": "x" * 4_001}),
        client.post("/notes", json={**BODY, "dialogue": "Doctor: a.\nPatient: b.\n" * 26}),
        client.post("/notes", json={**BODY, "sections": ["CC"] * 21}),
        client.post("/check", json={"dialogue": "Doctor: a.\nPatient: b.\n" * 26, "notes": []}),
        client.post("/check", json={"dialogue": DIALOGUE, "notes": [{"section": "CC", "note": "x" * 101}]}),
    ]
    assert [answer.status_code for answer in large] == [413] * 7
    assert client.post("/notes", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_a_dialogue_that_loses_turns_is_reported_or_refused() -> None:
    server = fake_server(max_prompt_tokens=200)
    client = TestClient(server.app)
    long = client.post("/notes", json={**BODY, "dialogue": f"{DIALOGUE}\n" * 20})
    assert [note["truncated"] for note in long.json()["notes"]] == [True]
    assert len(long.json()["turns"]) == 80
    assert client.post("/notes", json={**BODY, "dialogue": "z" * 3_000}).json()["error"]["code"] == "too_large"


def test_a_full_queue_says_when_to_come_back() -> None:
    server = fake_server(num_slots=1, max_waiting=2)
    server.engine.held.set()
    client = TestClient(server.app)
    answer = client.post("/notes", json={**BODY, "sections": ["CC"] * 4})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    full = TestClient(fake_server(limits=Limits(max_requests=0)).app)
    assert full.post("/notes", json=BODY).status_code == 429 and full.get("/health").status_code == 200


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"body_seconds": 0.3, "header_seconds": 0.3}
    longest = {"notes": "a cough " * 1_000, "seconds_per_step": 0.02}  # 20 s a note: none ends by itself meanwhile
    with serve_fake(tmp_path_factory.mktemp("served"), limits=limits, **longest) as process:
        yield process


def figures(served: Served) -> dict[str, float]:
    text = httpx.get(f"{served.url}/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(medsum_\w+) (\S+)$", text, re.MULTILINE)}


def answer_of(connection: socket.socket) -> bytes:
    """All until the server closes."""
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    return data


def test_it_listens_on_loopback_only(served: Served) -> None:
    with open("/proc/net/tcp") as file:
        ours = [
            line.split()[1]
            for line in file
            if line.split()[1].endswith(f":{served.port:04X}") and line.split()[3] == "0A"
        ]
    assert ours == [f"0100007F:{served.port:04X}"]


def test_slow_clients_are_disconnected(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow_body:
        head = (
            b"POST /notes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        slow_body.sendall(head)
        assert b" 408 " in answer_of(slow_body).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow_head:
        slow_head.sendall(b"GET /health HTTP/1.1\r\nHos")
        assert answer_of(slow_head) == b""


def test_a_hundred_clients_that_vanish_leave_no_note_behind(served: Served) -> None:
    """Half of them from a stream, half while a whole answer is awaited."""
    for number in range(100):
        body = json.dumps({**CHAT, "stream": number % 2 == 0}).encode()
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            if number % 2 == 0:
                assert b"200 OK" in connection.recv(65_536)
            else:
                assert eventually(lambda: figures(served)["medsum_notes_running"] > 0)
    assert eventually(lambda: figures(served)["medsum_notes_running"] == figures(served)["medsum_notes_waiting"] == 0)
    gone = re.search(r'medsum_refused_total\{reason="client_gone"\} (\d+)', httpx.get(f"{served.url}/metrics").text)
    assert gone is not None and int(gone[1]) == 100
    short = httpx.post(f"{served.url}/v1/chat/completions", json={**CHAT, "max_tokens": 3}, timeout=20)
    assert short.json()["choices"][0]["finish_reason"] == "length"


def test_a_client_that_leaves_before_the_end_of_its_body_is_no_fault_of_the_server(served: Served) -> None:
    head = "POST /notes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    gone = 'medsum_requests_total{route="/notes",status="499"}'
    for number, rest in enumerate(("Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"), 1):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall((head + rest).encode())
        assert eventually(lambda number=number: f"{gone} {number}.0" in httpx.get(f"{served.url}/metrics").text)
    assert "internal_error" not in httpx.get(f"{served.url}/metrics").text


@pytest.mark.parametrize(("seconds", "ends"), [(20.0, "finished"), (0.2, "returned")])
def test_sigterm_finishes_what_runs_or_returns_it_in_time(
    seconds: float, ends: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serve_fake(
        tmp_path_factory.mktemp("ended"), limits={"stop_seconds": seconds}, seconds_per_step=0.05
    ) as served:
        with httpx.stream("POST", f"{served.url}/notes", json={**BODY, "stream": True}, timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: turns"
            served.process.send_signal(signal.SIGTERM)
            events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert events[-1] == ("done" if ends == "finished" else "error")
        said = served.end()
    assert served.process.returncode == -signal.SIGTERM
    assert said.splitlines() == [f"stopping: what runs has {seconds:g} s", "", "stopped by SIGTERM"]


def test_a_request_that_fails_alone_leaves_the_worker_alive() -> None:
    server = fake_server()
    submit = server.engine.submit

    def fail(requests: list[object], listeners: list[object]) -> list[int]:
        ids = submit(requests, listeners)
        listeners[0].on_failed(ValueError("a verifier's"))
        return ids

    server.engine.held.set()
    server.engine.submit = fail
    client = TestClient(server.app)
    assert client.post("/notes", json=BODY).json()["error"]["code"] == "internal_error"
    assert client.get("/health").status_code == 200 and server.engine.stats().num_running == 0


def test_a_dead_worker_is_reported() -> None:
    server = fake_server()
    client = TestClient(server.app)
    server.engine.fail(RuntimeError("x"))
    assert client.get("/health").status_code == 503
    for path, body in (("/notes", BODY), ("/v1/chat/completions", CHAT)):
        assert client.post(path, json=body).json()["error"]["code"] == "worker_gone"
