"""Dates: 06/30/04, June 30, 2004, "June thirty two thousand and four", 1998, "O eight", weekdays.

A weekday is a mention with `dim` "weekday".
"""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.mention import Date, ReaderResult, Scan
from medsum_core.grounding.facts.quantities import POSSESSIVES, counted_noun, pair_mentions, plain_at, unit_at
from medsum_core.grounding.facts.spoken_numbers import WRITTEN_FRACTIONS, Number
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import MONTHS, WEEKDAYS, units

BEFORE_DATE = word_set(
    "on in since of from dated until till by through last around early late before after back mid and year during to"
)
BEFORE_YEAR = word_set("in since of from until till back late early")
IN_MONTH = word_set("in since until till")  # after these "may" is the month, even in lower case
AMBIGUOUS_MONTHS = word_set("may march mar jan dec sep august")
LINKS = (",", "of", "in")  # between a month and its year
SCORES = ("5", "6", "10")  # denominators of scores for strength, murmurs and pain
SHORTHAND = {"7": "day", "52": "week", "12": "month"}
FIRST, LAST = 1850, 2049  # years


def date_at(scan: Scan, i: int) -> ReaderResult | None:
    """The date that begins at token i, or the ratio, fraction or pressure written like one; None if there is none."""
    token = scan.tokens[i]
    if token.kind == "date":
        return _date(scan, i, i + 1, _written_dates(token.text))
    if token.kind == "slash":
        return _slash(scan, i)
    name = token.text.rstrip("s'’")
    if name in WEEKDAYS:
        return [scan.mention(i, i + 1, "date", "weekday", (float(WEEKDAYS[name]),))], i + 1
    if token.text in MONTHS:
        return _month_first(scan, i)
    number = scan.numbers.get(i)
    if number is None:
        return None
    return (_in_numbers(scan, number) if scan.spoken else None) or _day_first(scan, number) or _year(scan, number)


def _in_numbers(scan: Scan, number: Number) -> ReaderResult | None:
    """A date spoken as numbers: "oh three, oh five, two thousand twelve"."""
    parts: list[float] = []
    last = number.first
    while (part := scan.numbers.get(last)) is not None and not part.ordinal and len(parts) < 3:
        parts += [value for value in part.cardinals if value] if len(part.cardinals) > 1 else part.values[:1]
        end, last = part.last, part.last + (scan.word(part.last) == ",")
    if len(parts) != 3 or not (1 <= parts[0] <= 12 and 1 <= parts[1] <= 31 and FIRST <= parts[2] <= LAST):
        return None
    return _date(scan, number.first, end, [(int(parts[2]), int(parts[0]), int(parts[1]))])


def years_of(value: float) -> list[int]:
    """The years that a number can mean: itself, or two digits in either century."""
    if value != int(value):
        return []
    year = int(value)
    if FIRST <= year <= LAST:
        return [year]
    return [1900 + year, 2000 + year] if 0 <= year <= 99 else []


def _date(scan: Scan, first: int, last: int, dates: Sequence[Date]) -> ReaderResult:
    start = _year_start(scan, last, dates)
    return [scan.mention(first, last, "date", "date", (), dates=tuple(dict.fromkeys(dates)), year_start=start)], last


def _year_start(scan: Scan, last: int, dates: Sequence[Date]) -> int:
    """The character where a final year begins, as it gets its own verdict; -1 if the year is first or alone."""
    token = scan.tokens[last - 1]
    if any(year is None or (month is None and day is None) for year, month, day in dates):
        return -1
    if token.kind in ("date", "slash"):
        year_first = token.text[:4].isdigit()
        return -1 if year_first else token.start + max(token.text.rfind("/"), token.text.rfind("-")) + 1
    return token.start if token.kind == "num" else -1


def _written_dates(text: str) -> list[Date]:
    """The possible dates of 06/30/04, month first and, if valid, day first; or of 2004-06-30."""
    a, b, c = (int(part) for part in text.replace("-", "/").split("/"))
    if a > 31:
        return [(a, b, c)]
    orders = [(a, b), (b, a)] if b <= 12 else [(a, b)]
    return [(year, month, day) for month, day in orders for year in years_of(c)]


def _slash(scan: Scan, i: int) -> ReaderResult:
    """Two numbers with a slash: a fraction, a duration in British shorthand ("3/7", "2/52"), or a ratio."""
    text = scan.tokens[i].text
    left, right = (part.strip() for part in text.split("/"))
    if text in WRITTEN_FRACTIONS:
        return _fraction(scan, i, WRITTEN_FRACTIONS[text])
    if right in SHORTHAND and left.isdigit() and not left.startswith("0") and not scan.spoken:
        unit = units()[SHORTHAND[right]]
        return [scan.measure(i, i + 1, unit, (float(left),), marks=frozenset({"shorthand"}))], i + 1
    return written_ratio(scan, i)


def written_ratio(scan: Scan, i: int) -> ReaderResult:
    """A date, a pressure or a score such as 9/03, 130/80, 3/10 at token i."""
    left, right = (part.strip() for part in scan.tokens[i].text.split("/"))
    if not (left + right).isdigit():
        return pair_mentions(scan, i, i + 1, (float(left),), (float(right),))
    top, bottom = int(left), int(right)
    dates: list[Date] = []
    if FIRST <= top <= LAST and FIRST <= bottom <= LAST:
        dates = [(top, None, None), (bottom, None, None)]
    elif 1 <= top <= 12 and FIRST <= bottom <= LAST:
        dates = [(bottom, top, None)]
    elif 1 <= top <= 12 and _is_dated(scan, i, left, right):
        dates = [(year, top, None) for year in years_of(bottom)]
        dates += [(None, top, bottom)] if 1 <= bottom <= 31 else []
    return _date(scan, i, i + 1, dates) if dates else pair_mentions(scan, i, i + 1, (float(top),), (float(bottom),))


def _is_dated(scan: Scan, i: int, left: str, right: str) -> bool:
    """Whether a ratio such as 9/03 is a date: by its zeros, its values, or the word before it."""
    if right in SCORES and not left.startswith("0"):
        return scan.word(i - 1) in ("on", "since", "dated")
    return left.startswith("0") or right.startswith("0") or int(right) > 12 or scan.word(i - 1) in BEFORE_DATE


def _fraction(scan: Scan, i: int, value: float) -> ReaderResult:
    found = unit_at(scan, i + 1, fraction=True)
    if found is None:
        return [scan.plain(i, i + 1, (value,), noun=counted_noun(scan, i + 1, small=True))], i + 1
    unit, last = found
    return [scan.measure(i, last, unit, (value,))], last


def _month_first(scan: Scan, i: int) -> ReaderResult | None:
    """ "June 30, 2004", "June thirty two thousand and four", "March of 2006", "in May"."""
    name, month = scan.word(i), MONTHS[scan.word(i)]
    j = i + 1
    j += scan.word(j) == "." and not scan.tokens[j].gap and len(name) <= 4
    j += scan.word(j) == "the"
    number = scan.numbers.get(j)
    if number is None and scan.word(j) in LINKS:
        number = scan.numbers.get(j + 1)
        number = number if number is not None and _is_year(number) else None
    if number is None:
        is_name = scan.tokens[i].capital and scan.word(i - 1) in BEFORE_DATE | {"this"}
        if name in AMBIGUOUS_MONTHS and not is_name and not (scan.spoken and scan.word(i - 1) in IN_MONTH):
            return None
        return _date(scan, i, i + 1, [(None, month, None)])
    dates, last = _after_month(scan, number, month)
    return _date(scan, i, last, dates) if dates else None


def _after_month(scan: Scan, number: Number, month: int) -> tuple[list[Date], int]:
    """Day and year, or year alone, from the number after a month's name; and the token after them."""
    dates: list[Date] = [(None, month, int(value)) for value in number.values if 1 <= value <= 31]
    days = [day for _, _, day in dates]
    if not number.ordinal:
        dates += [(year, month, None) for value in number.values if value >= 32 for year in years_of(value)]
    merged = int(number.values[0])  # "thirty two thousand four"
    if merged >= 3000 and merged // 1000 <= 33 and merged % 1000 <= LAST - 2000:
        dates.append((2000 + merged % 1000, month, merged // 1000 - 2))
    last = number.last
    k = last + (scan.word(last) in LINKS)
    year_number = scan.numbers.get(k)
    if not days or year_number is None:
        return dates, last
    is_year = _is_year(year_number)
    if not is_year and not (year_number.spelled and k == last):
        return dates, last
    full: list[Date] = [(year, month, day) for day in days for v in year_number.values for year in years_of(v)]
    return full if is_year else [*dates, *full], year_number.last


def _is_year(number: Number) -> bool:
    """Whether the number reads as a full year, or as the two digits of a spoken year."""
    return not number.ordinal and any(
        FIRST <= value <= LAST or (number.spelled and 60 <= value <= 99) for value in number.values
    )


def _day_first(scan: Scan, number: Number) -> ReaderResult | None:
    """ "the 3rd of July", "12 May 2004"."""
    j = number.last + (scan.word(number.last) == "of")
    if scan.word(j) not in MONTHS or not 1 <= number.values[0] <= 31:
        return None
    if not number.ordinal and j == number.last and scan.word(j) in AMBIGUOUS_MONTHS:
        return None
    month, day = MONTHS[scan.word(j)], int(number.values[0])
    year = scan.numbers.get(j + 1 + (scan.word(j + 1) in LINKS))
    if year is None or not _is_year(year):
        return _date(scan, number.first, j + 1, [(None, month, day)])
    return _date(scan, number.first, year.last, [(y, month, day) for value in year.values for y in years_of(value)])


def _year(scan: Scan, number: Number) -> ReaderResult | None:
    """A year by itself: 1998, "nineteen eighty four", "since O eight", "in ninety eight", "in '06", "the 1990s"."""
    before, value = scan.word(number.first - 1), number.values[0]
    if scan.spoken and number.decade and 20 <= value <= 90 and before not in POSSESSIVES - {"the"}:
        return _decade(scan, number, [1900 + int(value)])
    if number.ordinal or unit_at(scan, number.last) is not None or scan.word(number.last) == "over":
        return None
    years = [int(one) for one in number.values if one == int(one) and FIRST <= one <= LAST]
    if number.decade:
        return _decade(scan, number, years) if years else None
    is_short = not years and 0 <= value <= 99 and value == int(value)
    if is_short and before in ("'", "’") and not number.spelled:
        return _date(scan, number.first, number.last, [(year, None, None) for year in years_of(value)])
    is_short = is_short and value >= 10 and scan.spoken and number.spelled and len(number.cardinals) == 1
    if is_short and before in BEFORE_YEAR:
        years = [1900 + int(value)]
    elif not years or (before not in BEFORE_DATE and counted_noun(scan, number.last, small=False)):
        return None
    mentions, last = _date(scan, number.first, number.last, [(year, None, None) for year in years])
    if scan.spoken and (is_short or (number.spelled and len(number.cardinals) > 1)):
        mentions += plain_at(scan, number)[0]
    return mentions, last


def _decade(scan: Scan, number: Number, years: Sequence[int]) -> ReaderResult:
    """ "the 1990s", "the seventies"; in speech also the plain number ("in the eighties" may be a measurement)."""
    dates, marks = tuple((year, None, None) for year in years), frozenset({"decade"})
    span = number.first, number.last
    found = [scan.mention(*span, "date", "date", (), dates=dates, raw=number.values, marks=marks)]
    return [*found, *([scan.plain(*span, number.values, marks=marks)] if scan.spoken else [])], number.last
