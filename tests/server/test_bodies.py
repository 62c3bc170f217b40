"""How bodies are read: beside the event loop, with what clients send unasked, and where a route has no use for them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_server import DIALOGUE, MODEL, FakeServer, fake_server
from image_models import random_image
from image_server import chat_body, data_url
from starlette.testclient import TestClient

from medsum_core.server import fields, image_fields

QUESTION = "is the left lung clear?"


@pytest.fixture(scope="module")
def with_image_task() -> FakeServer:
    return fake_server("yes", task="vqa-rad", compare=False)


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    random_image(0).save(file, "PNG")
    return file.getvalue()


def test_the_detail_that_clients_send_unasked_is_taken_and_another_refused(
    with_image_task: FakeServer, image: bytes
) -> None:
    client, body = TestClient(with_image_task.app), chat_body(MODEL, QUESTION, [image])
    image_url = next(part["image_url"] for part in body["messages"][0]["content"] if "image_url" in part)
    for detail, status in (("auto", 200), ("high", 400), ("low", 400), (None, 400)):
        image_url["detail"] = detail
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status
        assert status == 200 or "image_url.detail: expected one of auto" in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", ["/notes", "/v1/chat/completions"])
def test_images_are_read_beside_the_event_loop(
    route: str, with_image_task: FakeServer, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 bodies of 8 MiB, 0.2 s each, held up all that the server did."""
    readers: list[str] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **options: Any) -> Any:
            readers.append(threading.current_thread().name)
            return function(*args, **options)

        return read

    monkeypatch.setattr(fields, "json", SimpleNamespace(loads=noted(json.loads)))
    monkeypatch.setattr(image_fields, "base64", SimpleNamespace(b64decode=noted(base64.b64decode)))
    body = {"dialogue": QUESTION, "images": [data_url(image)]}
    if route != "/notes":
        body = chat_body(MODEL, QUESTION, [image])
    assert TestClient(with_image_task.app).post(route, json=body).status_code == 200
    assert [name.partition("_")[0] for name in readers] == ["read", "read"]


def test_the_end_of_the_server_does_not_wait_for_a_check() -> None:
    """A text such as "1-1-1-..." is checked for minutes: SIGTERM had no effect until then."""
    service, may_end = fake_server().service, threading.Event()

    async def close_meanwhile() -> bool:
        check = asyncio.ensure_future(service.in_thread(lambda: may_end.wait(timeout=10)))
        await asyncio.sleep(0)
        service.close()
        may_end.set()
        return await check

    assert asyncio.run(close_meanwhile())


def test_what_the_end_of_the_server_cuts_off_is_told_so() -> None:
    """Else uvicorn prints where it was, in a hundred lines, and the client's connection breaks."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/check", "headers": headers, "query_string": b""}
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def cut_off() -> None:
        request = asyncio.ensure_future(fake_server().app(scope, asyncio.Event().wait, send))
        await asyncio.sleep(0)
        request.cancel()  # as uvicorn does
        await request

    asyncio.run(cut_off())
    assert messages[0]["status"] == 503 and b"the server is stopping" in messages[1]["body"]


@pytest.mark.parametrize("path", ["/notes/", "/v1/chat/completions/", "/check/"])
def test_no_client_is_sent_to_another_address_with_its_dialogue(path: str) -> None:
    """Behind TLS starlette would send it to plain HTTP: it does not know what is before it."""
    body = {"dialogue": DIALOGUE, "sections": ["CC"]}
    answer = TestClient(fake_server().app, follow_redirects=False).post(path, json=body)
    assert answer.status_code == 404 and "location" not in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/notes", {"dialogue": DIALOGUE}),
        ("/check", {"dialogue": DIALOGUE, "notes": []}),
        ("/compare/pair", {"dialogue": DIALOGUE}),
    ],
)
def test_a_task_with_more_to_its_prompt_is_refused_where_that_cannot_be_said(path: str, body: Any) -> None:
    answer = TestClient(fake_server(task="pubmedqa").app).post(path, json=body)
    assert answer.status_code == 400 and "prompts also have question" in answer.json()["error"]["message"]
