"""The turns of a dialogue: parsed from its text, or joined to a text where a file has a list of turns or messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from medsum_core.data.rows import ABSENT, Row, Table, raise_problems
from medsum_core.data.speaker_tags import find_tags, is_clinician

SPEAKER_KEYS = ("speaker", "role", "from")
TEXT_KEYS = ("text", "content", "value", "utterance")
USER_ROLES = ("user", "human")
ASSISTANT_ROLES = ("assistant", "gpt", "model")
SYSTEM_ROLES = ("system", "developer")


class TurnError(ValueError):
    """A value that is not a list of turns; the message gives the reason, without text of the file."""


@dataclass(frozen=True)
class Turn:
    """One speaker's turn: characters `[start, end)` of the dialogue; `text` is `[text_start, end)`, without the tag.

    `speaker`: the tag's name as written ("Guest_family_2"); "" where the dialogue has none. Neither the span nor the
    text has white space at its ends.
    """

    speaker: str
    text: str
    start: int
    end: int
    text_start: int

    @property
    def is_clinician(self) -> bool:
        """Whether the tag names a clinician; False without a tag."""
        return is_clinician(self.speaker)


def read_turns(dialogue: str) -> list[Turn]:
    """The turns of a dialogue in order, in any of the styles of `speaker_tags`; offsets are into `dialogue` as given.

    Lines without a tag belong to the turn before them; where no line has a tag, each line is a turn. Text before the
    first tag is a turn without speaker.
    """
    tags = [(tag.start, tag.end, tag.name) for tag in find_tags(dialogue)]
    if not tags:
        offset = 0
        for line in dialogue.split("\n"):
            tags.append((offset, offset, ""))
            offset += len(line) + 1
    elif dialogue[: tags[0][0]].strip():
        tags.insert(0, (0, 0, ""))
    turns = []
    for (start, text_start, name), (end, _, _) in pairwise([*tags, (len(dialogue), 0, "")]):
        text = dialogue[text_start:end]
        trimmed = text.strip()
        begin = end - len(text.lstrip()) if trimmed else text_start
        first = start + len(dialogue[start:end]) - len(dialogue[start:end].lstrip())
        if name or trimmed:
            turns.append(Turn(name, trimmed, first, begin + len(trimmed), begin))
    return turns


def join_turns(value: str) -> str:
    """A JSON list of turns as lines, "Speaker: text" where a turn names its speaker.

    A turn is a string or an object with its text (`text`, `content`, `value` or `utterance`) and, if known, who speaks
    (`speaker`, `role` or `from`; a tag in small letters gets a capital, as MTS-Dialog's have). A turn is one line:
    newlines inside of it become spaces. Raises TurnError for anything else.
    """
    return "\n".join(_turn_line(turn, number) for number, turn in enumerate(json.loads(value), start=1))


def with_our_columns(table: Table, *, dialogue: str, note: str) -> Table:
    """The table with columns for dialogue and note, converted from a format in which chat models are trained.

    Formats: `messages`, `conversations`, `prompt` with `completion`, `instruction` with `input` and `output`; a notice
    says what was used. A table that has either column, or none of the formats, is returned unchanged. Raises InputError
    for rows that are not one question and one answer.
    """
    if table.find_column(dialogue) or table.find_column(note):
        return table
    for columns, (convert, notice) in FORMS.items():
        names = [table.find_column(column) for column in columns]
        if None in names:
            continue
        return _converted(table, [str(name) for name in names], convert, notice, (dialogue, note))
    return table


def _converted(table: Table, names: list[str], convert: Convert, notice: str, new: tuple[str, str]) -> Table:
    rows, problems = [], []
    for row in table.rows:
        try:
            texts = convert([_value(row, name) for name in names])
        except TurnError as error:
            problems.append(
                f"{row.place}: {error}; write the dialogue and the note into columns of their own ({new[0]}, {new[1]})"
            )
            continue
        rows.append(replace(row, cells={**row.cells, **dict(zip(new, texts, strict=True))}))
    raise_problems(table.source, problems)
    return replace(table, columns=(*table.columns, *new), rows=tuple(rows), notices=(*table.notices, notice))


def _value(row: Row, name: str) -> Any:
    """The cell as a JSON value; in a CSV, a text that is a JSON list is parsed (pandas and datasets write them so)."""
    text, kind = row.cells[name], row.not_text.get(name)
    if kind == "list":
        return json.loads(text)
    if kind not in (None, "NoneType", ABSENT):
        raise TurnError(f"{kind}, not text")
    if name not in row.not_text and text.lstrip().startswith("[{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise TurnError("a list that is not JSON") from None
    return text


def _turn_line(turn: Any, number: int) -> str:
    if isinstance(turn, str):
        return _one_line(turn)
    if not isinstance(turn, Mapping):
        raise TurnError(f"turn {number} is {type(turn).__name__}, neither text nor an object")
    text, speaker = _first(turn, TEXT_KEYS), _first(turn, SPEAKER_KEYS)
    if not isinstance(text, str):
        raise TurnError(f"turn {number} has no text under one of the keys {', '.join(TEXT_KEYS)}")
    if not isinstance(speaker, str | None):
        raise TurnError(f"turn {number} names its speaker by {type(speaker).__name__}; write a name, such as Doctor")
    tag = "" if not speaker else f"{speaker[:1].upper()}{speaker[1:]}: "
    return tag + _one_line(text)


def _first(turn: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((turn[key] for key in keys if turn.get(key) is not None), None)


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def _from_messages(values: Sequence[Any]) -> tuple[str, str]:
    """One user turn and the assistant's answer to it, with any number of system turns before."""
    (messages,) = values
    return _one_answer(messages if isinstance(messages, list) else [])


def _from_pair(values: Sequence[Any]) -> tuple[str, str]:
    """A prompt and its completion, each as text or as messages."""
    prompt, completion = values
    if isinstance(prompt, list) or isinstance(completion, list):
        return _one_answer([*_as_messages(prompt, "user"), *_as_messages(completion, "assistant")])
    return prompt, completion


def _from_instruction(values: Sequence[Any]) -> tuple[str, str]:
    _, dialogue, note = values
    if not isinstance(dialogue, str) or not isinstance(note, str):
        raise TurnError("input or output is no text")
    return dialogue, note


def _as_messages(value: Any, role: str) -> list[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _one_answer(messages: Sequence[Any]) -> tuple[str, str]:
    if not all(isinstance(message, Mapping) for message in messages):
        raise TurnError("a message is no object with a role and its content")
    turns = [(_first(message, SPEAKER_KEYS), _first(message, TEXT_KEYS)) for message in messages]
    rest = [turn for turn in turns if turn[0] not in SYSTEM_ROLES]
    plain = len(rest) == 2 and rest[0][0] in USER_ROLES and rest[1][0] in ASSISTANT_ROLES
    if not plain or not all(isinstance(text, str) for _, text in rest):
        raise TurnError(f"its {len(rest)} messages are not one of a user and one of the assistant, both text")
    return rest[0][1], rest[1][1]


Convert = Callable[[Sequence[Any]], tuple[str, str]]
FORMS: dict[tuple[str, ...], tuple[Convert, str]] = {
    ("messages",): (
        _from_messages,
        "of messages, the user's is the dialogue and the assistant's the note; system messages are left out, as the "
        "prompt has its own instruction",
    ),
    ("conversations",): (
        _from_messages,
        "of conversations, the human's turn is the dialogue and the model's the note; system turns are left out, as "
        "the prompt has its own instruction",
    ),
    ("prompt", "completion"): (_from_pair, "the prompt is the dialogue, the completion the note"),
    ("instruction", "input", "output"): (
        _from_instruction,
        "the input is the dialogue, the output the note; the instruction is left out, as the prompt has its own",
    ),
}
