"""Speakers' tags in the text of a dialogue, in the styles that people and transcription services write.

`Doctor:`, `[doctor]`, `**Doctor:**`, `<Doctor>`, `Doctor -`, full-width colons, a time before or after the tag, the tag
on a line of its own, several turns on one line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

CLINICIANS = (
    "doctor docotr dr doc physician clinician clinican provider gp nurse np pa practitioner therapist surgeon "
    "pharmacist dentist midwife consultant resident intern student counselor psychologist psychiatrist dietitian "
    "paramedic specialist attending interviewer arzt ärztin docteur médecin medico medica médico"
)
OTHERS = (
    "patient pt client caller mother mom mum father dad parent wife husband spouse partner daughter son sister brother "
    "family caregiver carer guardian guest gest relative friend interpreter receptionist speaker interviewee user "
    "assistant human agent patientin paciente paziente"
)
LABELS = (  # words before a colon that are not speakers
    "note notes assessment plan bp hr rr temp pulse weight height bmi spo2 vitals history hpi impression diagnosis "
    "medications allergies labs exam subjective objective summary date time question answer q a ps nb"
)
SHARE_BOXED = 0.5  # of the lines: from this share on, any boxed word is a tag ("[anna] ..."), below it a remark
INLINE_STYLES = ("colon", "boxed")
SENTENCE_ENDS = tuple(".?!…\"”')]-*")
FEW_LINES = 2  # newlines; with fewer, a text without punctuation may have its tags within the line
_TIME = r"[\[(<]?\b\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d{1,3})?(?:[^\S\n]?[ap]m\b)?[\])>]?"
_NAME = r"[^\W\d_][\w .'’/&-]{0,40}?"


class Tag(NamedTuple):
    """A speaker's tag at characters `[start, end)`, with the time and the blanks that belong to it."""

    start: int
    end: int
    name: str
    style: str  # colon | boxed | dash | timed | alone


@lru_cache(maxsize=1)
def _role_pattern() -> str:
    """Pattern of one to five role words, possibly with a number or a name: "Guest_family_2", "Dr. Smith".

    It is bounded, since the time would else be quadratic where such words are repeated.
    """
    word = "|".join(sorted([*CLINICIANS.split(), *OTHERS.split()], key=len, reverse=True))
    surname = r"[ _][^\W\d_][\w'’-]{0,20}"
    titled = rf"(?:doctor|dr|prof|professor|nurse|mr|mrs|ms|miss)\b\.?{surname}(?:{surname})?"
    more = rf"[ _/-]{{0,2}}(?:(?:{word})|\d{{1,3}}|[a-z])(?![^\W\d_])"
    return rf"(?:the )?(?:(?:{word})(?:['’]s)?(?:{more}){{0,4}}|{titled})"


@lru_cache(maxsize=1)
def _is_role() -> re.Pattern[str]:
    return re.compile(_role_pattern(), re.IGNORECASE)


@lru_cache(maxsize=1)
def _is_clinician() -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(CLINICIANS.split())})(?![^\W\d_])", re.IGNORECASE)


@lru_cache(maxsize=4096)
def is_role(name: str) -> bool:
    """Whether a tag's name is a role of a visit: "Doctor", "Guest_family_2", "Patient's mother", "Mrs. Jones"."""
    return _is_role().fullmatch(name) is not None


@lru_cache(maxsize=4096)
def is_clinician(name: str) -> bool:
    """Whether a tag names a clinician: "Doctor", "nurse 2", "Guest_clinician"."""
    return _is_clinician().search(name) is not None


@lru_cache(maxsize=1)
def _line_pattern() -> re.Pattern[str]:
    return re.compile(
        rf"""^[^\S\n]*(?:[-•>\#][^\S\n]+|\d{{1,3}}[.)][^\S\n]+)?(?:{_TIME}\s{{0,3}}(?:[-–|][^\S\n]*)?)?
        (?: [\[<(](?P<boxed>{_NAME})[\])>](?:[^\S\n]?{_TIME})?[*_]{{0,3}}[:：]?
          | [*_]{{0,3}}(?P<colon>{_NAME})[*_]{{0,3}}(?:[^\S\n]*{_TIME})?[^\S\n]?[:：](?!\d\d)[*_]{{0,3}}
          | (?P<dash>{_NAME})[^\S\n]+[-–—]{{1,2}}[^\S\n]
          | [*_]{{0,3}}(?P<timed>{_NAME})[*_]{{0,3}}[^\S\n]*{_TIME}
          | [*_]{{0,3}}(?P<alone>{_NAME})[*_]{{0,3}}[^\S\n]*$
        )""",
        re.VERBOSE | re.MULTILINE,
    )


def _inside_pattern(names: frozenset[str]) -> re.Pattern[str]:
    """Pattern of tags inside a line: roles, and `names` spelled as at the beginnings of lines."""
    name = "|".join([f"(?i:{_role_pattern()})", *(re.escape(name) for name in sorted(names, key=len, reverse=True))])
    return re.compile(
        rf"(?<=\s)(?:{_TIME}[^\S\n]?)?(?:[*_]{{0,3}}(?P<colon>{name})[*_]{{0,3}}[^\S\n]?[:：](?!\d\d)[*_]{{0,3}}"
        rf"|[\[<](?P<boxed>{name})[\]>][:：]?)"
    )


def find_tags(text: str) -> list[Tag]:
    """The speakers' tags of a dialogue, in order. The time is linear in the length of the text."""
    at_lines = _at_lines(text)
    if at_lines:
        return sorted([*at_lines, *_inside_lines(text, at_lines)])
    return []


def _at_lines(text: str) -> list[Tag]:
    found = [
        Tag(match.start(), match.end(), match[str(match.lastgroup)].strip(), str(match.lastgroup))
        for match in _line_pattern().finditer(text)
    ]
    count = Counter((tag.name, tag.style) for tag in found)
    has_role = any(is_role(tag.name) and tag.style != "alone" for tag in found)
    boxed = sum(tag.style == "boxed" for tag in found)
    mostly_boxed = boxed >= SHARE_BOXED * sum(1 for line in text.split("\n") if line.strip())

    def names_speaker(tag: Tag) -> bool:
        if is_role(tag.name):
            return tag.style != "alone" or count[tag.name, "alone"] > 1
        if tag.style == "boxed":
            return mostly_boxed and count[tag.name, "boxed"] > 1
        likely = tag.style == "colon" and _like_a_name(tag.name)
        return likely and (not has_role or count[tag.name, "colon"] > 1)

    return [tag for tag in found if names_speaker(tag)]


@lru_cache(maxsize=1)
def _labels() -> frozenset[str]:
    return frozenset(LABELS.split())


def _like_a_name(name: str) -> bool:
    words = name.split()
    return name.lower() not in _labels() and (
        len(words) == 1 or (len(words) <= 3 and all(w[0].isupper() for w in words))
    )


def _inside_lines(text: str, at_lines: list[Tag]) -> Iterator[Tag]:
    """Tags inside lines, in a style that also occurs at the beginnings of lines.

    A lower-case role or a name is a tag only if a line begins with it too (not in "so I told the doctor: no"). Unless
    the text has FEW_LINES, a tag inside a line must follow the end of a sentence.
    """
    styles = {tag.style for tag in at_lines}.intersection(INLINE_STYLES)
    if not styles:
        return
    seen = frozenset(tag.name for tag in at_lines)
    starts = [tag.start for tag in at_lines]
    few_lines = text.count("\n") < FEW_LINES
    for match in _inside_pattern(frozenset(name for name in seen if not is_role(name))).finditer(text):
        style = str(match.lastgroup)
        name = match[style]
        if style not in styles or at_lines[bisect_right(starts, match.start()) - 1].end > match.start():
            continue
        known = name in seen or ((name[0].isupper() or style == "boxed") and is_role(name))
        ends_sentence = text[max(match.start() - 3, 0) : match.start()].rstrip()[-1:] in SENTENCE_ENDS
        if known and (ends_sentence or few_lines):
            yield Tag(match.start(), match.end(), name, style)
