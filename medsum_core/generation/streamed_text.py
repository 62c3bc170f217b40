"""The text of a note while it is written, in pieces that never end within a character."""

from __future__ import annotations

from collections.abc import Callable

HALF_A_CHARACTER = "\ufffd"


class StreamedText:
    """The part of a note that was handed out already. `decode`: the text of tokens, without the blanks around it."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._text = ""
        self._ids: list[int] = []
        self._decode = decode

    def add(self, token: int) -> str:
        """What one more token adds; "" where it is half a character or a blank that may be the last."""
        self._ids.append(token)
        text = self._decode(self._ids)
        return "" if text.endswith(HALF_A_CHARACTER) else self.rest(text)

    def rest(self, note: str) -> str:
        """What the note has beyond the pieces so far."""
        piece, self._text = note[len(self._text) :], note
        return piece
