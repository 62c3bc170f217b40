"""Self-corrections of a speaker: "The right one. No wait, the left.", "Crestor, sorry, Lipitor"."""

from __future__ import annotations

from collections.abc import Iterable

from medsum_core.grounding.facts.tokens import word_set

EDITING_WORDS = word_set(  # the only words that can separate a value from its correction
    "i mean sorry no or rather wait uh um oh hang on hold scratch strike that make actually not it's its it is was the "
    "my one side lie tell a correction . , ; - well er excuse me beg pardon"
)
CORRECTION_MARKERS = word_set("mean sorry rather wait scratch strike correction lie pardon hang hold")
REACH = 12  # most words between the two values


def is_correction(between: Iterable[str]) -> bool:
    """Whether the words between two values of a kind mark the second one as a correction of the first."""
    words = set(between)
    return words <= EDITING_WORDS and bool(CORRECTION_MARKERS & words)
