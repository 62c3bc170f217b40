"""Dates: 06/30/04, June 30, 2004, "June thirty two thousand and four", 1998, "O eight", weekdays.

A weekday is a mention of its own sort.
"""

from __future__ import annotations

from medsum_core.grounding.facts.after_number import Reading, counted_noun, unit_at
from medsum_core.grounding.facts.ages import POSSESSIVES
from medsum_core.grounding.facts.mention import Date, Mention, Scan
from medsum_core.grounding.facts.quantities import pair_mentions, plain_at
from medsum_core.grounding.facts.spoken_numbers import Number
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import MONTHS, WEEKDAYS, units

BEFORE_DATE = bag(
    "on in since of from dated until till by through last around early late before after back mid and year during to"
)
BEFORE_YEAR = frozenset(("in", "since", "of", "from", "until", "till", "back", "late", "early"))
IN_MONTH = frozenset(("in", "since", "until", "till"))  # before "may" it is the month, in whichever letters
AMBIGUOUS_MONTHS = frozenset(("may", "march", "mar", "jan", "dec", "sep", "august"))
SCORE_WORDS = bag("pain scale strength murmur systolic score intensity severity motor")
SHORTHAND = {"7": "day", "52": "week", "12": "month"}
FRACTION_TEXTS = {"1/2": 0.5, "1/4": 0.25, "3/4": 0.75, "1/3": 1 / 3, "2/3": 2 / 3}


def date_at(scan: Scan, i: int) -> Reading | None:
    """The date that begins at token i, or the ratio, fraction or pressure written like one; None if there is none."""
    token = scan.tokens[i]
    if token.kind == "date":
        return [_date(scan, i, i + 1, _written_dates(token.text))], i + 1
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


def _in_numbers(scan: Scan, number: Number) -> Reading | None:
    """A date said in numbers: "oh three, oh five, two thousand twelve", "three fifteen oh nine"."""
    parts: list[float] = []
    zeros, last = 0, number.first
    while (part := scan.numbers.get(last)) is not None and not part.ordinal and len(parts) < 3:
        zeros += 0.0 in part.groups
        parts += [value for value in part.groups if value] if len(part.groups) > 1 else part.values[:1]
        end, last = part.last, part.last + (scan.word(part.last) in (",", "slash"))
    if len(parts) == 4 and parts[2] in (18.0, 19.0, 20.0):
        parts = [*parts[:2], 100 * parts[2] + parts[3]]  # "three five twenty twelve"
    if len(parts) != 3 or not (1 <= parts[0] <= 12 and 1 <= parts[1] <= 31):
        return None
    full = 1850 <= parts[2] <= 2049
    if not full and not (zeros >= 2 and parts[2] <= 99):
        return None
    dates: list[Date] = [(year, int(parts[0]), int(parts[1])) for year in years_of(parts[2])]
    return ([_date(scan, number.first, end, dates)], end) if dates else None


def years_of(value: float) -> list[int]:
    """The years that a number can mean: itself, or two digits in either century."""
    if value != int(value):
        return []
    year = int(value)
    if 1850 <= year <= 2049:
        return [year]
    return [1900 + year, 2000 + year] if 0 <= year <= 99 else []


def _date(scan: Scan, first: int, last: int, dates: list[Date]) -> Mention:
    year_start = _year_start(scan, last, dates)
    return scan.mention(first, last, "date", "date", (), dates=tuple(dict.fromkeys(dates)), year_start=year_start)


def _year_start(scan: Scan, last: int, dates: list[Date]) -> int:
    """The character where a final year begins, as it gets its own verdict; -1 for a year that comes first or alone."""
    token = scan.tokens[last - 1]
    if any(year is None or (month is None and day is None) for year, month, day in dates):
        return -1
    if token.kind in ("date", "slash"):
        place = max(token.text.rfind("/"), token.text.rfind("-")) + 1
        return token.start + place if int(token.text[place:]) > 31 or len(token.text) < 10 or place == 6 else -1
    return token.start if token.kind == "num" else -1


def _written_dates(text: str) -> list[Date]:
    """06/30/04 read as month first and, where possible, as day first; 2004-06-30."""
    a, b, c = (int(part) for part in text.replace("-", "/").split("/"))
    if a > 31:
        return [(a, b, c)]
    orders = [(a, b), (b, a)] if b <= 12 else [(a, b)]
    return [(year, month, day) for month, day in orders for year in years_of(c)]


def _slash(scan: Scan, i: int) -> Reading:
    left, right = (part.strip() for part in scan.tokens[i].text.split("/"))
    top, bottom = float(left), float(right)
    if scan.text[scan.tokens[i].start : scan.tokens[i].end] in FRACTION_TEXTS:
        return _fraction(scan, i)
    whole = top == int(top) and bottom == int(bottom)
    if whole and right in SHORTHAND and not left.startswith("0") and not scan.spoken:
        return _shorthand(scan, i, top, SHORTHAND[right])
    return written_ratio(scan, i)


def _shorthand(scan: Scan, i: int, count: float, name: str) -> Reading:
    """British "3/7", "2/52", "6/12": three days, two weeks, six months."""
    values = (count * units()[name].factor,)
    marks = frozenset({"shorthand"})
    return [scan.mention(i, i + 1, "duration", "time", values, raw=(count,), unit=name, marks=marks)], i + 1


def written_ratio(scan: Scan, i: int) -> Reading:
    """A date, a pressure or a score such as 9/03, 130/80, 3/10 at token i."""
    left, right = (part.strip() for part in scan.tokens[i].text.split("/"))
    top, bottom = float(left), float(right)
    whole = top == int(top) and bottom == int(bottom)
    if whole and 1 <= top <= 12 and 1850 <= bottom <= 2049:
        return [_date(scan, i, i + 1, [(int(bottom), int(top), None)])], i + 1
    if 1850 <= top <= 2049 and 1850 <= bottom <= 2049:
        dates: list[Date] = [(int(top), None, None), (int(bottom), None, None)]
        return [_date(scan, i, i + 1, dates)], i + 1
    if whole and 1 <= top <= 12 and _dated(scan, i, left, right):
        readings: list[Date] = [(year, int(top), None) for year in years_of(bottom)]
        readings += [(None, int(top), int(bottom))] if 1 <= bottom <= 31 else []
        if readings:
            return [_date(scan, i, i + 1, readings)], i + 1
    return pair_mentions(scan, i, i + 1, (top,), (bottom,))


def _dated(scan: Scan, i: int, left: str, right: str) -> bool:
    """Whether a ratio such as 9/03 is a date: by its zeros, its size, or the word before it."""
    if right in ("10", "5", "6") and not left.startswith("0"):
        if any(scan.word(i + k) in SCORE_WORDS for k in range(-4, 4)) or scan.word(i - 1) not in BEFORE_DATE:
            return False
        return scan.word(i - 1) in ("on", "since", "dated")
    if left.startswith("0") or right.startswith("0") or int(right) > 12:
        return True
    return scan.word(i - 1) in BEFORE_DATE


def _fraction(scan: Scan, i: int) -> Reading:
    value = FRACTION_TEXTS[scan.tokens[i].text]
    found = unit_at(scan, i + 1, fraction=True)
    if found is None:
        noun = counted_noun(scan, i + 1, small=True)
        return [scan.mention(i, i + 1, "number", "", (value,), raw=(value,), noun=noun)], i + 1
    unit, last = found
    return [scan.mention(i, last, unit.kind, unit.dim, (value * unit.factor,), raw=(value,), unit=unit.name)], last


def _month_first(scan: Scan, i: int) -> Reading | None:
    """ "June 30, 2004", "June thirty two thousand and four", "March of 2006", "in May"."""
    month = MONTHS[scan.word(i)]
    j = i + 1
    if scan.word(j) == "." and scan.glued(j) and not scan.tokens[j].gap and len(scan.word(i)) <= 4:
        j += 1
    if scan.word(j) == "the":
        j += 1
    number = scan.numbers.get(j)
    if number is None and scan.word(j) in ("of", "in", ","):
        number = scan.numbers.get(j + 1)
        if number is not None and not _is_year(number):
            number = None
    if number is None or unit_at(scan, number.last) is not None:
        if scan.word(i) in AMBIGUOUS_MONTHS and not (
            (scan.tokens[i].capital and scan.word(i - 1) in BEFORE_DATE | {"this"})
            or (scan.spoken and scan.word(i - 1) in IN_MONTH)
        ):
            return None
        if len(scan.word(i)) <= 4 and scan.word(i) not in ("may", "june", "july", "sept"):
            return None
        return [_date(scan, i, i + 1, [(None, month, None)])], i + 1
    dates, last = _after_month(scan, number, month)
    return ([_date(scan, i, last, dates)], last) if dates else None


def _after_month(scan: Scan, number: Number, month: int) -> tuple[list[Date], int]:
    """Day and year, or year alone, from the number after a month's name; and the token after them."""
    dates: list[Date] = []
    last = number.last
    for value in number.values:
        if value == int(value) and 1 <= value <= 31:
            dates.append((None, month, int(value)))
        if value >= 32 and not number.ordinal:
            dates += [(year, month, None) for year in years_of(value)]
    merged = int(number.values[0])
    for day, year in ((merged // 1000 - 2, 2000 + merged % 1000), (merged // 100, 0)):  # "thirty two thousand four"
        if year and number.values[0] >= 3000 and 1 <= day <= 31 and 2000 <= year <= 2049:
            dates.append((year, month, day))
    k = last + 1 if scan.word(last) in (",", "of", "in") else last
    year_number = scan.numbers.get(k)
    days = [date[2] for date in dates if date[2] is not None and date[0] is None]
    if (
        days
        and year_number is not None
        and (_is_year(year_number) or (year_number.spelled and scan.glued(k) and k == last))
    ):
        full: list[Date] = [
            (year, month, day) for day in days for value in year_number.values for year in years_of(value)
        ]
        return ([*dates, *full] if year_number.spelled and not _is_year(year_number) else full), year_number.last
    return dates, last


def _is_year(number: Number) -> bool:
    """Whether the number reads as a full year, or as two digits that speech uses for one."""
    return not number.ordinal and any(
        1850 <= value <= 2049 or (number.spelled and 60 <= value <= 99) for value in number.values
    )


def _day_first(scan: Scan, number: Number) -> Reading | None:
    """ "the 3rd of July", "12 May 2004"."""
    j = number.last + (scan.word(number.last) == "of")
    if scan.word(j) not in MONTHS or not 1 <= number.values[0] <= 31 or not scan.glued(j):
        return None
    if not number.ordinal and j == number.last and scan.word(j) in AMBIGUOUS_MONTHS:
        return None
    month, day = MONTHS[scan.word(j)], int(number.values[0])
    k = j + 2 if scan.word(j + 1) in (",", "of", "in") else j + 1
    year = scan.numbers.get(k)
    if year is None or not _is_year(year):
        return [_date(scan, number.first, j + 1, [(None, month, day)])], j + 1
    dates: list[Date] = [(y, month, day) for value in year.values for y in years_of(value)]
    return [_date(scan, number.first, year.last, dates)], year.last


def _year(scan: Scan, number: Number) -> Reading | None:
    """A year by itself: 1998, "nineteen eighty four", "since O eight", "in ninety eight", "the 1990s"."""
    before = scan.word(number.first - 1)
    if scan.spoken and number.decade and 20 <= number.values[0] <= 90 and before not in POSSESSIVES - {"the"}:
        return _decade(scan, number, [1900 + int(number.values[0])])
    if number.ordinal or unit_at(scan, number.last) is not None or scan.word(number.last) == "over":
        return None
    values = [value for value in number.values if value == int(value)]
    full = [int(value) for value in values if 1850 <= value <= 2049]
    led = before in BEFORE_DATE or scan.tokens[number.first].gap.endswith(("'", "’")) or before in ("'", "’")
    zero_led = len(number.groups) == 2 and number.groups[0] == 0
    short = (
        scan.spoken and number.spelled and before in BEFORE_YEAR and len(number.groups) == 1 and 10 <= values[0] <= 99
        if values
        else False
    )
    if not full and before in ("'", "’") and not number.spelled and values and 0 <= values[0] <= 99:
        dates: list[Date] = [(year, None, None) for year in years_of(values[0])]  # "in '06"
        return [_date(scan, number.first, number.last, dates)], number.last
    if not full and not short:
        return None
    if full and not led and not number.decade and not _stands_alone(scan, number):
        return None
    years = full or [1900 + int(values[0])]
    if number.decade:
        return _decade(scan, number, full) if full else None
    mention = _date(scan, number.first, number.last, [(year, None, None) for year in years])
    plain = plain_at(scan, number)[0][0]
    ambiguous = short or zero_led or (number.spelled and len(number.groups) > 1)
    return ([mention, plain] if ambiguous and scan.spoken else [mention]), number.last


def _decade(scan: Scan, number: Number, years: list[int]) -> Reading:
    """ "the 1990s", "the seventies"; in speech also the plain number ("in the eighties" may be a measurement)."""
    dates = tuple((year, None, None) for year in years)
    marks = frozenset({"decade"})
    found = [scan.mention(number.first, number.last, "date", "date", (), dates=dates, raw=number.values, marks=marks)]
    if scan.spoken:
        found.append(
            scan.mention(number.first, number.last, "number", "", number.values, raw=number.values, marks=marks)
        )
    return found, number.last


def _stands_alone(scan: Scan, number: Number) -> bool:
    """A four-digit number that counts nothing: no noun after it, and written or spoken as years are."""
    return not counted_noun(scan, number.last, small=False) and "," not in scan.tokens[number.first].text
