"""Report of tokenising a run's rows: which were truncated, set aside, or have notes longer than --max_new_tokens.

Ids and counts, never text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from medsum_core.data.disclosure import MAX_IDS, show_id, show_ids


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A row that is left out: its note alone does not fit, or not with the least that must stay of the source."""

    id: str
    num_note_tokens: int  # without the stop token
    num_tokens_needed: int  # the --max_length at which nothing is truncated
    reason: str


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """How the rows were used: `num_rows == num_used + len(set_aside)`. Ids and counts, never text."""

    num_rows: int
    num_used: int
    num_turns_dropped: dict[str, int]  # by row id, truncated rows only
    beyond_reserve: tuple[str, ...]  # rows truncated further than in decoding
    set_aside: tuple[SetAside, ...]
    inexact: tuple[str, ...] = ()  # rows whose note has characters that the vocabulary lacks: it decodes differently
    num_tokens_dropped: Mapping[str, int] = field(default_factory=dict)  # by row id, truncated rows only
    max_new_tokens: int = 0
    num_note_tokens: Mapping[str, int] = field(default_factory=dict)  # by row id, of all rows, with the stop token

    def lines(self) -> list[str]:
        """The report as lines; empty when every row was used whole and no note is longer than --max_new_tokens."""
        lines = [line for line in (self.long_notes(), self.truncated()) if line]
        if self.beyond_reserve:
            lines.append(
                f"of these, {len(self.beyond_reserve)} are shorter than in decoding, to make room for a note "
                f"longer than --max_new_tokens: ids {show_ids(self.beyond_reserve)}"
            )
        if self.inexact:
            lines.append(
                f"{len(self.inexact)} notes hold characters that this model's vocabulary lacks; they are learnt "
                f"without them: ids {show_ids(self.inexact)}"
            )
        for row in self.set_aside[:MAX_IDS]:
            lines.append(
                f"row id {show_id(row.id)} is set aside: {row.reason} ({row.num_note_tokens} tokens); "
                f"--max_length {row.num_tokens_needed} would use it whole"
            )
        if len(self.set_aside) > MAX_IDS:
            lines.append(f"and {len(self.set_aside) - MAX_IDS} more rows are set aside")
        return lines

    def long_notes(self) -> str:
        """How many notes are longer than `--max_new_tokens`, and which value would suffice; "" for none."""
        lengths = sorted(self.num_note_tokens.values())
        longest_first = sorted(self.num_note_tokens, key=lambda id: -self.num_note_tokens[id])
        too_long = [id for id in longest_first if self.num_note_tokens[id] > self.max_new_tokens]
        if not too_long:
            return ""
        most = lengths[math.ceil(0.95 * len(lengths)) - 1]
        return (
            f"{len(too_long)} of {len(lengths)} notes are longer than --max_new_tokens {self.max_new_tokens}, at which "
            f"decoding would cut them: {most} fits 95 % of them, {lengths[-1]} all; ids, the longest first: "
            f"{show_ids(too_long)}"
        )

    def truncated(self) -> str:
        """What truncation removed, in turns and tokens; "" for nothing."""
        turns, tokens = self.num_turns_dropped, self.num_tokens_dropped
        if not turns:
            return ""
        lost = f"median {median(turns.values()):g}, worst {max(turns.values())}"
        if tokens:
            lost += f"; in tokens {median(tokens.values()):g} and {max(tokens.values())}"
        worst_first = sorted(turns, key=lambda id: (-tokens.get(id, 0), -turns[id]))
        return (
            f"{len(turns)} source texts lost whole turns or paragraphs ({lost}): ids, the worst first: "
            f"{show_ids(worst_first)}"
        )
