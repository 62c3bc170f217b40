"""PriMock57: 57 mock primary-care consultations, as transcripts (a Praat TextGrid a speaker), each with its note.

Papadopoulos Korfiatis, Moramarco, Sarac and Savkov, ACL 2022; CC BY 4.0. Upstream has no split: `all` is everything,
`train` the consultations of days 1 to 4 (45), `valid` those of day 5 (12).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import PurePosixPath

from medsum_core.data.named.dataset import ONLY_CONFIG, NamedDataset, decode
from medsum_core.data.rows import Table
from medsum_core.data.tables import table_from_objects
from medsum_core.errors import InputError

SPEAKERS = ("Doctor", "Patient")
INTERVAL = re.compile(
    r'intervals \[\d+\]:?\s*xmin = ([\d.]+)\s*xmax = [\d.]+\s*text = "((?:[^"]|"")*)"[ \t\r]*$', re.MULTILINE
)
COUNT = re.compile(r"intervals: size = (\d+)")
# The marks of doubtful and of inaudible speech go, the doubtful words stay, as in the authors' own transcripts.
MARKS = re.compile(r"</?UNSURE>|<UNIN/>|<INAUDIBLE_SPEECH/>")


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `id, dialogue, note`. Raises InputError for a note without transcripts or for one that is none."""
    rows = []
    for path in sorted(path for path in files if path.startswith("notes/")):
        name = PurePosixPath(path).stem
        turns: list[tuple[float, str, str]] = []
        for speaker in SPEAKERS:
            transcript = f"transcripts/{name}_{speaker.lower()}.TextGrid"
            if transcript not in files:
                raise InputError(f"{source}: {transcript} is absent")
            utterances = parse_textgrid(decode(files[transcript], source=transcript), source=transcript)
            turns += [(start, speaker, text) for start, text in utterances]
        rows.append({"id": name, "dialogue": merge_turns(turns), "note": _note(files[path], source=path)})
    return table_from_objects(source, rows)


def parse_textgrid(text: str, *, source: str) -> list[tuple[float, str]]:
    """The start in seconds and the text of each interval, without marks and those that then hold no text.

    Raises InputError where not as many intervals are found as the file says: it is damaged or of another form.
    """
    found = INTERVAL.findall(text)
    if not found or len(found) != sum(map(int, COUNT.findall(text))):
        raise InputError(f"{source}: not a TextGrid of intervals in the long text form")
    spoken = [(float(start), " ".join(MARKS.sub(" ", words).replace('""', '"').split())) for start, words in found]
    return [(start, words) for start, words in spoken if words]


def merge_turns(turns: list[tuple[float, str, str]]) -> str:
    """Utterances (start, speaker, text) in the order of their start, one line a turn: `Doctor: ...`.

    What a speaker says until the other begins is one turn. Of two that begin together, the first in the list is first.
    """
    in_order = sorted(turns, key=lambda turn: turn[0])
    return "\n".join(
        f"{speaker}: " + " ".join(text for _, _, text in group)
        for speaker, group in groupby(in_order, key=lambda turn: turn[1])
    )


def _note(data: bytes, *, source: str) -> str:
    try:
        note = json.loads(decode(data, source=source))["note"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{source}: not JSON with a key 'note'") from None
    return str(note)


def _days(days: str) -> tuple[str, ...]:
    return f"transcripts/day{days}_*.TextGrid", f"notes/day{days}_*.json"


CREDIT = """\
PriMock57 (Papadopoulos Korfiatis, Moramarco, Sarac and Savkov: *PriMock57: A Dataset Of Primary Care Mock
Consultations*, ACL 2022; [github.com/babylonhealth/primock57](https://github.com/babylonhealth/primock57)), licensed
CC BY 4.0: credit its authors when you pass this adapter on. Its patients are actors."""

DATASET = NamedDataset(
    name="primock57",
    repository="babylonhealth/primock57",
    commit="cd2ac707ad03cb4d2531f4ec6b90c659bf4357c5",
    configs={ONLY_CONFIG: {"train": _days("[1-4]"), "valid": _days("5"), "all": _days("[1-5]")}},
    read=read,
    credit=CREDIT,
)
