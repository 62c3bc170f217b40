"""A headless Chromium on the server's pages: an application on loopback, and a window on it that is watched."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
PATIENCE = 30_000  # ms until something that should show counts as missing


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the tests of the page are skipped, saying so, where it or playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is not tested: playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("the page is not tested: no chromium on this machine (Debian: apt-get install chromium)")
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not start for root
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=alone)
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The application on a free port of loopback; its address. Connections are cut at the end."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)


class Watched:
    """A window on an address. `faults`: errors in its console; `elsewhere`: requests that left the origin."""

    def __init__(self, browser: Any, address: str, *, size: dict[str, int] = DESKTOP, path: str = "/", **options: Any):
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        self.context = browser.new_context(viewport=size, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._saw(request.url, address))
        self.page.goto(f"{address}{path}")

    def _saw(self, url: str, address: str) -> None:
        if not url.startswith((f"{address}/", "data:", f"blob:{address}/")):
            self.elsewhere.append(url)

    def close(self, *, expected: tuple[str, ...] = ()) -> None:
        """Closes it; nothing was fetched from elsewhere, and no fault was shown that `expected` does not name."""
        self.context.close()
        assert self.elsewhere == []
        assert [fault for fault in self.faults if not any(part in fault for part in expected)] == []
