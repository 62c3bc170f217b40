"""Images sent to the server: the answers are those of `infer.py`, nothing is fetched, and nothing of them is kept."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fake_server import MODEL, FakeServer, fake_server
from image_files import image_flags, make_image_inputs
from image_models import random_image
from image_server import ImageServer, chat_body, data_url, image_server
from PIL import Image
from starlette.testclient import TestClient
from tiny_run import exit_code

import infer
from medsum_core.data.image_tokens import split_keys
from medsum_core.data.prompt import PromptRenderer
from medsum_core.generation.requests import NoteRequest
from medsum_core.model.forward import inner_model
from medsum_core.server.arguments import parse_options
from medsum_core.server.loading import check_flags
from medsum_core.server.service import CHECKING_THREADS

VARIED = ("--no_repeat_ngram_size", "1")  # an untrained model writes the same token for ever
QUESTION = "is the left lung clear?"


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


IMAGE = png(random_image(0))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_inputs(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert (
        exit_code(image_flags(inputs, folder, "--max_steps", "1", "--report_rows", "0", "--eval_strategy", "no")) == 0
    )
    return folder


@pytest.fixture(scope="module")
def real(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    with image_server(run, tmp_path_factory.mktemp("audit"), *VARIED) as server:
        yield server


@pytest.fixture(scope="module")
def fake() -> FakeServer:
    return fake_server("yes", task="vqa-rad", compare=False)


@pytest.fixture
def token_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are shown as their tokens: those of an untrained model are hardly ever text."""
    monkeypatch.setattr(PromptRenderer, "decode", lambda _, ids: " ".join(map(str, ids)))


@pytest.mark.usefixtures("token_ids")
def test_an_answer_is_token_for_token_that_of_infer(inputs: Path, run: Path, real: ImageServer, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    files = ["--input_file", str(inputs / "valid.csv"), "--output_file", str(out)]
    infer.main(["--run", str(run), *files, "--offline", *VARIED])
    with out.open() as file:
        expected = [row["note"] for row in csv.DictReader(file)]
    with (inputs / "valid.csv").open() as file:
        rows = [(row["question"], split_keys(row["image"])) for row in csv.DictReader(file)]
    sent = [(question, [(inputs / name).read_bytes() for name in names]) for question, names in rows]
    chats = [real.chat(*one).json()["choices"][0]["message"]["content"] for one in sent]
    notes = [real.notes(*one).json()["notes"][0]["note"] for one in sent]
    assert chats == notes == expected
    assert max(len(files) for _, files in sent) == 2 and len(set(expected)) > 1
    question, files = sent[0]
    assert real.chat(question, [png(random_image(50))]).json()["choices"][0]["message"]["content"] != expected[0]
    assert real.chat(question, files).json()["choices"][0]["message"]["content"] == expected[0]


def test_nothing_of_an_image_is_kept(
    real: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = set(real.audit.parents[1].rglob("*"))
    figures = {line.split(" ")[0].split("{")[0] for line in real.client.get("/metrics").text.splitlines()}
    assert real.notes(QUESTION, [IMAGE]).status_code == 200
    assert set(real.audit.parents[1].rglob("*")) == before and not list(tmp_path.iterdir())
    assert {line.split(" ")[0].split("{")[0] for line in real.client.get("/metrics").text.splitlines()} == figures
    assert inner_model(real.loaded.engine._model).get_input_embeddings().image_features == {}
    lines = real.audit.read_text()
    assert [len(sha256) for sha256 in json.loads(lines.splitlines()[-2])["images_sha256"]] == [64]
    for text in (lines, caplog.text):
        assert data_url(IMAGE)[30:90] not in text and "PNG" not in text


def test_images_get_new_numbers_in_each_request(fake: FakeServer) -> None:
    """They have 48 bits: if they were hashes of the files, somebody could make two files with equal ones."""
    orders = [asyncio.run(fake.service.order(QUESTION, (), {}, [IMAGE, IMAGE])) for _ in range(2)]
    assert len({number for order in orders for number in order.images}) == 4


def test_a_prompt_whose_image_has_no_features_is_refused_before_it_could_fail_for_all(real: ImageServer) -> None:
    with pytest.raises(ValueError, match="no features"):
        real.loaded.engine.submit([NoteRequest(prompt=(2, -5, 9), max_new_tokens=2)], [None])
    assert real.loaded.engine.is_alive


def test_the_compared_base_has_no_page_for_images(run: Path) -> None:
    args = parse_options(["--run", str(run), "--offline", "--compare"])
    with pytest.raises(Exception, match="--compare: there is no such page"):
        check_flags(infer.prepare_writer(args), args)


# ---- what is sent: URLs, files that are no images, too many

calls: list[str] = []
is_watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if is_watching and (event.startswith(("socket.connect", "socket.get", "socket.send", "urllib", "http")) or (
        event == "open" and "secret" in str(arguments[0])
    )):  # fmt: skip
        calls.append(event)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """The calls by which Python asks for a host, connects, or opens a file named secret: an audit hook sees them all."""
    global is_watching
    if watch not in hooks:
        sys.addaudithook(watch)
        hooks.append(watch)
    calls.clear()
    is_watching = True
    yield calls
    is_watching = False


hooks: list[Any] = []


def both(server: FakeServer, url: Any) -> list[Any]:
    """The answers of both routes to a URL."""
    client = TestClient(server.app)
    body = chat_body(MODEL, QUESTION, [IMAGE])
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    return [
        client.post("/v1/chat/completions", json=body),
        client.post("/notes", json={"dialogue": QUESTION, "images": [url]}),
    ]


def test_the_audit_hook_records_lookups_connections_and_file_reads(watched: list[str], tmp_path: Path) -> None:
    import socket

    (tmp_path / "secret").write_text("")
    with socket.socket() as one, pytest.raises(OSError):
        one.connect(("127.0.0.1", 1))
    assert watched == ["open", "socket.connect"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/secret.png",
        "https://example.org/secret.png",
        "file:///srv/secret.png",
        "/srv/secret.png",
        "ftp://example.org/secret.png",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:text/html;base64,PGI+",
        "data:application/dicom;base64,AAAA",
        "data:image/png,%89PNG",
        "data:;base64,AAAA",
        "  data:image/png;base64,AAAA",
    ],
)
def test_only_data_urls_of_jpeg_and_png_are_accepted(fake: FakeServer, watched: list[str], url: str) -> None:
    for answer in both(fake, url):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "not_a_data_url")
        assert "nothing is fetched" in error["message"] and "data:image/png;base64" in error["message"]
        assert "secret" not in answer.text
    assert watched == []


def test_images_that_cannot_be_read_are_named_by_their_number(fake: FakeServer) -> None:
    gif, bomb = io.BytesIO(), png(Image.new("L", (8_000, 8_000)))
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    for data, words in (
        (IMAGE[: len(IMAGE) // 2], "image 1 is truncated"),
        (gif.getvalue(), "image 1 is neither JPEG nor PNG"),
        (b"\0" * 128 + b"DICM" + b"\0" * 200, "image 1 is neither JPEG nor PNG"),
        (bomb, "image 1 has 8000 x 8000 pixels, more than 32,000,000"),
        (b"", "image 1 is neither"),
    ):
        for answer in both(fake, data_url(data)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_image")
            assert words in answer.json()["error"]["message"]
    for url in ("data:image/png;base64,%%%%", "data:image/png;base64,AAA"):
        assert all("not base64" in answer.json()["error"]["message"] for answer in both(fake, url))
    for url in (None, 5, {"url": "x"}):
        assert all(answer.status_code == 400 for answer in both(fake, url))
    assert fake.engine.stats().prompt_tokens == 0


def test_a_jpeg_and_a_large_body_are_accepted(fake: FakeServer, real: ImageServer) -> None:
    file = io.BytesIO()
    random_image(0).save(file, "JPEG")
    assert [answer.status_code for answer in both(fake, data_url(file.getvalue(), kind="image/jpeg"))] == [200, 200]
    large = png(random_image(1, side=900))
    assert len(large) > 2 << 20
    assert real.notes(QUESTION, [large]).status_code == 200
    assert real.notes(QUESTION, [large] * 4).status_code == 413
    assert real.notes(QUESTION, [IMAGE] * 5).status_code == 413


class SlowTower:
    """Reads no image before it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = 0, Event()

    def features(self, *_: Any, **__: Any) -> dict[int, Any]:
        self.begun += 1
        self.may_end.wait()
        return {}


@pytest.mark.parametrize("path", ["/notes", "/v1/chat/completions"])
def test_no_image_is_read_for_a_client_that_has_left(path: str) -> None:
    server, tower = fake_server("yes", task="vqa-rad", compare=False), SlowTower()
    server.service.served = replace(server.service.served, image_encoder=tower)
    body = {"dialogue": QUESTION, "images": [data_url(IMAGE)]}
    body = body if path == "/notes" else chat_body(MODEL, QUESTION, [IMAGE])
    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}

    async def ask() -> int:
        heard = [{"type": "http.request", "body": json.dumps(body).encode()}, {"type": "http.disconnect"}]
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(0.01)
            return heard.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await server.app(scope, receive, send)
        return int(sent[0]["status"])

    async def ask_all() -> list[int]:
        asked = asyncio.gather(*(ask() for _ in range(8)))
        await asyncio.wait({asked}, timeout=5)
        tower.may_end.set()
        return await asked

    assert asyncio.run(ask_all()) == [499] * 8
    server.service.close()
    assert tower.begun <= CHECKING_THREADS and server.engine.stats().prompt_tokens == 0


def test_a_cancelled_request_ends_without_waiting_for_a_thread(fake: FakeServer) -> None:
    may_end, sent = Event(), type("Sent", (), {"__call__": lambda _: None})()
    left = weakref.ref(sent)

    async def leave() -> None:
        nonlocal sent
        busy = [asyncio.ensure_future(fake.service.in_thread(may_end.wait)) for _ in range(CHECKING_THREADS)]
        waiting = asyncio.ensure_future(fake.service.in_thread(sent))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        del sent, waiting
        try:
            assert left() is None
        finally:
            may_end.set()
            await asyncio.gather(*busy)

    asyncio.run(leave())


def test_images_are_refused_for_a_task_without_images(fake: FakeServer) -> None:
    text = fake_server()
    (chat, notes) = both(text, data_url(IMAGE))
    sectioned = {"dialogue": QUESTION, "sections": ["CC"], "images": [data_url(IMAGE)]}
    for answer in (TestClient(text.app).post("/notes", json=sectioned), chat, notes):
        assert answer.status_code == 400
    assert "this run reads text alone" in TestClient(text.app).post("/notes", json=sectioned).json()["error"]["message"]
    client = TestClient(fake.app)
    for answer in (
        client.post("/notes", json={"dialogue": QUESTION}),
        client.post("/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}),
    ):
        assert answer.status_code == 400 and "send one at least, as a data URL" in answer.json()["error"]["message"]
    two_texts = chat_body(MODEL, QUESTION, [IMAGE])
    two_texts["messages"][0]["content"].append({"type": "text", "text": "more"})
    both_in_one = chat_body(MODEL, QUESTION, [IMAGE, IMAGE])
    both_in_one["messages"][0]["content"][1] |= both_in_one["messages"][0]["content"].pop() | {"type": "text"}
    assert "not both" in client.post("/v1/chat/completions", json=both_in_one).json()["error"]["message"]
    assert "one part of text" in client.post("/v1/chat/completions", json=two_texts).json()["error"]["message"]


def test_the_description_and_the_options_name_the_accepted_images(fake: FakeServer) -> None:
    client, text = TestClient(fake.app), TestClient(fake_server().app)
    options = client.get("/options").json()
    assert (options["source"], options["max_images"], options["checks"]) == ("question", 4, False)
    assert (text.get("/options").json()["max_images"], text.get("/options").json()["checks"]) == (0, True)
    assert "check against the images," in options["notice"] and "the dialogue," in text.get("/options").json()["notice"]
    of_question = TestClient(fake_server(task="medquad", compare=False).app).get("/options").json()
    assert "a clinician to check, never" in of_question["notice"]
    taken, of_text = (one.get("/openapi.json").json()["components"]["schemas"] for one in (client, text))
    assert taken["NotesRequest"]["required"] == ["dialogue", "images"] and "ImagePart" in taken
    assert "images" not in of_text["NotesRequest"]["properties"] and "ImagePart" not in of_text
