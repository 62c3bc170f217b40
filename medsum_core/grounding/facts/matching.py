"""Does the dialogue say what a note states? By meaning: 14 days are two weeks, b.i.d. is every twelve hours."""

from __future__ import annotations

from medsum_core.grounding.facts.anatomy import KIN, body_parts
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import SCALAR_DIMS

RELATIVES = KIN - {"child", "sibling", "parent", "twin", "grandchild"}
EXACT = 1e-6
ACROSS_CALENDAR = 0.085  # people say four weeks for a month
ACROSS_SYSTEMS = 0.012  # pounds and kilograms, inches and centimetres
SHORT_UNITS = bag("second minute hour day night week fortnight")


def supports(fact: Mention, said: Mention) -> bool:
    """Whether `said` (dialogue) says what `fact` (note) states."""
    if "scale" in said.marks:
        return False
    if "few" in said.marks:
        return "couple" in fact.marks and fact.unit == said.unit
    if fact.dim == "clock" and said.dim == "ratio":  # the ratio 1:40 is written like a time
        return any(100 * value[0] + value[1] in fact.values for value in said.values if isinstance(value, tuple))
    if fact.dim == said.dim:
        same = _SAME_DIM.get(fact.dim, _same_scalar)
        if same(fact, said):
            return True
    if fact.kind == "age" and "upcoming" in said.marks and fact.raw[0] == said.raw[0] - 1:
        return True  # "I'll be ninety this month"
    return _same_number(fact, said)


def _close(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _same_scalar(fact: Mention, said: Mention) -> bool:
    if fact.dim == "time" and not _same_sense_of_time(fact, said):
        return False
    if "decade" in fact.marks or "decade" in said.marks:
        return _same_decade(fact, said)
    if "whole years" in fact.marks and "age" in said.marks and said.unit == "year":
        return fact.raw[0] == int(said.raw[0])  # "5-year, 4-month-old": the months are a separate fact
    tolerance = EXACT
    if fact.dim == "time" and (fact.unit in SHORT_UNITS) != (said.unit in SHORT_UNITS):
        tolerance = ACROSS_CALENDAR
    elif fact.dim in ("weight", "length") and fact.unit != said.unit:
        tolerance = ACROSS_SYSTEMS
    return any(_close(a, b, tolerance) for a in fact.values for b in said.values)  # type: ignore[arg-type]


def _same_sense_of_time(fact: Mention, said: Mention) -> bool:
    """An age does not support a duration, nor the reverse; "Thirty years." alone may be either."""
    return not ("age" in fact.marks and "duration" in said.marks) and not (
        "age" in said.marks and "duration" in fact.marks
    )


def _same_decade(fact: Mention, said: Mention) -> bool:
    if "decade" not in fact.marks:
        return False
    return any(a <= b < a + 10 for a in fact.raw for b in said.raw)


def _same_plain(fact: Mention, said: Mention) -> bool:
    if "decade" in fact.marks:
        return _same_decade(fact, said)
    if _other_relative(fact.noun, said.noun):
        return False
    return "decade" not in said.marks and any(_close(a, b, EXACT) for a in fact.raw for b in said.raw)


def _other_relative(noun: str, said_noun: str) -> bool:
    """Whether the two nouns are different relatives, e.g. brothers and sons."""
    same = (noun, said_noun) in (("uncle", "brother"), ("aunt", "sister"))  # "my father and both his brothers"
    return noun != said_noun and noun in RELATIVES and said_noun in RELATIVES and not same


def _same_value(fact: Mention, said: Mention) -> bool:
    return bool(set(fact.values) & set(said.values))


def _same_rate(fact: Mention, said: Mention) -> bool:
    if fact.marks and said.marks and not fact.marks & said.marks:  # nightly is not every morning
        return False
    return any(_close(a, b, 0.03) for a in fact.values for b in said.values)  # type: ignore[arg-type]


def _same_side(fact: Mention, said: Mention) -> bool:
    side, other = fact.values[0], said.values[0]
    if other == "both":
        return near_part(fact.noun, said.noun)
    return side == other or side in said.marks


def near_part(a: str, b: str) -> bool:
    """Whether two words may mean the same body part: calf and leg, but not eye and ear."""
    if not a or not b or a == b:
        return True
    one, other = body_parts().get(a), body_parts().get(b)
    return one == other or "whole" in (one, other)


def _same_number(fact: Mention, said: Mention) -> bool:
    """Whether the numbers agree where one side has no unit or noun, and nothing else contradicts."""
    if not fact.raw or not said.raw or fact.dim in ("date", "rate", "weekday") or said.dim in ("date", "weekday"):
        return False
    if "decade" in fact.marks and "decade" not in said.marks and fact.kind != "age":
        return False
    if not said.dim and fact.dim not in ("", "clock", "ratio") and _of_another_role(fact, said):
        return False
    if fact.dim in SCALAR_DIMS | {"temperature", "percent"} and said.dim in SCALAR_DIMS | {"temperature", "percent"}:
        return False
    if fact.dim == "pressure" or (fact.dim == "ratio" and said.dim == "rate"):
        return False
    if fact.dim and said.dim and said.dim not in ("ratio", "pressure", "height", "clock", "rate"):
        return fact.dim in ("code", "height", "clock", "ratio") and said.dim not in SCALAR_DIMS
    if fact.dim not in ("", "ratio", "code", "clock", "height") and said.noun:
        return False
    if fact.noun and not fact.dim and said.dim in SCALAR_DIMS:
        return False
    if fact.dim == "height" or (fact.dim == "ratio" and not said.dim and not _is_score(fact)):
        return False
    return _same_plain(fact, said)


def _is_score(fact: Mention) -> bool:
    """Whether a ratio is out of ten or less, so that its first number suffices; or a pair of years, "1991/92"."""
    return any(isinstance(value, tuple) and (value[1] <= 10 or value[0] >= 1850) for value in fact.values)


def _of_another_role(fact: Mention, said: Mention) -> bool:
    """Whether the dialogue's number is a time of day, an age, a rank or a count, while the note's has a unit."""
    if fact.kind == "age" or fact.dim == "code":
        return "clock" in said.marks
    return bool(said.marks & {"clock", "age", "ordinal", "counting"})


_SAME_DIM = {
    "": _same_plain,
    "pressure": _same_value,
    "ratio": _same_value,
    "weekday": _same_value,
    "code": _same_value,
    "clock": _same_value,
    "rate": _same_rate,
    "side": _same_side,
}
