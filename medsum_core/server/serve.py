"""uvicorn around the application: one socket, no access log, an end within a limit."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from medsum_core.errors import InputError
from medsum_core.process import Interrupted, handled_signals, restore_default_handlers
from medsum_core.server.job import Engine
from medsum_core.server.limits import Limits
from medsum_core.server.security import say_no_words

AFTER_NOTES = 10.0  # seconds in which answers are checked and sent once the engine has ended


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, which does not listen yet. Raises InputError if the address can't be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that can be no host's, such as "a..b"
        why = getattr(error, "strerror", None) or "no host has such a name"
        raise InputError(f"--host {host} --port {port}: can't be listened on ({why})") from None
    return bound


def serve(app: ASGIApp, bound: socket.socket, *, engine: Engine, limits: Limits) -> None:
    """Serve until one of `process.STOP_SIGNALS`, which is raised as Interrupted once what runs has ended.

    A second signal ends the process at once.
    """
    config = uvicorn.Config(
        app,
        http=partial(_TimedProtocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.max_connections,
        timeout_graceful_shutdown=int(limits.stop_seconds + AFTER_NOTES),
    )
    asyncio.run(_serve(_Server(config, engine=engine, limits=limits), bound))


def address_of(bound: socket.socket) -> str:
    """The address as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(server: uvicorn.Server, bound: socket.socket) -> None:
    asyncio.get_running_loop().set_exception_handler(say_no_words)
    await server.serve(sockets=[bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, engine: Engine, limits: Limits) -> None:
        super().__init__(config)
        self._engine = engine
        self._stop_seconds = limits.stop_seconds
        self._signal: signal.Signals | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then print that the server is ready."""
        await super().startup(sockets=sockets)
        for bound in sockets or ():
            print(f"ready on {address_of(bound)}", file=sys.stderr, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As every script here ends by signals."""
        with handled_signals(self.handle_exit):
            yield
        if self._signal is not None:
            raise Interrupted(self._signal)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """No new notes; those that run have until the limit."""
        restore_default_handlers()
        self._signal = signal.Signals(sig)
        self.should_exit = True
        print(f"stopping: what runs has {self._stop_seconds:g} s", file=sys.stderr, flush=True)
        Thread(target=self._engine.close, kwargs={"seconds": self._stop_seconds}, daemon=True).start()


class _TimedProtocol(H11Protocol):
    """uvicorn's protocol, but a connection on which no request begins in time is closed, however slowly it sends."""

    def __init__(self, *args: object, limits: Limits, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._header_seconds = limits.header_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As of a protocol."""
        super().connection_made(transport)
        self._expect_request_after(None)

    def on_response_complete(self) -> None:
        """As of uvicorn's protocol."""
        super().on_response_complete()
        self._expect_request_after(self.cycle)

    def _expect_request_after(self, cycle: RequestResponseCycle | None) -> None:
        def close_if_silent() -> None:
            if self.cycle is cycle and not self.transport.is_closing():
                self.transport.close()

        self.loop.call_later(self._header_seconds, close_if_silent)
