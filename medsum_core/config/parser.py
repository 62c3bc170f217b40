"""Read the three sources of settings, a preset, a file and the command line, to plain values and a list of problems.

Each source is parsed separately with the types of `arguments.py`, so that a message can name the flag or line, and all
problems of all sources are found at once. Scalars of a file are kept as text (YAML 1.1 would read `2e-4` as a string
and `on` as a boolean) and get their type from the same parser as the command line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from medsum_core.config.arguments import DataArguments, LoraArguments, ModelArguments, OutputArguments, TrainArguments
from medsum_core.config.counterparts import counterpart, with_equal_value
from medsum_core.errors import InputError
from medsum_core.files import read_plain_file

SECTIONS: dict[str, Any] = {
    "model": ModelArguments,
    "lora": LoraArguments,
    "data": DataArguments,
    "train": TrainArguments,
    "output": OutputArguments,
}
DEFAULT_PRESET = "gemma-2b"
SETTING_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MAX_VALUE_CHARACTERS = 60
LIKENESS = 0.75  # difflib's ratio: `max_lenght` is like `max_length`, `lora_rank` not like `lora_dropout`
NULLS = ("", "~", "null", "None")


@dataclass(frozen=True, kw_only=True)
class SettingsSource:
    """The values that one source sets explicitly, by flag name, and a message for each wrong value."""

    values: dict[str, Any]
    problems: list[str]


class _RejectedError(Exception):
    """argparse refused a value; the message says why."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling per flag: argparse would list `--max_length N, --max-length N`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action)) if action.nargs != 0 else ""
        metavar = "[true|false]" if action.nargs == "?" else metavar
        names = action.option_strings if action.option_strings[0] == "-h" else action.option_strings[:1]
        return f"{', '.join(names)} {metavar}".strip()

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(
        entry.name[:-5]
        for entry in (files("medsum_core") / "config" / "presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def print_help() -> None:
    """Print every flag with its meaning, unit and default."""
    parser = _build_parser()
    for action in parser._actions:
        if isinstance(action, argparse._StoreFalseAction):
            action.help, action.default = f"the opposite of --{action.dest}", None
        elif isinstance(action.default, list):
            action.default = " ".join(action.default)
    parser.print_help()


def read_command_line(argv: list[str]) -> SettingsSource:
    """The values that the command line sets, including `preset` and `config`."""
    return _gather([(group[0].split("=")[0], group) for group in _split_flags(argv)], _build_parser(explicit_only=True))


def read_preset(name: str) -> SettingsSource:
    """The values of a preset of the package. Raises InputError for an unknown name."""
    if name not in preset_names():
        raise InputError(f"--preset {name}: there is no such preset; choose from {', '.join(preset_names())}")
    text = (files("medsum_core") / "config" / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return _read_text(text, where=f"preset {name}", is_json=False)


def read_settings_file(path: str | Path) -> SettingsSource:
    """The values of a YAML or JSON file: flag names as keys, flat or grouped by section; null empties a setting.

    Raises InputError if it cannot be read as such a file at all.
    """
    path = Path(path)
    try:
        text = read_plain_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(f"--config {path}: cannot be read ({reason})") from None
    return _read_text(text, where=str(path), is_json=path.suffix.lower() == ".json")


def bundled_path(value: str) -> str:
    """`bundled:NAME` -> the path of that file inside `medsum_core/data/sample`; any other value as it is."""
    name = value.removeprefix("bundled:")
    return value if name == value else str(files("medsum_core") / "data" / "sample" / name)


def _build_parser(*, explicit_only: bool = False) -> argparse.ArgumentParser:
    """A parser over all sections. `explicit_only`: flags that are not given are absent from the namespace."""
    from transformers.hf_argparser import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise _RejectedError(message)

    parser = Parser(
        tuple(SECTIONS.values()),
        prog=Path(sys.argv[0]).name,
        usage="%(prog)s [--preset NAME] [--config FILE] [--flag value ...]",
        description="Fine-tune a language model to write note sections from dialogues. "
        "Settings: the preset, then --config FILE, then the flags given here.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with flag names as keys")
    for action in parser._actions if explicit_only else ():
        action.default = argparse.SUPPRESS
    return parser


def _split_flags(argv: list[str]) -> list[list[str]]:
    """One list per flag, the flag and what follows it: each can then be refused on its own."""
    groups: list[list[str]] = []
    for token in argv:
        if token.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(token)
    return groups


def _gather(sources: list[tuple[str, list[str]]], parser: argparse.ArgumentParser) -> SettingsSource:
    """Parse each (place, tokens) pair; a refused one becomes a problem that names its place."""
    values: dict[str, Any] = {}
    problems = []
    for place, tokens in sources:
        try:
            given, unknown = parser.parse_known_args(with_equal_value(tokens))
            values.update(vars(given))
            if unknown:
                problems.append(f"{place}: {_explain_unknown(unknown[0], parser)}")
        except _RejectedError as error:
            problems.append(f"{place}: {_shorten_values(re.sub('^argument [^ ]+: ', '', str(error)), tokens)}")
    return SettingsSource(values=values, problems=problems)


def _explain_unknown(token: str, parser: argparse.ArgumentParser) -> str:
    if not token.startswith("-"):
        return _shorten_values(f"unexpected value {token!r}", [token])
    name = token.partition("=")[0].lstrip("-").replace("-", "_")
    if instead := counterpart(name):
        return f"there is no such setting: {instead}"
    known = [option[2:] for action in parser._actions for option in action.option_strings[:1]]
    close = get_close_matches(name, known, n=1, cutoff=LIKENESS)
    return "there is no such setting" + (f"; did you mean --{close[0]}?" if close else "; see --help")


def _show_key(key: str) -> str:
    """A key of a settings file for a message. Another kind of file may have been named: its text is not repeated."""
    return key if SETTING_NAME.fullmatch(key) else "a name that no setting has"


def _shorten_values(message: str, tokens: list[str]) -> str:
    """The message with quoted values of more than 60 characters cut."""
    for value in (token.partition("=")[2] if token.startswith("--") else token for token in tokens):
        if len(value) > MAX_VALUE_CHARACTERS:
            message = message.replace(repr(value), f"{value[:MAX_VALUE_CHARACTERS]!r}...")
    return message


def _read_text(text: str, *, where: str, is_json: bool) -> SettingsSource:
    pairs, problems = _json_pairs(text, where) if is_json else _yaml_pairs(text, where)
    seen: dict[str, str] = {}
    sources = []
    emptied: dict[str, Any] = {}
    for place, written, value in pairs:
        key = written.replace("-", "_")  # argparse too takes both
        if key in seen:
            problems.append(f"{place}: given twice (before in {seen[key]})")
        elif key in ("preset", "config"):
            problems.append(f"{place}: belongs on the command line")
        elif value in NULLS and key in _settings_without_value():
            emptied[key] = None
        else:
            tokens = [f"--{key}", *value] if isinstance(value, list) else [f"--{key}={value}"]
            sources.append((place, tokens))
        seen[key] = place
    given = _gather(sources, _build_parser(explicit_only=True))
    return SettingsSource(values=given.values | emptied, problems=problems + given.problems)


def _settings_without_value() -> set[str]:
    """The settings that may be left empty: those typed `X | None`."""
    hints = {name: hint for section in SECTIONS.values() for name, hint in get_type_hints(section).items()}
    return {name for name, hint in hints.items() if type(None) in get_args(hint)}


def _yaml_pairs(text: str, where: str) -> tuple[list[tuple[str, str, Any]], list[str]]:
    """(place, key, text or list of texts) of a YAML file; scalars stay as they are written, places are line numbers."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply for settings") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{where}{f', line {mark.line + 1}' if mark else ''}: not valid YAML") from None
    if root is None:
        return [], []
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{where}: expected `name: value` lines")
    pairs: list[tuple[str, str, Any]] = []
    problems: list[str] = []
    pending = [(key, node, False) for key, node in root.value]
    while pending:
        key, node, is_grouped = pending.pop(0)
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        place = f"{where}, line {key.start_mark.line + 1}, {_show_key(name)}"
        # Groups are not nested: a YAML alias may refer to the node that contains it.
        if isinstance(node, yaml.MappingNode) and name in SECTIONS and not is_grouped:
            pending = [(*pair, True) for pair in node.value] + pending
        elif isinstance(node, yaml.ScalarNode):
            pairs.append((place, name, node.value))
        elif isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
            pairs.append((place, name, [item.value for item in node.value]))
        else:
            problems.append(f"{place}: expected a value or a list of values; groups are {', '.join(SECTIONS)}")
    return pairs, problems


def _json_pairs(text: str, where: str) -> tuple[list[tuple[str, str, Any]], list[str]]:
    """As `_yaml_pairs`, for a JSON file; places are keys."""
    try:
        root = json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=list)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply for settings") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not valid JSON") from None
    if not text.lstrip().startswith("{"):
        raise InputError(f"{where}: expected an object of names and values")
    pairs: list[tuple[str, str, Any]] = []
    problems: list[str] = []
    pending = list(root)
    words = {True: "true", False: "false", None: "null"}
    while pending:
        key, value = pending.pop(0)
        place = f"{where}, {_show_key(key)}"
        if key in SECTIONS and isinstance(value, list) and all(isinstance(item, tuple) for item in value):
            pending = value + pending
        elif isinstance(value, (str, bool, type(None))):
            pairs.append((place, key, value if isinstance(value, str) else words[value]))
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            pairs.append((place, key, value))
        else:
            problems.append(f"{place}: expected a value or a list of values; groups are {', '.join(SECTIONS)}")
    return pairs, problems
