"""The JSON body of a request, read field by field. An error names the field and never its content."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from medsum_core.server.limits import Limits
from medsum_core.server.refusal import Refusal, bad_request, client_gone, too_large

# What other servers of this interface take. Only these are named back: any other name may be text of a patient.
# fmt: off
MESSAGE_FIELDS_OF_OTHERS = frozenset({
    "name", "refusal", "audio", "annotations", "function_call", "tool_calls", "tool_call_id",
})
SETTINGS_OF_OTHERS = frozenset({
    "temperature", "top_p", "top_k", "min_p", "n", "best_of", "stop", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "length_penalty", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice",
    "parallel_tool_calls", "functions", "function_call", "response_format", "user", "metadata", "store", "service_tier",
    "reasoning_effort", "verbosity", "modalities", "audio", "prediction", "web_search_options", "safety_identifier",
    "prompt_cache_key", "stop_token_ids", "min_tokens", "ignore_eos", "guided_json", "guided_choice", "guided_regex",
    "structured_outputs",
}) | MESSAGE_FIELDS_OF_OTHERS
# fmt: on
# Zero-width characters show nothing either; openapi.json has the same pattern.
VISIBLE = re.compile(r"[^\s\x00-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Fields:
    """The fields of a JSON object from outside. Each method raises Refusal (400, 413) for a value of another type.

    `known`: all fields that the object may have; `where`: prefix of field names in messages, such as `notes[2].`.
    """

    def __init__(self, values: object, *, known: Collection[str], where: str = "") -> None:
        if not isinstance(values, dict):
            raise bad_request(f"{where.rstrip('.') or 'the body'}: expected a JSON object")
        self._values: Mapping[str, Any] = values
        self._where = where
        for name in values:
            if name not in known:
                self._refuse_unknown(name, known)

    def has(self, name: str) -> bool:
        """Whether the field is present."""
        return name in self._values

    def is_list(self, name: str) -> bool:
        """Whether the field is present and a list."""
        return isinstance(self._values.get(name), list)

    def text(self, name: str, *, longest: int, default: str | None = None) -> str:
        """A text of at most `longest` characters; without a default it must be present and not blank."""
        value = self._value(name, default)
        if not isinstance(value, str):
            self._refuse(name, "expected a text")
        if len(value) > longest:
            raise too_large(f"{self._where}{name}: longer than {longest} characters")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self._refuse(name, "holds half a character (a surrogate)")
        if default is None and VISIBLE.search(value) is None:
            self._refuse(name, "empty")
        return value

    def flag(self, name: str) -> bool:
        """true or false; false where it is not given."""
        value = self._value(name, False)
        if not isinstance(value, bool):
            self._refuse(name, "expected true or false")
        return value

    def count(self, name: str, *, default: int) -> int:
        """A whole number of at least 1."""
        value = whole_number(self._value(name, default))
        if value is None or value < 1:
            self._refuse(name, "expected a whole number from 1 on")
        return value

    def option(self, name: str, options: Sequence[str]) -> str:
        """One of a few words."""
        value = self._value(name, None)
        if value not in options:
            self._refuse(name, f"expected one of {', '.join(options)}")
        return str(value)

    def items(self, name: str, *, most: int, default: Sequence[object] | None = None) -> list[Any]:
        """A list of at most `most` entries, which the caller checks."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple):
            self._refuse(name, "expected a list")
        if len(value) > most:
            raise too_large(f"{self._where}{name}: more than {most} entries")
        return list(value)

    def inner(self, name: str, *, known: Collection[str]) -> Fields:
        """An object with fields of its own; one without any where it is not given."""
        return Fields(self._value(name, {}), known=known, where=f"{self._where}{name}.")

    def _value(self, name: str, default: object) -> Any:
        if name not in self._values and default is None:
            self._refuse(name, "missing")
        return self._values.get(name, default)

    def _refuse(self, name: str, what: str) -> NoReturn:
        raise bad_request(f"{self._where}{name}: {what}")

    def _refuse_unknown(self, name: str, known: Collection[str]) -> NoReturn:
        fields = f"the fields are {', '.join(known)}"
        if name in SETTINGS_OF_OTHERS:
            raise bad_request(
                f"{self._where}{name}: not taken here, notes are written as the run says; {fields}",
                code="unknown_field",
            )
        raise bad_request(
            f"{self._where.rstrip('.') or 'the body'}: has a field that is not known here; {fields}",
            code="unknown_field",
        )


def whole_number(value: object) -> int | None:
    """The value as a whole number, as JSON has them: 1 and 1.0 are the same; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, of content type JSON.

    Raises Refusal: 415 for another type, 413 and 408 beyond the limits, 499 for a client that leaves before its end.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "not_json", "the body must be JSON, with Content-Type: application/json")
    try:
        return await asyncio.wait_for(_read(request, limits.max_body_bytes), limits.body_seconds)
    except asyncio.TimeoutError:
        message = f"the body did not arrive within {limits.body_seconds:g} s"
        raise Refusal(408, "too_slow", message, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise client_gone() from None


def parse_json(body: bytes) -> object:
    """The value of a body. Raises Refusal (400) for invalid JSON."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON", code="not_json") from None


async def _read(request: Request, most: int) -> bytes:
    refusal = too_large(f"the body has more than {most} bytes")
    refusal.headers["Connection"] = "close"  # what is still to come is not read
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise refusal
    return bytes(body)


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
