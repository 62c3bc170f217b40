"""Reconstruct a Gemma's `tokenizer.model` from its `tokenizer.json`, which was converted from such a file.

transformers 5 leaves the sentencepiece file out when it saves a tokenizer, and llama.cpp's converter reads nothing else
for Gemma 1 and 2. The format is protobuf (sentencepiece_model.proto): the pieces with score and type, how they were
trained and how text is normalised. tokenizer.json stores no scores, but the order of BPE's merges; the converter reads
that order from the scores. Scores are therefore set so that a piece which is merged earlier has the higher one.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from medsum_core.model.local_files import TOKENIZER_JSON

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # ModelProto.SentencePiece.Type
BPE = 2  # TrainerSpec.ModelType
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}  # all that Gemma does to text
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
ROLES = ("unk", "bos", "eos", "pad")


def sentencepiece_bytes(folder: Path) -> bytes | None:
    """The content of `tokenizer.model` that encodes as the folder's tokenizer; None where sentencepiece can't.

    It can be BPE with byte fallback that escapes spaces only and merges in the order of its pieces.
    """
    values, named = _read(folder / TOKENIZER_JSON), _read(folder / TOKENIZER_CONFIG_FILE)
    model = values.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback") or values.get("normalizer") != SPACE:
        return None
    pieces, ranks = sorted(model["vocab"], key=model["vocab"].get), _ranks(model["merges"])
    if ranks is None or [model["vocab"][piece] for piece in pieces] != list(range(len(pieces))):
        return None
    special = {role: _content(named.get(f"{role}_token")) for role in ROLES}
    added = {token["content"] for token in values["added_tokens"]}
    # The conversion writes the tab in the place of its byte.
    written = ["<0x09>" if piece == "\t" and "<0x09>" not in model["vocab"] else piece for piece in pieces]
    body = b"".join(
        _field(1, _piece(piece, -float(ranks.get(piece, len(ranks))), _type(piece, special, added)))
        for piece in written
    )
    ids = {role: model["vocab"].get(piece, -1) for role, piece in special.items()}
    return body + _field(2, _trainer(len(pieces), special, ids)) + _field(3, _normaliser())


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file of the folder holds; empty if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _ranks(merges: Sequence[Any]) -> dict[str, int] | None:
    """Piece -> its place in the order of merges; None where the merges of a piece are not next to each other."""
    ranks: dict[str, int] = {}
    for merge in merges:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        rank = ranks.setdefault(left + right, len(ranks))
        if rank != len(ranks) - 1:
            return None
    return ranks


def _type(piece: str, special: Mapping[str, str | None], added: set[str]) -> int:
    if piece == special["unk"]:
        return UNKNOWN
    if piece in (special["bos"], special["eos"], special["pad"]):
        return CONTROL
    if BYTE_PIECE.fullmatch(piece):
        return BYTE
    return USER_DEFINED if piece in added else NORMAL


def _content(token: Any) -> str | None:
    """A special token of `tokenizer_config.json`: its text, or an object that has it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + _key(2, 5) + struct.pack("<f", score) + _number(3, kind)


def _trainer(vocab_size: int, special: Mapping[str, str | None], ids: Mapping[str, int]) -> bytes:
    numbers = {3: BPE, 4: vocab_size, 35: 1} | {40 + index: ids[role] for index, role in enumerate(ROLES)}
    texts = {45 + index: special[role] for index, role in enumerate(ROLES)}
    return b"".join(_number(field, value) for field, value in numbers.items()) + b"".join(
        _field(field, text.encode()) for field, text in texts.items() if text is not None
    )


def _normaliser() -> bytes:
    """No rule of its own, no space put before the text, none removed, each written as `SPACE` does."""
    return _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)


def _field(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as the 64 bits of their two's complement."""
    value &= (1 << 64) - 1
    data = bytearray()
    while True:
        data.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(data)
