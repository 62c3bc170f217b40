"""A note in pieces: together they are the note, and none ends within a character."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import needs_package, tiny_tokenizer
from transformers import AutoTokenizer

from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.generation.streamed_text import StreamedText
from medsum_core.model.embedded import EMBEDDED_MODELS, embedded_folder

EMBEDDED = [pytest.param(model.name, marks=needs_package(model.name)) for model in EMBEDDED_MODELS]
# Text, and any token: the ids of single bytes are below 600 in each of these tokenizers.
WRITTEN = st.lists(st.one_of(st.text(max_size=12), st.integers(0, 600), st.integers(0, 400_000)), max_size=8)


def decode(ids: list[int]) -> str:
    """A token for each byte of UTF-8, as tokenizers have for characters beyond their vocabulary."""
    return bytes(ids).decode("utf-8", errors="replace").strip()


@pytest.fixture(scope="module", params=["byte-level", *EMBEDDED])
def renderer(request: pytest.FixtureRequest) -> PromptRenderer:
    name = request.param
    return build_renderer(
        tiny_tokenizer() if name == "byte-level" else AutoTokenizer.from_pretrained(embedded_folder(name))
    )


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd")))
@example(" 37 °C, knee pain 😀 \n ")
def test_pieces_are_whole_characters_and_make_up_the_note(note: str) -> None:
    ids = list(note.encode())
    streamed = StreamedText(decode)
    pieces = [streamed.add(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + streamed.rest(decode(ids)) == note.strip()
    assert streamed.rest(decode(ids)) == ""


@given(written=WRITTEN)
@example(written=["  37 °C \n\n", "- e\u0301\u0301 नमस्ते\t 👨\u200d👩\u200d👧 中文 \r\n ñ"])
def test_pieces_are_those_of_the_whole_note_decoded_at_each_token(
    written: list[str | int], renderer: PromptRenderer
) -> None:
    size, ids = len(renderer.tokenizer), []
    for part in written:
        ids += renderer.text_ids(part) if isinstance(part, str) else [part % size]
    ids = [token for token in ids if token not in renderer.stop_token_ids]
    streamed, shown = StreamedText(renderer.decode), ""
    for count, token in enumerate(ids, 1):
        piece, whole = streamed.add(token), renderer.decode(ids[:count])
        if whole.endswith("\ufffd"):
            assert piece == ""
        else:
            assert piece == whole[len(shown) :]
            shown = whole
    assert streamed.rest(renderer.decode(ids)) == renderer.decode(ids)[len(shown) :]


def test_no_token_is_decoded_more_than_a_few_times() -> None:
    decoded: list[int] = []
    streamed = StreamedText(lambda ids: decoded.append(len(ids)) or decode(ids))
    note = "The knee is 37 °C warm.\n" * 20
    assert "".join(map(streamed.add, note.encode())) == note.strip()
    assert sum(decoded) < 5 * len(note.encode())


def test_a_note_that_was_cut_within_a_character_shows_that() -> None:
    streamed = StreamedText(decode)
    assert [streamed.add(token) for token in "5 °".encode()[:-1]] == ["5", "", ""]
    assert streamed.rest("5 \ufffd") == " \ufffd"
