"""Is what was said taken back for what comes next? "The right one. No wait, the left.", "Crestor, sorry, Lipitor"."""

from __future__ import annotations

from collections.abc import Iterable

from medsum_core.grounding.facts.tokens import bag

BETWEEN = bag(  # all that may stand between a value and the one that it is taken back for
    "i mean sorry no or rather wait uh um oh hang on hold scratch strike that make actually not it's its it is was the "
    "my one side lie tell a correction . , ; - well er excuse me beg pardon"
)
TAKEN_BACK = bag("mean sorry rather wait scratch strike correction lie pardon hang hold")
REACH = 12  # words


def is_correction(between: Iterable[str]) -> bool:
    """Whether the words between two values of a kind take the first one back."""
    words = set(between)
    return words <= BETWEEN and bool(TAKEN_BACK & words)
