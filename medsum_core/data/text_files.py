"""Read a table's file to text: format from its name, decompression, decoding, and errors that name the true cause."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from medsum_core.errors import InputError
from medsum_core.files import read_plain_file

FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
ENDINGS = ".csv, .tsv, .jsonl, .ndjson or .json (each also as .gz)"
GZIP_MAGIC = b"\x1f\x8b"
OTHER_FORMATS = {  # first bytes of files with a wrong ending
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"PAR1": "a Parquet file; name its folder with --dataset_name",
    GZIP_MAGIC: "compressed by gzip; let its name end in .gz",
}
BYTE_ORDER_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
MAX_UNPACKED_BYTES = 1 << 30  # a gzip file of 1 MiB can unpack to 1 GiB of zeros
# What Windows-1252 has where Latin-1 has control characters: dashes, quotes, the euro sign.
WINDOWS_BYTES = frozenset(range(0x80, 0xA0)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D}


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """The whole text of a file, and its format: csv (any separator), jsonl or json."""

    text: str
    format: str


def read_text_file(path: Path) -> TextFile:
    """Read a table's text.

    Raises InputError for an unknown ending, an absent or unreadable file, damaged gzip, gzip of more than 1 GiB
    unpacked, another encoding than UTF-8 (named if it can be recognised), and an empty file.
    """
    name = path.name.lower()
    packed = name.endswith(".gz")
    ending = Path(name.removesuffix(".gz")).suffix
    data = _read(path)
    if ending not in FORMATS:
        raise InputError(f"{path}: cannot tell the format from the name: use {ENDINGS}{_looks_like(data)}")
    if packed:
        data = _unpack(path, data)
    known = next((text for magic, text in OTHER_FORMATS.items() if data.startswith(magic)), None)
    if known is not None:
        raise InputError(f"{path}: is {known}")
    text = _decode(path, data)
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return TextFile(text=text, format=FORMATS[ending])


def _read(path: Path) -> bytes:
    try:
        return read_plain_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _unpack(path: Path, data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        raise InputError(f"{path}: not compressed by gzip; leave .gz out of its name")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{path}: damaged or cut short: gzip cannot unpack it; copy it again") from None
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB; unpack it and split it")
    return unpacked


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {not_utf8(error)} (in Excel: CSV UTF-8)") from None


def not_utf8(error: UnicodeDecodeError) -> str:
    """Where bytes are no UTF-8 text, what they may be instead, and what to do."""
    data, line = error.object, error.object[: error.start].count(b"\n") + 1
    return f"line {line}: not UTF-8 (byte {error.start}){_encoding(data)}; save the file as UTF-8"


def _encoding(data: bytes) -> str:
    """A clause that names the probable encoding; "" if unknown."""
    marked = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if marked is not None:
        return f" but {marked}, by its byte-order mark"
    beyond = set(data) - set(range(0x80))
    if beyond & WINDOWS_BYTES and not beyond & (set(range(0x80, 0xA0)) - WINDOWS_BYTES):
        return ", probably Windows-1252 (cp1252)"
    return ", probably Latin-1" if beyond and not beyond & set(range(0x80, 0xA0)) else ""


def _looks_like(data: bytes) -> str:
    """A clause that says what a file with an unknown ending seems to contain; "" if unknown."""
    known = next((text for magic, text in OTHER_FORMATS.items() if data.startswith(magic)), None)
    if known is not None:
        return f"; it is {known}"
    first_line = data.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    if first_line.startswith(b"{"):
        return "; it seems to hold JSON lines: name it .jsonl"
    if first_line.startswith(b"["):
        return "; it seems to hold a JSON array: name it .json"
    separators = {b"\t": ".tsv", b",": ".csv", b";": ".csv"}
    counts = {separator: first_line.count(separator) for separator in separators}
    best = max(counts, key=lambda separator: counts[separator])
    return f"; it seems to hold separated columns: name it {separators[best]}" if counts[best] else ""
