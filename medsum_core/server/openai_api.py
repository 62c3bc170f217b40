"""`/v1/chat/completions` and `/v1/models`, for the official `openai` client and whatever else speaks its interface.

The user's one message is the dialogue, or what else a task asks about, with its images as data URLs. `section` (of a
visit: a division, or none for the whole note) and `task` are fields of their own; `chat_template_kwargs` holds the same
and any other part of a prompt by name, as vLLM takes it for a merged model, so that the same call works there. Fields
that would change how a note is written are refused, except with the values that change nothing (`temperature: 0`,
null), which many clients always send.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsum_core.data.records import join_records
from medsum_core.server.answers import Context, EventStream, event, unless_gone
from medsum_core.server.fields import MESSAGE_FIELDS_OF_OTHERS, SETTINGS_OF_OTHERS, Fields
from medsum_core.server.image_fields import read_content
from medsum_core.server.job import Ended, Job
from medsum_core.server.refusal import Refusal, bad_request
from medsum_core.server.service import LONGEST_NAME, Order
from medsum_core.tasks.divisions import DIVISIONS

FIELDS = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("section", "task", "chat_template_kwargs"),
)
# Values of refused fields that change nothing, since every note is decoded so: they are accepted.
WITHOUT_EFFECT = {
    "temperature": 0,
    "top_p": 1,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
}
# Fields in which null is the same as no value, as in OpenAI's interface.
NULLABLE = SETTINGS_OF_OTHERS | {"stream", "stream_options", "max_tokens", "max_completion_tokens"}


@dataclass(frozen=True, kw_only=True)
class _Chat:
    """A request that was read."""

    dialogue: str
    images: tuple[bytes, ...]
    sections: tuple[str, ...]
    parts: dict[str, str]
    max_new_tokens: int
    stream: bool
    include_usage: bool


class OpenAIRoutes:
    """The two routes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._service = context.service
        self._began = int(time.time())

    async def models(self, _: Request) -> Response:
        """GET /v1/models: the run, alone."""
        model = {"id": self._service.served.name, "object": "model", "created": self._began, "owned_by": "medsum"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        chat = await self._context.read(request, self._read)
        id, created = uuid.uuid4().hex, int(time.time())
        order = await unless_gone(request, self._service.order(chat.dialogue, chat.sections, chat.parts, chat.images))
        await self._context.record_asked(request, order, id=id)
        job = self._service.write(order, max_new_tokens=chat.max_new_tokens)
        about = {"id": "chatcmpl-" + id, "created": created, "model": self._service.served.name}
        if chat.stream:
            events = self._events(request, order, job, about, id=id, include_usage=chat.include_usage)
            faultless = self._context.with_faults(events, named=False)
            return EventStream(faultless, job, count=self._service.metrics.count_refusal)
        with job:
            ended = await unless_gone(request, job.notes())
        await self._context.record_written(request, ended, _sent(order, ended), id=id)
        message = {"role": "assistant", "content": joined(order, [one.note for one in ended]), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(ended)}
        return JSONResponse(
            {
                **about,
                "object": "chat.completion",
                "choices": [choice],
                "usage": _usage(order, ended),
                "truncated": any(order.truncated),
            }
        )

    async def _events(
        self, request: Request, order: Order, job: Job, about: dict[str, Any], *, id: str, include_usage: bool
    ) -> AsyncIterator[bytes]:
        def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            return event({**about, "object": "chat.completion.chunk", "choices": [choice]})

        yield chunk({"role": "assistant", "content": ""})
        ended: list[Ended] = []
        async for one in job:
            if isinstance(one, Ended):
                ended.append(one)
            elif len(order.prompts) == 1:
                yield chunk({"content": one.text})
        ended.sort(key=lambda one: one.index)
        await self._context.record_written(request, ended, _sent(order, ended), id=id)
        if len(order.prompts) > 1:
            yield chunk({"content": joined(order, [one.note for one in ended])})
        yield chunk({}, _finish_reason(ended))
        if include_usage:
            chunk_of_usage = {**about, "object": "chat.completion.chunk", "choices": [], "usage": _usage(order, ended)}
            yield event({**chunk_of_usage, "truncated": any(order.truncated)})
        yield event("[DONE]")

    def _read(self, body: object) -> _Chat:
        served = self._service.served
        fields = Fields(_without_ineffective(body), known=FIELDS)
        if fields.text("model", longest=200) != served.name:
            raise Refusal(404, "model_not_found", f"there is one model here, {served.name}")
        if fields.has("task") and fields.text("task", longest=200) != served.renderer.task.name:
            raise Refusal(404, "task_not_found", f"the task of this run is {served.renderer.task.name}")
        budget = served.budget.max_new_tokens
        sections, parts = self._parts(fields)
        dialogue, images = self._content(fields)
        stream = fields.flag("stream")
        if fields.has("stream_options") and not stream:
            raise bad_request("stream_options: belongs to a stream")
        return _Chat(
            dialogue=dialogue,
            images=images,
            sections=sections,
            parts=parts,
            max_new_tokens=min(fields.count(name, default=budget) for name in ("max_tokens", "max_completion_tokens")),
            stream=stream,
            include_usage=fields.inner("stream_options", known=("include_usage",)).flag("include_usage"),
        )

    def _content(self, fields: Fields) -> tuple[str, tuple[bytes, ...]]:
        messages = fields.items("messages", most=self._context.limits.max_turns)
        if len(messages) != 1:
            raise bad_request("messages: this model takes one message, the user's, which is the source text")
        message = Fields(_without_nulls(messages[0]), known=("role", "content"), where="messages[0].")
        message.option("role", ("user",))
        return read_content(message, self._context.limits)

    def _parts(self, fields: Fields) -> tuple[tuple[str, ...], dict[str, str]]:
        """The sections, and the other parts of the prompt by name."""
        service = self._service
        short = "division" if service.section_field == "division" else "section"
        template = fields.inner("chat_template_kwargs", known=(short, *service.other_parts))
        if fields.has("section") and template.has(short):
            raise bad_request(f"section and chat_template_kwargs.{short} mean the same: give one")
        sections: tuple[str, ...] = ()
        if fields.has("section"):
            sections = (fields.text("section", longest=LONGEST_NAME),)
        elif template.has(short):
            sections = (template.text(short, longest=LONGEST_NAME).replace(" ", "_" if short == "division" else " "),)
        longest = self._context.limits.max_dialogue_characters
        return sections, {name: template.text(name, longest=longest) for name in service.other_parts}


def _without_ineffective(body: object) -> object:
    """The body without the fields whose values change nothing."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in body.items() if not _is_ineffective(name, value)}


def _is_ineffective(name: str, value: object) -> bool:
    if value is None:
        return name in NULLABLE
    expected = WITHOUT_EFFECT.get(name)
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def _without_nulls(message: object) -> object:
    """The message without the null fields by which clients say that it has no name, no calls of tools, no refusal."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None or name not in MESSAGE_FIELDS_OF_OTHERS}


def _sent(order: Order, ended: list[Ended]) -> list[tuple[str, str]]:
    """Section and text of each note."""
    return [(order.sections[one.index], one.note) for one in ended]


def joined(order: Order, notes: list[str]) -> str:
    """One text of the notes: the four divisions of a visit joined as `infer.py` joins them."""
    if len(notes) == 1:
        return notes[0]
    assert order.sections == DIVISIONS
    return join_records(order.records, notes)[1][0]


def _finish_reason(ended: list[Ended]) -> str:
    return "length" if any(one.generation.hit_limit for one in ended) else "stop"


def _usage(order: Order, ended: list[Ended]) -> dict[str, int]:
    """`usage`: the prompts' tokens, and the notes' without their stop tokens."""
    read, written = order.num_prompt_tokens, sum(len(one.generation.token_ids) for one in ended)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
