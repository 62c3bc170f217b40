"""All routes as one plain ASGI application, for uvicorn and for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsum_core.server.answers import Context
from medsum_core.server.audit import AuditLog
from medsum_core.server.compare import CompareRoutes, Votes
from medsum_core.server.description import described
from medsum_core.server.metrics import CONTENT_TYPE, Metrics
from medsum_core.server.notes_api import NotesRoutes
from medsum_core.server.openai_api import OpenAIRoutes
from medsum_core.server.refusal import Refusal, worker_gone
from medsum_core.server.security import Access, Guard
from medsum_core.server.service import Service

PAGE = Path(__file__).with_name("page")
# By ourselves, as what the system thinks of a suffix differs; a browser runs no script of another type.
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}
Endpoint = Callable[[Request], Awaitable[Response]]


def app(service: Service, *, access: Access, audit: AuditLog, votes: Votes | None = None) -> Starlette:
    """The application. `votes`: the file of votes between base and tuned; None: no such comparison."""
    metrics = service.metrics
    context = Context(service=service, audit=audit, limits=service.limits)
    pages = frozenset(f"/{path.name}" for path in PAGE.glob("*") if path.suffix in (".js", ".css"))
    guard = partial(Guard, access=access, limits=service.limits, open_paths=pages, count=metrics.count_refusal)
    counted = partial(_Counted, metrics=metrics)
    routes: list[BaseRoute] = [
        *_api_routes(context, compares=votes is not None),
        *(_compare_routes(context, votes) if votes is not None else []),
        Route("/health", _health(service), methods=["GET"]),
        Route("/metrics", _metrics(metrics), methods=["GET"]),
        Route("/openapi.json", _described(service, needs_token=access.tokens is not None), methods=["GET"]),
        *(Route(path, _file(PAGE / path.strip("/")), methods=["GET"]) for path in pages),
        Route("/", _file(PAGE / "index.html"), methods=["GET"]),
    ]
    application = Starlette(
        routes=routes,
        middleware=[Middleware(partial(counted, paths=_paths(routes))), Middleware(guard)],
        exception_handlers={HTTPException: _http_error},
    )
    # A path with one slash too many would be answered with an address in plain HTTP, also behind TLS, and a client
    # that follows sends its dialogue there.
    application.router.redirect_slashes = False
    return application


def _api_routes(context: Context, *, compares: bool) -> list[Route]:
    openai, notes = OpenAIRoutes(context), NotesRoutes(context, compares=compares)
    return [
        Route("/v1/chat/completions", openai.chat, methods=["POST"]),
        Route("/v1/models", openai.models, methods=["GET"]),
        Route("/options", notes.options, methods=["GET"]),
        Route("/notes", notes.notes, methods=["POST"]),
        Route("/check", notes.check, methods=["POST"]),
        Route("/audit", notes.audit, methods=["POST"]),
    ]


def _compare_routes(context: Context, votes: Votes) -> list[Route]:
    compare = CompareRoutes(context, votes)
    return [
        Route("/compare", _file(PAGE / "compare.html"), methods=["GET"]),
        Route("/compare/pair", compare.pair, methods=["POST"]),
        Route("/compare/vote", compare.vote, methods=["POST"]),
        Route("/compare/summary", compare.summary, methods=["GET"]),
    ]


class _Counted:
    """Counts the answers by route and status; a path that is no route is `other`."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)


def _paths(routes: Sequence[BaseRoute]) -> frozenset[str]:
    return frozenset(route.path for route in routes if isinstance(route, Route))


def _health(service: Service) -> Endpoint:
    async def health(_: Request) -> Response:
        if not service.engine.is_alive:
            raise worker_gone()
        return JSONResponse({"status": "ok"})

    return health


def _metrics(metrics: Metrics) -> Endpoint:
    async def figures(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return figures


def _described(service: Service, *, needs_token: bool) -> Endpoint:
    description = described(service, needs_token=needs_token)

    async def describe(_: Request) -> Response:
        return JSONResponse(description)

    return describe


def _file(path: Path) -> Endpoint:
    async def file(_: Request) -> Response:
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix])

    return file


async def _http_error(_: Request, error: Exception) -> Response:
    """Starlette's own refusals, of paths and methods, in the form of the others."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
    words = {404: "there is no such route", 405: "this route takes another method"}.get(error.status_code, "refused")
    raise Refusal(error.status_code, code, words, headers=error.headers)
