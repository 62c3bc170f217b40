"""The tokens of those who may use the server: a file with `name:token`, or a bare token, on each line."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from medsum_core.errors import InputError, raise_all
from medsum_core.files import read_plain_file

FEWEST_CHARACTERS = 16
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
UNNAMED = "token"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Who holds which token, as sha256: the tokens themselves are not kept."""

    _names: tuple[tuple[bytes, str], ...] = field(repr=False)

    def who(self, authorization: str) -> str | None:
        """The name of the one whose token an Authorization header has; None for anybody else.

        All are compared, each in constant time, so that the time tells nothing of any.
        """
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip() if scheme.lower() == "bearer" else "")
        found = None
        for known, name in self._names:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read_tokens(path: str) -> Tokens:
    """The tokens of a file. Raises InputError, by line, for one that is open to others, empty or holds no tokens."""
    try:
        text = read_plain_file(path).decode("ascii")
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"--token_file {path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"--token_file {path}: holds characters that no token has") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise InputError(f"--token_file {path}: every user of this machine can read it; chmod o-rwx {Path(path).name}")
    names, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        name, colon, token = line.strip().rpartition(":")
        if not token and not colon:
            continue
        if problem := _problem(name if colon else UNNAMED, token):
            problems.append(f"--token_file {path}, line {number}: {problem}")
        names.append((_digest(token), name or UNNAMED))
    raise_all(problems)
    if not names:
        raise InputError(f"--token_file {path}: holds no token; one a line, as `name:token` or by itself")
    return Tokens(_names=tuple(names))


def _problem(name: str, token: str) -> str | None:
    if NAME.fullmatch(name) is None:
        return "a name has 1 to 40 letters, digits, dots, hyphens or underscores"
    if TOKEN.fullmatch(token) is None:
        return "a token has letters, digits and any of . _ ~ + / = -"
    if len(token) < FEWEST_CHARACTERS:
        return f"a token has at least {FEWEST_CHARACTERS} characters; `openssl rand -hex 32` writes one"
    return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
