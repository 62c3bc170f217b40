"""A note in pieces: together they are the note, and none ends within a character."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from medsum_core.generation.streamed_text import StreamedText


def decode(ids: list[int]) -> str:
    """A token for each byte of UTF-8, as tokenizers have for characters beyond their vocabulary."""
    return bytes(ids).decode("utf-8", errors="replace").strip()


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd")))
@example(" 37 °C, knee pain 😀 \n ")
def test_pieces_are_whole_characters_and_make_up_the_note(note: str) -> None:
    ids = list(note.encode())
    streamed = StreamedText(decode)
    pieces = [streamed.add(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + streamed.rest(decode(ids)) == note.strip()
    assert streamed.rest(decode(ids)) == ""


def test_a_note_that_was_cut_within_a_character_shows_that() -> None:
    streamed = StreamedText(decode)
    assert [streamed.add(token) for token in "5 °".encode()[:-1]] == ["5", "", ""]
    assert streamed.rest("5 \ufffd") == " \ufffd"
