"""The text of a note while it is written, in pieces that never end within a character."""

from __future__ import annotations

from collections.abc import Callable

HALF_A_CHARACTER = "\ufffd"


class StreamedText:
    """The part of a note that was handed out already. `decode`: the text of tokens, without the blanks around it.

    A piece is told from the texts of the last tokens with and without the new one, not from the whole note's, whose
    decoding at each token would take time by the square of its length.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._length = 0
        self._last_ids: list[int] = []
        self._last_text = ""  # of them, handed out already

    def add(self, token: int) -> str:
        """What one more token adds; "" where it is half a character or a blank that may be the last."""
        self._last_ids.append(token)
        text = self._decode(self._last_ids)
        if text.endswith(HALF_A_CHARACTER):
            return ""
        piece, self._last_text = text[len(self._last_text) :], text
        self._length += len(piece)
        alone = self._decode([token])
        if alone and HALF_A_CHARACTER not in alone:  # else a blank or a byte, whose text depends on those before it
            self._last_ids, self._last_text = [token], alone
        return piece

    def rest(self, note: str) -> str:
        """What the note has beyond the pieces so far."""
        piece, self._length = note[self._length :], len(note)
        return piece
