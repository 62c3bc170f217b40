"""Records of the fact readers: `Scan`, the tokenised text that they read, and `Mention`, the fact that they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medsum_core.grounding.facts.spoken_numbers import Number, read_numbers
from medsum_core.grounding.facts.tokens import Token, tokenize

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

    def glued(self, i: int) -> bool:
        """Whether only blanks or a hyphen separate token i from the one before."""
        return not self.tokens[i].gap.strip(" -–")

    def mention(self, first: int, last: int, kind: str, dim: str, values: Sequence[Value], **more: object) -> Mention:
        """A mention of tokens `[first, last)`, offsets filled in."""
        span = self.tokens[first].start, self.tokens[last - 1].end
        return Mention(*span, first, last, kind, dim, tuple(values), **more)  # type: ignore[arg-type]


def scan_text(text: str, *, spoken: bool) -> Scan:
    """Tokens and numbers of a text."""
    tokens = tokenize(text)
    return Scan(text=text, tokens=tokens, numbers=read_numbers(tokens), spoken=spoken)
