"""Identify the functions passed to a run by name and source, so that a changed one is noticed on resume."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECT = "medsum_core."
PLAIN_TYPES = (bool, int, float, str, bytes, type(None))


def code_identity(function: Callable[..., Any]) -> dict[str, str]:
    """`name` (with its module) and `sha256` of the source, of bound arguments and of plain values closed over.

    `functools.partial` is unwrapped. Other functions and globals that it uses are not included.
    """
    parts = list(_parts(function))
    return {"name": parts[0], "sha256": hashlib.sha256("\0".join(parts[1:]).encode()).hexdigest()}


def is_own(identity: Mapping[str, str]) -> bool:
    """Whether it is a function of this project: its source changes with the project's version."""
    return identity["name"].startswith(PROJECT)


def _parts(function: Any) -> Iterator[str]:
    """First the name, then everything that distinguishes functions with the same name."""
    if isinstance(function, functools.partial):
        inner = _parts(function.func)
        yield f"partial({next(inner)})"  # with arguments of the user's own it is no function of this project
        yield from inner
        yield from (_plain(value) for value in (*function.args, *sorted(function.keywords.items())))
        return
    function = inspect.unwrap(function)
    has_code = inspect.isroutine(function) or inspect.isclass(function)
    named = function if has_code else type(function)  # an object with __call__ is identified by class and attributes
    yield f"{_module(named)}.{named.__qualname__}"
    yield _source(named)
    if not has_code:
        yield from (_plain(item) for item in sorted(vars(function).items()) if hasattr(function, "__dict__"))
    bound = getattr(function, "__self__", None)
    if bound is not None and not inspect.ismodule(bound) and not inspect.isclass(bound):
        yield from (_plain(item) for item in sorted(getattr(bound, "__dict__", {}).items()))
    for cell in getattr(function, "__closure__", None) or ():
        yield _plain(cell.cell_contents)


def _module(named: Any) -> str:
    """The module's name; for `__main__` that of its file, so that running or importing a script makes no difference."""
    module = str(getattr(named, "__module__", None) or "builtins")
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).stem if module == "__main__" and file else module


def _source(named: Any) -> str:
    try:
        return inspect.cleandoc("\n" + inspect.getsource(named))
    except (OSError, TypeError):  # typed at a prompt, or written in C
        code = getattr(named, "__code__", None)
        return "" if code is None else repr((code.co_code, code.co_names, code.co_varnames))


def _plain(value: Any) -> str:
    """A value as text that is the same in every process; of objects only the type, or the code of a function."""
    if isinstance(value, PLAIN_TYPES):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(item)}' for key, item in value.items())}}}"
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return " ".join(code_identity(value).values())
    return type(value).__qualname__
