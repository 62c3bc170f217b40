"""Records of the readers: `Scan`, the tokenised text, and `Mention`, a numeric value that they extract from it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medsum_core.grounding.facts.spoken_numbers import Number, read_numbers
from medsum_core.grounding.facts.tokens import Token, tokenize
from medsum_core.grounding.facts.words import Unit

SENTENCE_ENDS = frozenset((".", "?", "!", "\n", ""))
REACH = 200  # tokens of a sentence on each side of a mention
Value = float | str | tuple[float, float]
Date = tuple[int | None, int | None, int | None]  # year, month, day; None where not given


class Mention(NamedTuple):
    """A value at characters `[start, end)`, tokens `[first, last)`, in a note or a dialogue.

    `dim`: the dimension of its unit, "" for a number without unit. `values`: its possible values in the base unit;
    `raw`: the possible numbers before conversion. `noun`: what is counted, or the body part of a side. `marks`:
    attributes from the context ("age", "duration", "decade"). `dates`: the possible dates; `year_start`: the character
    where the year of a full date begins, else -1.
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


ReaderResult = tuple[list[Mention], int]  # mentions that begin at a token, and the token at which to continue


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A tokenised text. `numbers`: by first token. `spoken`: a dialogue; its readers know more forms than a note's."""

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

    def adjoins(self, i: int) -> bool:
        """Whether only blanks or a hyphen separate token i from the one before."""
        return not self.tokens[i].gap.strip(" -–")

    def around(self, first: int, last: int, ends: Container[str] = SENTENCE_ENDS) -> range:
        """Tokens `[first, last)`, extended on each side up to one of `ends`: by default to their sentence.

        By REACH tokens at most, so that a long text without any end takes no quadratic time.
        """
        least, most = max(0, first - REACH), min(len(self.tokens) - 1, last + REACH)
        while first > least and self.tokens[first - 1].text not in ends:
            first -= 1
        while last < most and self.tokens[last].text not in ends:
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
        """A number with its unit at tokens `[first, last)`; `kind`: if it differs from the unit's."""
        values = tuple(amount * unit.factor for amount in amounts)
        raw = tuple(amounts)
        return self.mention(first, last, kind or unit.kind, unit.dim, values, raw=raw, unit=unit.name, **more)


def scan_text(text: str, *, spoken: bool) -> Scan:
    """Tokenise a text and read its numbers."""
    tokens = tokenize(text)
    return Scan(text=text, tokens=tokens, numbers=read_numbers(tokens), spoken=spoken)
