"""Dates of a note compared with the days, months and years of the dialogue, given together or apart."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from medsum_core.grounding.facts.mention import Date, Mention, Scan

DateVerdict = Literal["supported", "not_found", "contradicted", "year_not_found"]
MAX_STEP = 14  # days
NUM_STEPS = 3  # successive steps from a date: "the next day", "a week after that"
COMMON_YEAR = 2001  # stands for an unknown year; not a leap year
AFTER, BEFORE = ("after", "later"), ("before", "earlier", "prior")


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """The dates of a dialogue (`full`) and their parts, each with the mention that gives it."""

    full: dict[Date, Mention]
    years: dict[int, Mention]
    months: dict[int, Mention]
    days: dict[int, Mention]  # of an unnamed month: "the twenty third"
    month_days: dict[tuple[int, int], Mention]
    decades: dict[int, Mention]
    weekdays: dict[int, Mention]  # 1 is Monday; mentioned or computed: "Monday ... two days later"

    @cached_property
    def years_of(self) -> dict[tuple[int | None, int | None], set[int | None]]:
        """The years (None: no year) by (month, day), by (month, None) and, for all dates, by (None, None)."""
        found: dict[tuple[int | None, int | None], set[int | None]] = {}
        for year, month, day in self.full:
            for key in {(None, None), (month, day), (month, None)}:
                found.setdefault(key, set()).add(year)
        return found


def calendar_of(scan: Scan, mentions: Sequence[Mention]) -> Calendar:
    """Collect dates and their parts from the mentions of a dialogue; the first mention of each is stored."""
    calendar = Calendar(full={}, years={}, months={}, days={}, month_days={}, decades={}, weekdays={})
    for mention in mentions:
        if mention.dim == "date":
            _add_date(calendar, mention)
        elif mention.dim == "weekday":
            calendar.weekdays.setdefault(int(mention.values[0]), mention)  # type: ignore[arg-type]
        elif mention.dim == "" and "ordinal" in mention.marks and mention.raw[0] <= 31:
            calendar.days.setdefault(int(mention.raw[0]), mention)
        elif mention.dim == "" and len(mention.raw) == 3 and mention.raw[1] <= 12 and 1 <= mention.raw[2] <= 31:
            calendar.month_days.setdefault((int(mention.raw[1]), int(mention.raw[2])), mention)  # "eleven twenty three"
    steps = _steps(scan, mentions)
    for day, mention in list(calendar.weekdays.items()):
        for step in steps:
            calendar.weekdays.setdefault((day + step - 1) % 7 + 1, mention)
    for _ in range(NUM_STEPS if steps else 0):
        for date, mention in list(calendar.full.items()):
            for after in filter(None, (_days_after(date, step) for step in steps)):
                calendar.full.setdefault(after, mention)
                calendar.month_days.setdefault(after[1:], mention)
    return calendar


def _steps(scan: Scan, mentions: Sequence[Mention]) -> set[int]:
    """The day offsets relative to a date: "the next day" is 1, "three days after" 3, "a day before" -1."""
    steps: set[int] = set()
    for mention in mentions:
        after, before = scan.word(mention.last), scan.word(mention.first - 1)
        sign = (after in AFTER or before in ("next", "following")) - (after in BEFORE)
        if sign and mention.unit in ("day", "week"):
            days = [value for value in mention.values if isinstance(value, float) and 1 <= value <= MAX_STEP]
            steps.update(sign * round(value) for value in days)
    return steps


def _days_after(date: Date, step: int) -> tuple[int | None, int, int] | None:
    """The date `step` days later, with its year if it has one; None without day or month."""
    year, month, day = date
    if month is None or day is None:
        return None
    try:
        after = datetime.date(year or COMMON_YEAR, month, day) + datetime.timedelta(days=step)
    except ValueError:  # a day that the month does not have
        return None
    return after.year if year else None, after.month, after.day


def _add_date(calendar: Calendar, mention: Mention) -> None:
    for year, month, day in mention.dates:
        if "decade" in mention.marks and year is not None:
            calendar.decades.setdefault(year, mention)
            continue
        calendar.full.setdefault((year, month, day), mention)
        if year is not None:
            calendar.years.setdefault(year, mention)
        if month is not None:
            calendar.months.setdefault(month, mention)
        if month is not None and day is not None:
            calendar.month_days.setdefault((month, day), mention)


def match_date(fact: Mention, calendar: Calendar) -> tuple[DateVerdict, Mention | None]:
    """The verdict on a date, which one mention or several can give, and the mention that supports it.

    "year_not_found": the dialogue gives its month and day (or month), but no year.
    """
    if "decade" in fact.marks:
        return _match_decade(fact, calendar)
    found: tuple[DateVerdict, Mention | None] = "not_found", None
    for year, month, day in fact.dates:
        place = _month_and_day(month, day, calendar)
        if month is None and year is not None:
            place = calendar.years.get(year)
        if place is None:
            continue
        others = _years_given(month, day, calendar)
        if year is None or year in others or (not others and year in calendar.years):
            return "supported", place
        if others:
            found = "contradicted", None
        elif found[0] == "not_found":
            found = "year_not_found", place
    return found


def _month_and_day(month: int | None, day: int | None, calendar: Calendar) -> Mention | None:
    if month is None:
        return None
    apart = calendar.days.get(day or 0) if month in calendar.months else None  # "in March, on the twenty third"
    return calendar.months.get(month) if day is None else calendar.month_days.get((month, day), apart)


def _years_given(month: int | None, day: int | None, calendar: Calendar) -> set[int]:
    """The years that the dialogue gives this month and day (or month); empty if it gives none."""
    said = calendar.years_of.get((month, day if month is not None else None), set())
    years = {year for year in said if year is not None}
    is_open = month is None or None in said
    return years | set(calendar.years) if is_open else years


def _match_decade(fact: Mention, calendar: Calendar) -> tuple[DateVerdict, Mention | None]:
    for decade in (year for year, _, _ in fact.dates if year is not None):
        inside = [mention for year, mention in calendar.years.items() if decade <= year < decade + 10]
        place = calendar.decades.get(decade, inside[0] if inside else None)
        if place is not None:
            return "supported", place
    return ("contradicted" if calendar.decades else "not_found"), None
