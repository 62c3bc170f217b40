"""Extracts the mentions of a text in order. Notes and dialogues share the readers; a note's mentions are filtered."""

from __future__ import annotations

from functools import lru_cache

from medsum_core.grounding.facts.anatomy import stem
from medsum_core.grounding.facts.dates import date_at
from medsum_core.grounding.facts.frequencies import ADVERBS, TIMES_OF_DAY, frequency_at
from medsum_core.grounding.facts.mention import Mention, ReaderResult, Scan, scan_text
from medsum_core.grounding.facts.quantities import half_after, quantity_at
from medsum_core.grounding.facts.sides import HANDED, LIMB_CODES, SIDES, side_at
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import MONTHS, WEEKDAYS, units

SINGLES = word_set("yesterday overnight tomorrow")  # a day each
NOT_FACT_CODES = word_set("o2 h2o co2 spo2 sao2 po2 h1 h2 pco2 fio2 a1c hba1c")
NUMBERED = word_set("covid sars cov hpv ca il")  # a number after these is part of a name
LISTED = word_set("problem issue complaint concern thing point reason")  # counts of these are no facts
SCALE_WORDS = word_set("scale being analog vas")  # near the ends of a scale
ROMAN = {"ii": 2.0, "iii": 3.0, "iv": 4.0}
GRADED = word_set("type grade stage class phase level")  # before a Roman numeral


@lru_cache(maxsize=1)
def _triggers() -> frozenset[str]:
    days = {f"{day}{end}" for day in WEEKDAYS for end in ("", "s", "'s", "’s")}
    words = {*MONTHS, *days, *ADVERBS, *TIMES_OF_DAY, *SIDES, *HANDED, *LIMB_CODES, *SINGLES, *ROMAN}
    words |= {"few", "several", "biweekly", "every", "each", "either", "q", "ppd", "per", "a", "an", "/", "x", "and"}
    return frozenset(words | {"times"} | {word for word, unit in units().items() if unit.dim == "time"})


def read_mentions(text: str, *, spoken: bool) -> tuple[Scan, list[Mention]]:
    """The scan of `text` and its mentions in order. `spoken=False`: a note; its mentions are filtered by `is_fact`."""
    scan = scan_text(text, spoken=spoken)
    skipped = frozenset() if spoken else _list_marks(scan)
    triggers = _triggers()
    mentions: list[Mention] = []
    i = 0
    while i < len(scan.tokens) - 1:
        token = scan.tokens[i]
        starts_fact = token.text in triggers or i in scan.numbers or token.kind not in ("word", "punct")
        if i in skipped or not (starts_fact or (token.text == "i" and scan.word(i - 1) in GRADED)):
            i += 1
            continue
        found, i = _at(scan, i)
        mentions += found
    return scan, mentions if spoken else [mention for mention in mentions if is_fact(scan, mention)]


def _at(scan: Scan, i: int) -> ReaderResult:
    """The mentions at token i by the first reader that recognises them, and the token at which to continue."""
    for reader in (date_at, frequency_at, quantity_at, side_at, _written_form, _single, _few, _noun_and_half):
        reading = reader(scan, i)
        if reading is not None:
            found, after = reading
            both = _single(scan, i) if scan.spoken and reader is frequency_at and i not in scan.numbers else None
            return [*found, *(both[0] if both else [])], max(after, i + 1)
    return [], i + 1


def _written_form(scan: Scan, i: int) -> ReaderResult | None:
    """5'10", 7:30, L4, "x 3", "type II"."""
    token = scan.tokens[i]
    if token.kind == "height":
        feet, inches = (float(part) for part in token.text.strip("\"”'’ ").replace("’", "'").split("'")[:2])
        return [scan.mention(i, i + 1, "measurement", "height", (12 * feet + inches,), raw=(feet, inches))], i + 1
    if token.kind == "clock":
        hour, minute = (float(part) for part in token.text.split(":"))
        times = (100 * hour + minute, *([hour] if minute == 0 else []))
        return [scan.mention(i, i + 1, "number", "clock", times, raw=times)], i + 1
    if token.kind == "code":
        return _code(scan, i)
    if token.text in ("x", "times") and i + 1 in scan.numbers:
        return quantity_at(scan, i + 1)
    return _roman(scan, i) if scan.word(i - 1) in GRADED else None


def _roman(scan: Scan, i: int) -> ReaderResult | None:
    """ "type II", "grade I V": a numeral in one word or letter by letter."""
    last = i + 1
    while scan.word(last) in ("i", "v") and len(scan.word(i)) == 1:
        last += 1
    value = ROMAN.get("".join(scan.words(i, last)))
    return ([scan.plain(i, last, (value,))], last) if value else None


def _code(scan: Scan, i: int) -> ReaderResult:
    """L4, G2: a code; "x3": the number alone."""
    text = scan.tokens[i].text
    if text in NOT_FACT_CODES:
        return [], i + 1
    letters = text.rstrip("abcdefghijklmnopqrstuvwxyz").rstrip("0123456789")
    digits = "".join(char for char in text if char.isdigit())
    if letters == "x":
        return [scan.plain(i, i + 1, (float(digits),))], i + 1
    return [scan.mention(i, i + 1, "code", "code", (f"{letters}{digits}",), raw=(float(digits),), noun=letters)], i + 1


def _single(scan: Scan, i: int) -> ReaderResult | None:
    """ "a week", "a year and a half", "last year", "yesterday": in a note only after "a" or "an"."""
    word = scan.word(i)
    if scan.spoken and word in SINGLES:
        return [scan.measure(i, i + 1, units()["day"], (1.0,))], i + 1
    start = i if scan.spoken and word in units() else i + 1
    unit = units().get(scan.word(start))
    if (start > i and word not in ("a", "an")) or unit is None or unit.dim != "time" or scan.word(start).endswith("s"):
        return None
    half, last = half_after(scan, start + 1)
    is_age = scan.word(last) == "old"
    last += is_age
    marks = frozenset({"age"} if is_age else ())
    return [scan.measure(i, last, unit, (1.0 + half,), kind="age" if is_age else "", marks=marks)], last


def _few(scan: Scan, i: int) -> ReaderResult | None:
    """ "a few days", "several weeks": without a number, but they support a note's "couple of"."""
    unit = units().get(scan.word(i + 1))
    if scan.word(i) not in ("few", "several") or not scan.spoken or unit is None:
        return None
    return [scan.measure(i, i + 2, unit, (), marks=frozenset({"few"}))], i + 2


def _noun_and_half(scan: Scan, i: int) -> ReaderResult | None:
    """ "a pack and a half" at its "and"."""
    half, last = half_after(scan, i)
    if not half or scan.word(i - 2) not in ("a", "an", "one"):
        return None
    unit = units().get(scan.word(i - 1))
    if unit is None:
        return [scan.plain(i - 2, last, (1.5,), noun=stem(scan.word(i - 1)))], last
    return [scan.measure(i - 2, last, unit, (1.5,))], last


def _list_marks(scan: Scan) -> frozenset[int]:
    """Tokens that number a list: "1." or "2)" at the start of an item, each one more than the mark before it."""
    marks = set()
    expected = 1.0
    for i, number in scan.numbers.items():
        follows = scan.word(i + 1) in (".", ")") and not scan.tokens[i + 1].gap and scan.tokens[i].kind == "num"
        begins = i == 0 or scan.tokens[i - 1].kind == "punct" or "  " in scan.tokens[i].gap
        if follows and begins and number.values[0] in (1.0, expected):
            marks.add(i)
            expected = number.values[0] + 1
    return frozenset(marks)


def is_fact(scan: Scan, mention: Mention) -> bool:
    """Whether a mention is a checkable fact: not the pronoun "one", the end of a scale, "first" or "half" alone."""
    if mention.dim:
        return True
    first, last, noun, value = mention.first, mention.last, mention.noun, mention.raw[0]
    word, before, gap = scan.word(first), scan.word(first - 1), scan.tokens[first].gap
    if (not gap and before[-1:].isdigit()) or (gap == "-" and before in NUMBERED):
        return False  # "199two", "COVID-19"
    if noun in LISTED or (scan.word(last) in ("different", "separate") and stem(scan.word(last + 1)) in LISTED):
        return False  # "comes in for two different things"
    if "ordinal" in mention.marks:
        if not noun and (word in ("first", "second", "1st") or scan.word(last) in LISTED):
            return False
    elif before == "the" and not scan.is_word(last):
        return False  # "between the two,"
    if value in (0.0, 1.0) and scan.is_word(first) and not (noun and word == "one"):
        return False
    if not noun and (value < 1 or "couple" in (word, scan.word(first + 1))):
        return False
    if value == 4.0 and noun in ("extremity", "limb"):
        return False  # "all four extremities" is a fixed phrase for arms and legs
    return value not in (0.0, 1.0, 10.0) or SCALE_WORDS.isdisjoint(scan.words(first - 6, last + 6))
