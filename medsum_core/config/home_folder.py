"""`~` in flags and settings files: shells replace it in `--flag ~/x`, but keep it in `--flag=~/x`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any


def at_home(value: Any) -> Any:
    """A path, or a list of paths, with the home folder for `~`; any other value as it is."""
    if isinstance(value, list):
        return [at_home(path) for path in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


class PathParser(argparse.ArgumentParser):
    """A parser that reads `--flag=~/x` as a shell gives `--flag ~/x`, so that no file or folder is named `~`."""

    def parse_known_args(  # type: ignore[override]  # parse_args calls it
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's."""
        tokens = sys.argv[1:] if args is None else args
        return super().parse_known_args([_at_home_in_flag(token) for token in tokens], namespace)


def _at_home_in_flag(token: str) -> str:
    flag, equals, value = token.partition("=")
    return flag + equals + at_home(value) if token.startswith("--") else at_home(token)
