"""Dates of a note against all that the dialogue says of days, months and years, in one place or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medsum_core.facts.mention import Date, Mention

Finding = Literal["supported", "not_found", "contradicted", "year_not_found"]


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """What a dialogue says of dates: `full` the dates as said, the rest their parts, each with who says it."""

    full: dict[Date, Mention]
    years: dict[int, Mention]
    months: dict[int, Mention]
    days: dict[int, Mention]  # of an unnamed month: "the twenty third"
    month_days: dict[tuple[int, int], Mention]
    decades: dict[int, Mention]


def calendar_of(said: Sequence[Mention]) -> Calendar:
    """Collect the parts of dates from the mentions of a dialogue; the first that says one counts."""
    calendar = Calendar(full={}, years={}, months={}, days={}, month_days={}, decades={})
    for mention in said:
        if mention.dim == "date":
            _add_date(calendar, mention)
        elif mention.dim == "" and "ordinal" in mention.marks and mention.raw[0] <= 31:
            calendar.days.setdefault(int(mention.raw[0]), mention)
        elif mention.dim == "" and len(mention.raw) == 3 and mention.raw[1] <= 12 and 1 <= mention.raw[2] <= 31:
            calendar.month_days.setdefault((int(mention.raw[1]), int(mention.raw[2])), mention)  # "eleven twenty three"
    return calendar


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


def date_finding(fact: Mention, calendar: Calendar) -> tuple[Finding, Mention | None]:
    """Whether the dialogue gives the date, in one mention or its parts in several; and who says it.

    "year_not_found": month and day (or month) are said, without any year.
    """
    if "decade" in fact.marks:
        return _decade_finding(fact, calendar)
    partial = None
    contradicted = False
    for year, month, day in fact.dates:
        place = _month_and_day(month, day, calendar)
        if month is None and year is not None:
            place = calendar.years.get(year)
        if place is None:
            continue
        others = _years_said(month, day, calendar)
        if year is None or year in others or (not others and year in calendar.years):
            return "supported", place
        contradicted = contradicted or bool(others)
        partial = partial or place
    if contradicted:
        return "contradicted", None
    return ("year_not_found", partial) if partial is not None else ("not_found", None)


def _month_and_day(month: int | None, day: int | None, calendar: Calendar) -> Mention | None:
    if month is None:
        return None
    if day is None:
        return calendar.months.get(month)
    found = calendar.month_days.get((month, day))
    return found if found is not None else (calendar.days.get(day) if month in calendar.months else None)


def _years_said(month: int | None, day: int | None, calendar: Calendar) -> set[int]:
    """The years that the dialogue gives this month and day (or month); empty when it gives them none."""
    years = set()
    for said_year, said_month, said_day in calendar.full:
        if said_year is None or (month is not None and said_month != month):
            continue
        if month is None or day is None or said_day == day:
            years.add(said_year)
    bare = any(y is None and m == month and (day is None or d == day) for y, m, d in calendar.full)
    return set(calendar.years) | years if month is None or (bare and calendar.years) else years


def _decade_finding(fact: Mention, calendar: Calendar) -> tuple[Finding, Mention | None]:
    for decade, _, _ in fact.dates:
        if decade is None:
            continue
        if decade in calendar.decades:
            return "supported", calendar.decades[decade]
        inside = next((mention for year, mention in calendar.years.items() if decade <= year < decade + 10), None)
        if inside is not None:
            return "supported", inside
    return ("contradicted" if calendar.decades else "not_found"), None
