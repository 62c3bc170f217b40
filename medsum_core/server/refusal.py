"""A request that is refused: its status and words, in the form of OpenAI's errors. They never contain what was sent."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CLIENT_GONE = "client_gone"
RETRY_SECONDS = 5  # a note of the demo model takes about as long


class Refusal(Exception):  # noqa: N818 - it is no fault of the program
    """Why a request is not done. `code`: the reason in one word, also a label of the metrics."""

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, object]:
        """What the client is sent."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer to the request."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def bad_request(message: str, *, code: str = "invalid_request") -> Refusal:
    """A body that is not what the route takes."""
    return Refusal(400, code, message)


def too_large(message: str) -> Refusal:
    """More than one of the limits allows."""
    return Refusal(413, "too_large", message)


def try_later(message: str) -> Refusal:
    """No room now, but soon."""
    return Refusal(429, "queue_full", message, headers={"Retry-After": str(RETRY_SECONDS)})


def client_gone() -> Refusal:
    """The client has left; nobody reads this, the metrics count it. 499 is nginx's number."""
    return Refusal(499, CLIENT_GONE, "the client has left")


def worker_gone() -> Refusal:
    """The engine has failed; a restart is needed."""
    return Refusal(503, "worker_gone", "the model's worker has failed: restart the server; its stderr says why")


def stopping() -> Refusal:
    """The server is stopping, and the note was not finished in time."""
    return Refusal(503, "stopping", "the server is stopping; ask again once it is back")


def internal_error(error: BaseException) -> Refusal:
    """A bug in the program: stderr gets its type and place, the client only the fact."""
    print(f"internal error: {place_of(error)}", file=sys.stderr, flush=True)
    return Refusal(500, "internal_error", "the server has a fault; its stderr says where")


def place_of(error: BaseException) -> str:
    """The type of an error and where it was raised: its message may contain patient text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
