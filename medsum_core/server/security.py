"""Access control and the headers of every answer: the outermost layer of the server.

- The Host header must be a name of ours: else a web page whose name was made to point at 127.0.0.1 (DNS rebinding)
  would be of the same origin as the server.
- A request from another origin's page is refused; no header ever allows one (no CORS), and there are no cookies.
- With a token file everything but the page's own files, the health and the interface's description needs a token.
- A bug in the program is a plain 500; its type and place are printed, but not its message, which may contain
  patient text.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsum_core.server.limits import Limits
from medsum_core.server.refusal import Refusal, internal_error, place_of, stopping, try_later
from medsum_core.server.tokens import Tokens

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
WHO = "medsum.who"  # in an ASGI scope: the name of the token
NOBODY = "local"  # without a token file: any user of this machine
OPEN_PATHS = frozenset({"/", "/compare", "/health", "/openapi.json"})


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask: under which host names, and with which tokens (None: anybody who reaches the server)."""

    hosts: frozenset[str] = LOOPBACK
    tokens: Tokens | None = None


class Guard:
    """The ASGI application with the rules of the module around it. `count(code)` is called for each refusal."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        limits: Limits,
        open_paths: frozenset[str],
        count: Callable[[str], None],
    ) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._open = OPEN_PATHS | open_paths
        self._count = count
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _use_address(scope)
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(raw=message["headers"]).update(HEADERS)
            await send(message)

        try:
            await self._let_in(scope, receive, send_with_headers)
        except Refusal as refusal:
            self._count(refusal.code)
            await refusal.response()(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # by uvicorn, for what its time for the end did not suffice
            cut_off = stopping()
            self._count(cut_off.code)
            if not has_begun:
                await cut_off.response()(scope, receive, send_with_headers)
        except Exception as error:
            fault = internal_error(error)
            self._count(fault.code)
            if not has_begun:
                await fault.response()(scope, receive, send_with_headers)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        scope[WHO] = self._who(scope, headers)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._num_requests >= self._limits.max_requests:
            raise try_later(f"{self._num_requests} requests are being answered already")
        self._num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_requests -= 1

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name not in self._access.hosts:
            raise Refusal(403, "wrong_host", "the Host header names no host of this server (--allowed_host)")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise Refusal(403, "wrong_origin", "requests from pages of another origin are refused")

    def _who(self, scope: Scope, headers: Headers) -> str:
        tokens = self._access.tokens
        if tokens is None:
            return NOBODY
        who = tokens.who(headers.get("authorization", ""))
        if who is None and not (scope["path"] in self._open and scope["method"] in ("GET", "HEAD")):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "no_token", "a token is needed: Authorization: Bearer TOKEN", headers=challenge)
        return who or NOBODY


def _use_address(scope: Scope) -> None:
    """Give a request for a whole address, `http://host/path`, that path and host: its Host header does not count.

    RFC 9112, section 3.2.2: a server must accept such requests, which clients send to proxies.
    """
    scheme, mark, rest = scope["path"].partition("://")
    if mark and scheme.lower() in ("http", "https"):
        host, _, path = rest.partition("/")
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope.update(path=f"/{path}", headers=[*others, (b"host", host.encode())])


def say_no_words(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """An event loop's exception handler: asyncio's own would print the error's words."""
    error = context.get("exception")
    print(f"internal error: {place_of(error) if isinstance(error, BaseException) else 'no exception'}", file=sys.stderr)
