"""The HTTP interface: schemathesis against its OpenAPI description, and OpenAI's client over a socket."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import openai
import pytest
import schemathesis
from fake_server import DIALOGUE, MODEL, NOTE, TOKEN, fake_server, tokens_of
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from serve_fake import Served, serve_fake
from starlette.testclient import TestClient

from medsum_core.generation.decoding_memory import CPU_BATCH, MAX_BATCH
from medsum_core.server.arguments import parse_options
from medsum_core.server.limits import Limits
from medsum_core.tasks.divisions import DIVISIONS

EXAMPLES = 25  # a route

fake = fake_server("No fever.", tokens=tokens_of(TOKEN), num_slots=16, max_waiting=64)
refusals = {"negative_data_rejection": {"expected-statuses": ["400", "404", "405", "413", "415"]}}
drawn = {"max-examples": EXAMPLES, "deterministic": True, "database": "none"}
config = SchemathesisConfig.from_dict(
    {"checks": refusals, "generation": drawn, "headers": {"Authorization": f"Bearer {TOKEN}"}}
    | {"phases": {"stateful": {"enabled": False}}}
)
schema = schemathesis.openapi.from_asgi("/openapi.json", fake.app, config=config)


def test_schemathesis_finds_no_failure() -> None:
    """By its engine, not its decorator, which makes the cases of the second phase whenever this file is collected."""
    found: Counter[tuple[str, str]] = Counter()
    for event in from_schema(schema).execute():
        assert not isinstance(event, (events.NonFatalError, events.FatalError)), event
        if isinstance(event, events.EngineFinished):
            assert event.failures == []
        if isinstance(event, events.ScenarioFinished) and event.status != Status.SKIP:  # no route has examples
            assert event.status == Status.SUCCESS, event.recorder.checks
            found[event.phase.name, str(event.label)] += len(event.recorder.cases)
    routes = {each.ok().label for each in schema.get_all_operations()}
    assert len(routes) == 11 and found.keys() == set(product(("COVERAGE", "FUZZING"), routes))
    assert min(found.values()) > 0 and found["FUZZING", "POST /notes"] >= EXAMPLES


def test_the_description_names_every_route_but_the_pages() -> None:
    routes = {route.path for route in fake.app.routes if not route.path.endswith((".js", ".css"))}
    assert routes - {"/", "/compare"} == set(schema.raw_schema["paths"])


def test_words_for_people_fit_a_task_that_reads_no_dialogue() -> None:
    client = TestClient(fake_server(task="pubmedqa", limits=Limits(max_turns=2)).app)
    description = client.get("/openapi.json").text
    texts = re.findall(r'"(?:description|summary)":"([^"]*)', description)
    assert len(texts) > 50 and [text for text in texts if "the dialogue" in text.lower()] == []
    assert "The prompt's question." in texts
    chat = {"model": MODEL, "chat_template_kwargs": {"question": "Is it so?"}}
    messages = [
        client.post("/v1/chat/completions", json={**chat, "messages": sent}).json()["error"]["message"]
        for sent in ([], [{"role": "user", "content": "Doctor: Hi.\nPatient: Hi.\nDoctor: Well?"}])
    ]
    assert all("source text" in message for message in messages), messages


def test_a_text_that_shows_nothing_is_empty() -> None:
    """As a cell of a table is: web pages leave zero-width spaces."""
    schemas = schema.raw_schema["components"]["schemas"]
    pattern = schemas["NotesRequest"]["properties"]["dialogue"]["pattern"]
    client = TestClient(fake_server().app)
    for text in ("\u200b\u2060", "\xad\ufeff", " \n"):
        answer = client.post("/notes", json={"dialogue": text, "sections": ["CC"]})
        assert answer.json()["error"]["message"] == "dialogue: empty" and re.search(pattern, text) is None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_fake(tmp_path_factory.mktemp("served"), token=TOKEN) as process:
        yield process


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, *, section: str = "CC", **more: object) -> object:
    message = {"role": "user", "content": DIALOGUE}
    extra = {"section": section, "task": "section"}
    return client.chat.completions.create(model=MODEL, messages=[message], extra_body=extra, **more)


def test_the_official_client_gets_a_note(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    answer = chat(client)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (NOTE, "stop")
    num_tokens = len(fake.service.served.renderer.text_ids(NOTE))
    assert answer.usage.completion_tokens == num_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + num_tokens


def test_the_official_client_streams_a_note(client: openai.OpenAI) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(texts) == NOTE and len(texts) > 10
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens > 10


def test_the_client_may_limit_a_notes_tokens(client: openai.OpenAI) -> None:
    answer = chat(client, max_tokens=5)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
    assert NOTE.startswith(answer.choices[0].message.content)


def test_the_official_client_is_refused_by_its_own_errors(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(client, temperature=0.7)
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": DIALOGUE}])
    stranger = openai.OpenAI(base_url=f"{served.url}/v1", api_key="another", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


# As programs send them unasked: their own defaults, and null for what nobody gave.
UNASKED = (
    {"temperature": 0, "top_p": 1.0, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False},
    {"max_tokens": None, "max_completion_tokens": None, "stream": None, "stream_options": None},
    dict.fromkeys(("temperature", "stop", "seed", "tools", "tool_choice", "response_format", "user", "logit_bias")),
)


@pytest.mark.parametrize("more", UNASKED)
def test_what_asks_for_nothing_else_than_is_done_is_taken(more: dict[str, object], client: openai.OpenAI) -> None:
    assert chat(client, **more).choices[0].message.content == NOTE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (1, False)),
        *(("n", value) for value in (2, True)),
        *(("logprobs", value) for value in (True, 0)),
        *(("stop", value) for value in (["."], "Plan")),
        *(("top_p", 0.9), ("tools", [])),
    ],
)
def test_what_would_change_a_note_is_refused_by_name(name: str, value: object) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": DIALOGUE}], "section": "CC", name: value}
    error = TestClient(fake_server().app).post("/v1/chat/completions", json=body).json()["error"]
    assert error["code"] == "unknown_field" and error["message"].startswith(f"{name}: not taken here")


# The fields of a message in openai's own types (`ChatCompletionMessage`, the messages of a request) beside its content.
OF_MESSAGES = ("name", "refusal", "audio", "annotations", "function_call", "tool_calls", "tool_call_id")


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        (dict.fromkeys(OF_MESSAGES), None),
        *(({name: "x"}, f"messages[0].{name}: not taken here") for name in OF_MESSAGES),
        ({"content": None}, "messages[0].content: expected a text"),  # a user's message is nothing without it
        ({"role": None}, "messages[0].role: expected one of user"),
        ({DIALOGUE: None}, "messages[0]: has a field that is not known here"),
    ],
)
def test_null_in_a_message_means_that_it_has_no_such_field(more: dict[str, object], refused: str | None) -> None:
    message = {"role": "user", "content": DIALOGUE} | more
    body = {"model": MODEL, "messages": [message], "section": "CC"}
    answer = TestClient(fake_server().app).post("/v1/chat/completions", json=body)
    assert answer.status_code == (400 if refused else 200)
    assert refused is None or answer.json()["error"]["message"].startswith(refused)


def test_the_call_for_a_merged_model_at_vllm_works_unchanged(client: openai.OpenAI) -> None:
    message = {"role": "user", "content": DIALOGUE}
    extra = {"chat_template_kwargs": {"section": "CC"}}
    answer = client.chat.completions.create(model=MODEL, messages=[message], extra_body=extra)
    assert answer.choices[0].message.content == NOTE


def test_a_visit_is_its_four_divisions_joined() -> None:
    notes = {name.replace("_", " "): f"{name.upper()}\n\nText of {name}." for name in DIVISIONS}
    notes["objective results"] = "Not discussed."
    visit = fake_server(notes, task="visit")
    body = {"model": MODEL, "messages": [{"role": "user", "content": DIALOGUE}]}
    whole = "\n\n".join(notes[name.replace("_", " ")] for name in DIVISIONS if name != "objective_results")

    client = TestClient(visit.app)
    plain = client.post("/v1/chat/completions", json=body).json()
    assert plain["choices"][0]["message"]["content"] == whole
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    one = client.post("/v1/chat/completions", json={**body, "section": "objective_exam"}).json()
    assert one["choices"][0]["message"]["content"] == notes["objective exam"]


def test_the_calls_flags_and_limits_of_the_documentation_are_right(client: openai.OpenAI, served: Served) -> None:
    """Its calls as printed, but for the model's name; its flags; its limits."""
    page = (Path(__file__).parents[2] / "examples" / "serve.md").read_text()
    (call,) = re.findall(r"client\.chat\.completions\.create\(\n.*?\n\)", page, re.DOTALL)
    answer = eval(call.replace('"mine"', repr(MODEL)), {"client": client})
    assert answer.choices[0].message.content == NOTE
    (body,) = re.findall(r"-d '(\{.*?\})'", page, re.DOTALL)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert len(httpx.post(f"{served.url}/notes", json=json.loads(body), headers=headers).json()["notes"]) == 2
    flags = {flag for line in re.findall(r"medsum_core\.server (.*)", page) for flag in re.findall(r"--(\w+)", line)}
    options = vars(parse_options(["--run", "r"]))
    assert {"run", "token_file", "offline"} <= flags <= set(options)
    limits = Limits()
    for words in (f"{limits.max_dialogue_characters:,} characters", f"{limits.max_turns:,} turns", f"{limits.max_sections} sections",
                  f"{limits.max_requests} requests", f"{limits.max_connections}\nconnections", f"{limits.body_seconds:g} s",
                  f"`--stop_seconds` ({options['stop_seconds']:g})", f"`--batch_size` notes (auto: {CPU_BATCH} on a CPU, on a GPU as many as fit, at most {MAX_BATCH})"):  # fmt: skip
        assert " ".join(words.split()) in " ".join(page.split())
