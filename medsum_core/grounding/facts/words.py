"""Vocabulary of the readers: units with their conversion factors, periods, months."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

DAYS_PER_MONTH = 365.25 / 12
DAYS_PER_YEAR = 365.25
SCALAR_DIMS = frozenset({"mass", "weight", "volume", "length", "time"})  # dimensions whose units are converted


class Unit(NamedTuple):
    """A unit of measurement. `dim`: its dimension; one unit is `factor` base units; `kind`: the kind of fact."""

    dim: str
    factor: float
    kind: str
    name: str


# Dimension, kind of fact, factor to the base unit (day, mg, pound, ml, inch, degree), words (the first is the name).
UNITS = (
    ("time", "duration", 1 / 86400, "seconds sec secs"),
    ("time", "duration", 1 / 1440, "minute minutes min mins"),
    ("time", "duration", 1 / 24, "hour hours hr hrs"),
    ("time", "duration", 1, "day days"),
    ("time", "duration", 1, "night nights"),
    ("time", "duration", 7, "week weeks wk wks"),
    ("time", "duration", 14, "fortnight fortnights"),
    ("time", "duration", DAYS_PER_MONTH, "month months mo mos mth mths"),
    ("time", "duration", DAYS_PER_YEAR, "year years yr yrs"),
    ("time", "duration", 10 * DAYS_PER_YEAR, "decade decades"),
    ("mass", "dose", 1e-3, "mcg microgram micrograms mcgs ug µg"),
    ("mass", "dose", 1, "mg milligram milligrams mgs"),
    ("mass", "dose", 1e3, "g gram grams gm gms"),
    ("weight", "measurement", 1, "pound pounds lb lbs"),
    ("weight", "measurement", 1 / 16, "ounce ounces oz"),
    ("weight", "measurement", 2.20462, "kilogram kilograms kg kgs kilo kilos"),
    ("volume", "dose", 1, "ml milliliter milliliters millilitre millilitres cc ccs"),
    ("volume", "dose", 1e3, "liter liters litre litres"),
    ("length", "measurement", 1 / 25.4, "mm millimeter millimeters millimetre millimetres"),
    ("length", "measurement", 1 / 2.54, "cm centimeter centimeters centimetre centimetres"),
    ("length", "measurement", 39.37, "meter meters metre metres"),
    ("length", "measurement", 1, "inch inches"),
    ("length", "measurement", 12, "foot feet ft"),
    ("length", "measurement", 36, "yard yards"),
    ("length", "measurement", 63360, "mile miles"),
    ("length", "measurement", 39370, "km kilometer kilometers"),
    ("temperature", "temperature", 1, "degree degrees fahrenheit celsius"),
    ("percent", "percent", 1, "percent %"),
    ("tablet", "dose", 1, "tablet tablets tab tabs pill pills capsule capsules cap caps"),
    ("puff", "dose", 1, "puff puffs inhalation inhalations"),
    ("drop", "dose", 1, "drop drops gtt gtts"),
    ("unit", "dose", 1, "unit units iu"),
    ("meq", "dose", 1, "meq milliequivalent milliequivalents"),
    ("teaspoon", "dose", 1, "teaspoon teaspoons tsp teaspoonful"),
    ("tablespoon", "dose", 1, "tablespoon tablespoons tbsp"),
    ("spray", "dose", 1, "spray sprays"),
    ("mmhg", "measurement", 1, "mmhg"),
    ("bpm", "measurement", 1, "bpm beats"),
    ("calorie", "measurement", 1, "calorie calories"),
    ("cgy", "measurement", 1, "cgy centigray"),
)
SPELLED_UNITS = {("m", "g"): "mg", ("c", "c"): "cc", ("m", "l"): "ml", ("k", "g"): "kg", ("m", "c", "g"): "mcg"}


@lru_cache(maxsize=1)
def units() -> dict[str, Unit]:
    """Unit words, singular and plural, lower case."""
    return {
        word: Unit(dim, factor, kind, words.split()[0]) for dim, kind, factor, words in UNITS for word in words.split()
    }


PERIODS = {  # in days
    word: days
    for days, words in (
        (1 / 1440, "minutes"),
        (1 / 24, "hour hr hourly hours hrs"),
        (1.0, "day days d daily everyday night nights nightly evening morning afternoon bedtime"),
        (7.0, "week wk weekly weeks"),
        (DAYS_PER_MONTH, "month monthly months"),
        (DAYS_PER_YEAR, "year yr yearly annually years"),
    )
    for word in words.split()
}
MONTHS = {
    word: number
    for number, words in enumerate(
        ["january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sept sep", "october oct", "november nov", "december dec"], start=1,
    )
    for word in words.split()
}  # fmt: skip
WEEKDAYS = {"monday": 1, "tuesday": 2, "wednesday": 3, "thursday": 4, "friday": 5, "saturday": 6, "sunday": 7}
