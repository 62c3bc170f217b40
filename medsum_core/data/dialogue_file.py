"""One dialogue from a text file or from standard input, for `infer.py --dialogue_file`."""

from __future__ import annotations

import sys

from medsum_core.data.records import normalise_dialogue
from medsum_core.errors import InputError
from medsum_core.files import read_plain_file


def read_dialogue(source: str) -> str:
    """The dialogue in a text file, or on standard input for `-`, in UTF-8 whatever the locale; normalised.

    Raises InputError for a file that can't be read, is no UTF-8 text or holds nothing.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else read_plain_file(source)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--dialogue_file {source}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--dialogue_file {source}: not UTF-8 text") from error
    if not text.strip():
        raise InputError(f"--dialogue_file {source}: the dialogue is empty")
    return normalise_dialogue(text)
