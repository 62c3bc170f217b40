"""How answers are sent: as JSON to a client that is still there, or as events while notes are written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from medsum_core.server.audit import AuditLog, known_section, text_sha256
from medsum_core.server.fields import parse_json, read_body
from medsum_core.server.job import Ended, Job
from medsum_core.server.limits import Limits
from medsum_core.server.refusal import CLIENT_GONE, Refusal, client_gone, internal_error
from medsum_core.server.security import WHO
from medsum_core.server.service import Order, Service

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the routes share."""

    service: Service
    audit: AuditLog
    limits: Limits

    async def read(self, request: Request, read: Callable[[object], Value]) -> Value:
        """What `read` makes of the value of the body, which is JSON. Raises Refusal as `read_body` and `read` do."""
        body = await read_body(request, self.limits)
        return await self.service.in_reader(lambda: read(parse_json(body)))

    async def record(self, request: Request, event: str, *, id: str, **facts: Any) -> None:
        """`AuditLog.record` in a thread, under the name of the request's token."""
        who = str(request.scope[WHO])
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: self.audit.record(event, id=id, who=who, **facts)
        )

    async def record_asked(self, request: Request, order: Order, *, id: str, grounded: bool = False) -> None:
        """Record that notes were requested; without a later `written`, the client left or the request failed."""
        facts: dict[str, Any] = {"sections": list(map(known_section, order.sections))}
        facts |= {"dialogue_sha256": text_sha256(order.dialogue)}
        facts |= {"images_sha256": list(order.images_sha256)} if order.images_sha256 else {}
        await self.record(request, "asked", id=id, grounded=grounded or self.service.served.grounded, **facts)

    async def record_written(
        self, request: Request, ended: Sequence[Ended], sent: Sequence[tuple[str, str]], *, id: str
    ) -> None:
        """Record which notes were written, before they are sent in full. `sent`: section and text of each."""
        notes = [
            {
                "section": known_section(section),
                "note_sha256": text_sha256(text),
                "num_tokens": len(one.generation.token_ids),
                "hit_limit": one.generation.hit_limit,
            }
            for one, (section, text) in zip(ended, sent, strict=True)
        ]
        await self.record(request, "written", id=id, notes=notes)

    async def with_faults(self, events: AsyncIterator[bytes], *, named: bool) -> AsyncIterator[bytes]:
        """The events; an error becomes the last one. `named`: as `event: error` with the message alone."""
        try:
            async for one in events:
                yield one
            return
        except Refusal as found:
            refusal = found
        except Exception as error:
            refusal = internal_error(error)
        self.service.metrics.count_refusal(refusal.code)
        yield event({"message": str(refusal)}, name="error") if named else event(refusal.body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """The result of `work`, which is cancelled when the client leaves; then Refusal is raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise client_gone()
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events of a job; the job is cancelled when the stream ends, for any reason.

    Uses starlette only: the package sse-starlette ends all streams at SIGTERM, and logs their content at debug level.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], job: Job, *, count: Callable[[str], None]) -> None:
        super().__init__(events, headers={"X-Accel-Buffering": "no"})  # nginx hands each event on at once
        self._job = job
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        try:
            with self._job:
                await super().__call__(scope, receive, send)
        finally:
            if self._job.num_open:
                self._count(CLIENT_GONE)


def event(data: object, *, name: str | None = None) -> bytes:
    """One event; JSON in ASCII contains no character that a client could take for a line end."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
