"""A run that shows images, served by the engine itself, and what is sent to it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

import infer
from medsum_core.server.app import app
from medsum_core.server.arguments import parse_options
from medsum_core.server.audit import AppendedLines, AuditLog
from medsum_core.server.limits import limits_for
from medsum_core.server.loading import Loaded, load
from medsum_core.server.security import Access
from medsum_core.server.service import Service


@dataclass(frozen=True, kw_only=True)
class ImageServer:
    """The application's client, the engine behind it, and the audit log."""

    client: TestClient
    loaded: Loaded
    audit: Path

    def chat(self, question: str, files: list[bytes]) -> Any:
        return self.client.post("/v1/chat/completions", json=chat_body(self.loaded.served.name, question, files))

    def notes(self, question: str, files: list[bytes]) -> Any:
        body = {"dialogue": question, "images": [data_url(data) for data in files]}
        return self.client.post("/notes", json=body)


@contextmanager
def image_server(run: Path, folder: Path, *flags: str) -> Iterator[ImageServer]:
    """Serves the run as `python -m medsum_core.server` does, without a socket; its audit log lies in `folder`."""
    args = parse_options(["--run", str(run), "--offline", *flags])
    loaded = load(infer.prepare_writer(args), args)
    path = folder / "audit.jsonl"
    audit = AuditLog(AppendedLines(path, flag="--audit_file"), model=loaded.served.name, settings_sha256="0" * 64)
    limits = limits_for(loaded.served.renderer.task, stop_seconds=1)
    service = Service(loaded.engine, loaded.served, limits=limits)
    application = app(service, access=Access(hosts=frozenset({"testserver"})), audit=audit)
    try:
        yield ImageServer(client=TestClient(application), loaded=loaded, audit=path)
    finally:
        loaded.engine.close(seconds=0)
        service.close()


def data_url(data: bytes, *, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def chat_body(model: str, question: str, files: list[bytes], **more: Any) -> dict[str, Any]:
    """The image first, as OpenAI's own examples have it last: neither decides the prompt."""
    images = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in files]
    content = [*images[:1], {"type": "text", "text": question}, *images[1:]]
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}
