"""Records of the fact readers: `Scan`, the tokenised text that they read, and `Mention`, the fact that they find."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medsum_core.grounding.facts.spoken_numbers import Number, read_numbers
from medsum_core.grounding.facts.tokens import Token, tokenize
from medsum_core.grounding.facts.words import Unit

SENTENCE_ENDS = frozenset((".", "?", "!", "\n", ""))
Value = float | str | tuple[float, float]
Date = tuple[int | None, int | None, int | None]  # year, month, day; None where not given


class Mention(NamedTuple):
    """A fact at characters `[start, end)`, tokens `[first, last)`.

    `values`: its readings in the base unit of `dim`; `raw`: the numbers as said, without unit; `noun`: what is counted,
    or the body part of a side. `dim` "" is a plain number. `marks`: roles from the words around ("age", "duration",
    "decade"). `dates`: the readings of a date; `year_start`: where its year begins, -1 if it gives nothing else.
    """

    start: int
    end: int
    first: int
    last: int
    kind: str
    dim: str
    values: tuple[Value, ...]
    raw: tuple[float, ...] = ()
    noun: str = ""
    unit: str = ""
    marks: frozenset[str] = frozenset()
    dates: tuple[Date, ...] = ()
    year_start: int = -1


ReaderResult = tuple[list[Mention], int]  # the mentions that begin at a token, and the token to continue from


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A tokenised text. `spoken`: it is a dialogue, where more forms are read as facts than in a note."""

    text: str
    tokens: Sequence[Token]
    numbers: Mapping[int, Number]
    spoken: bool

    def word(self, i: int) -> str:
        """The lower-case token at i; "" outside the text."""
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def words(self, first: int, last: int) -> list[str]:
        """The lower-case tokens `[first, last)`; "" outside the text."""
        return [self.word(k) for k in range(first, last)]

    def is_word(self, i: int) -> bool:
        """Whether token i is a word."""
        return 0 <= i < len(self.tokens) and self.tokens[i].kind == "word"

    def glued(self, i: int) -> bool:
        """Whether only blanks or a hyphen separate token i from the one before."""
        return not self.tokens[i].gap.strip(" -–")

    def around(self, first: int, last: int, ends: Container[str] = SENTENCE_ENDS) -> range:
        """Tokens `[first, last)` with those around them up to one of `ends` on each side: their sentence or clause."""
        while first > 0 and self.tokens[first - 1].text not in ends:
            first -= 1
        while last < len(self.tokens) - 1 and self.tokens[last].text not in ends:
            last += 1
        return range(first, last)

    def mention(self, first: int, last: int, kind: str, dim: str, values: Sequence[Value], **more: object) -> Mention:
        """A mention of tokens `[first, last)`, offsets filled in."""
        span = self.tokens[first].start, self.tokens[last - 1].end
        return Mention(*span, first, last, kind, dim, tuple(values), **more)  # type: ignore[arg-type]

    def plain(self, first: int, last: int, values: Sequence[float], **more: object) -> Mention:
        """A number without a unit at tokens `[first, last)`."""
        return self.mention(first, last, "number", "", values, raw=tuple(values), **more)

    def measure(
        self, first: int, last: int, unit: Unit, amounts: Sequence[float], *, kind: str = "", **more: object
    ) -> Mention:
        """A number with its unit at tokens `[first, last)`; `kind`: where it is not the unit's."""
        values = tuple(amount * unit.factor for amount in amounts)
        raw = tuple(amounts)
        return self.mention(first, last, kind or unit.kind, unit.dim, values, raw=raw, unit=unit.name, **more)


def scan_text(text: str, *, spoken: bool) -> Scan:
    """Tokens and numbers of a text."""
    tokens = tokenize(text)
    return Scan(text=text, tokens=tokens, numbers=read_numbers(tokens), spoken=spoken)
