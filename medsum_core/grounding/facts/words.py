"""Vocabulary of the fact readers: units with their factors, periods, months."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

DAYS_PER_MONTH = 365.25 / 12
DAYS_PER_YEAR = 365.25


class Unit(NamedTuple):
    """`dim`: what it measures; one unit is `factor` base units of that dimension; `kind`: the kind of fact."""

    dim: str
    factor: float
    kind: str
    name: str


def _spread(dim: str, kind: str, table: dict[float, str]) -> dict[str, Unit]:
    return {
        word: Unit(dim, factor, kind, words.split()[0]) for factor, words in table.items() for word in words.split()
    }


@lru_cache(maxsize=1)
def units() -> dict[str, Unit]:
    """Unit words, singular and plural, lower case. Bases: day, mg, ml, inch, degree; other units are their own base."""
    table = _spread(
        "time",
        "duration",
        {
            1 / 86400: "seconds sec secs",
            1 / 1440: "minute minutes min mins",
            1 / 24: "hour hours hr hrs",
            1: "day days",
            7: "week weeks wk wks",
            14: "fortnight fortnights",
            DAYS_PER_MONTH: "month months mo mos mth mths",
            DAYS_PER_YEAR: "year years yr yrs",
            10 * DAYS_PER_YEAR: "decade decades",
        },
    )
    table["night"] = table["nights"] = Unit("time", 1, "duration", "night")
    table |= _spread(
        "mass",
        "dose",
        {
            1e-3: "mcg microgram micrograms mcgs ug µg",
            1: "mg milligram milligrams mgs",
            1e3: "g gram grams gm gms",
        },
    )
    table |= _spread(
        "weight",
        "measurement",
        {1: "pound pounds lb lbs", 1 / 16: "ounce ounces oz", 2.20462: "kilogram kilograms kg kgs kilo kilos"},
    )
    table |= _spread(
        "volume",
        "dose",
        {1: "ml milliliter milliliters millilitre millilitres cc ccs", 1e3: "liter liters litre litres"},
    )
    table |= _spread(
        "length",
        "measurement",
        {
            1 / 25.4: "mm millimeter millimeters millimetre millimetres",
            1 / 2.54: "cm centimeter centimeters centimetre centimetres",
            39.37: "meter meters metre metres",
            1: "inch inches",
            12: "foot feet ft",
            36: "yard yards",
            63360: "mile miles",
            39370: "km kilometer kilometers",
        },
    )
    table |= _spread("temperature", "temperature", {1: "degree degrees fahrenheit celsius"})
    table |= _spread("percent", "percent", {1: "percent %"})
    for words in COUNTED_DOSES:
        table |= _spread(words.split()[0], "dose", {1: words})
    for words in COUNTED_MEASURES:
        table |= _spread(words.split()[0], "measurement", {1: words})
    return table


COUNTED_DOSES = (
    "tablet tablets tab tabs pill pills capsule capsules cap caps",
    "puff puffs inhalation inhalations",
    "drop drops gtt gtts",
    "unit units iu",
    "meq milliequivalent milliequivalents",
    "teaspoon teaspoons tsp teaspoonful",
    "tablespoon tablespoons tbsp",
    "spray sprays",
)
COUNTED_MEASURES = ("mmhg", "bpm beats", "calorie calories", "cgy centigray")
SPELLED_UNITS = {("m", "g"): "mg", ("c", "c"): "cc", ("m", "l"): "ml", ("k", "g"): "kg", ("m", "c", "g"): "mcg"}
SCALAR_DIMS = frozenset({"mass", "weight", "volume", "length", "time"})  # units convert within these

PERIODS = {
    "hour": 1 / 24, "hr": 1 / 24, "day": 1.0, "night": 1.0, "evening": 1.0, "morning": 1.0, "afternoon": 1.0,
    "bedtime": 1.0, "nightly": 1.0, "daily": 1.0, "week": 7.0, "wk": 7.0, "weekly": 7.0, "month": DAYS_PER_MONTH,
    "monthly": DAYS_PER_MONTH, "year": DAYS_PER_YEAR, "yr": DAYS_PER_YEAR, "yearly": DAYS_PER_YEAR,
    "annually": DAYS_PER_YEAR, "hourly": 1 / 24, "hours": 1 / 24, "days": 1.0, "weeks": 7.0, "months": DAYS_PER_MONTH,
    "years": DAYS_PER_YEAR, "hrs": 1 / 24, "nights": 1.0, "minutes": 1 / 1440, "d": 1.0, "everyday": 1.0,
}  # fmt: skip

MONTHS = {
    word: number
    for number, words in enumerate(
        ["january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sept sep", "october oct", "november nov", "december dec"], start=1,
    )
    for word in words.split()
}  # fmt: skip
WEEKDAYS = {
    word: number
    for number, word in enumerate(
        ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"], start=1
    )
}
