"""The configuration of a run: merged, checked as a whole before any weight is loaded, and written out as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from medsum_core.config.arguments import (
    PATHS,
    SPLIT_SETTINGS,
    DataArguments,
    LoraArguments,
    ModelArguments,
    OutputArguments,
    TrainArguments,
)
from medsum_core.config.base_name import revision_problems
from medsum_core.config.home_folder import at_home
from medsum_core.config.on_resume import Rule, rule_of
from medsum_core.config.parser import (
    DEFAULT_PRESET,
    SECTIONS,
    bundled_path,
    print_help,
    read_command_line,
    read_preset,
    read_settings_file,
)
from medsum_core.config.validation import path_problems, setting_problems
from medsum_core.errors import InputError, raise_all
from medsum_core.tasks.find import DEFAULT_TASK, task_text

# Settings that a preset adjusts to its own data: with other data they get the defaults.
SAMPLE_SETTINGS = ("learning_rate", "max_new_tokens")
DATA_SOURCES = ("train_file", "validation_file", "dataset_name", *SPLIT_SETTINGS)
FILES_OF_ROWS = ("train_file", "validation_file")  # each a single path, not a list, in runs of earlier versions
# Settings that runs of earlier versions lack, each with the value that describes what those did.
LATER_SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"kernels": "fast"},
    "data": {
        "no_repeat_ngram_size": 0,
        "chat_template_kwargs": None,
        "dataset_config_name": None,
        "train_split": "train",
        "validation_split": None,
        "section": None,
        "number_rows": False,
        "image_column": None,
        "image_features": None,
        "task": DEFAULT_TASK,
        "grounded": False,
    },
    "train": {"parallel_micro_batches": 1},
    "output": {"save_minutes": 0.0, "overwrite_later_checkpoints": False, "baseline_file": None},
}
DEFAULTS_BEFORE = {name: value for section in LATER_SETTINGS.values() for name, value in section.items()}
# Before there were tasks, a run saved the names of its columns also where they are those of its task, now None.
FORMER_COLUMNS = {
    "id_column": "ID",
    "dialogue_column": "dialogue",
    "note_column": "section_text",
    "section_column": "section_header",
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run. A value `auto` stays until `with_resolved` replaces it by the chosen value."""

    preset: str
    model: ModelArguments
    lora: LoraArguments
    data: DataArguments
    train: TrainArguments
    output: OutputArguments

    def with_resolved(self, **values: Any) -> RunConfig:
        """A copy with these settings (of any section, by flag name) replaced. Raises KeyError for an unknown name."""
        sections = {}
        for name, section in SECTIONS.items():
            given = {field.name: values.pop(field.name) for field in fields(section) if field.name in values}
            sections[name] = replace(getattr(self, name), **given)
        if values:
            raise KeyError(f"no such settings: {sorted(values)}")
        return replace(self, **sections)

    def sections(self) -> dict[str, Any]:
        """The sections by name."""
        return {name: getattr(self, name) for name in SECTIONS}

    def settings(self) -> dict[str, Any]:
        """Every setting by its flag name, without the sections."""
        return {name: value for section in SECTIONS for name, value in asdict(getattr(self, section)).items()}

    def compared_on_resume(self) -> dict[str, Any]:
        """The settings that a resumed run is compared by, because another value would change its updates' bits."""
        return {name: value for name, value in self.settings().items() if rule_of(name) is not Rule.EXACT}

    def to_json(self) -> dict[str, Any]:
        """Plain values by section, for `json.dumps`; `from_json` gives the same configuration back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration that `to_json` wrote. Raises InputError that lists all faults."""
        problems = _name_problems(values, {"preset", *SECTIONS}, "the configuration")
        sections: dict[str, Any] = {}
        for name, section in SECTIONS.items():
            part = values.get(name)
            if not isinstance(part, Mapping):
                continue
            part = LATER_SETTINGS.get(name, {}) | _with_lists(part)
            if "task" not in values[name]:
                part = {key: None if FORMER_COLUMNS.get(key) == value else value for key, value in part.items()}
            if isinstance(part.get("report_to"), str):  # runs of earlier versions name one tracker
                part["report_to"] = [part["report_to"]]
            found = _section_problems(part, section, name)
            sections[name] = None if found else section(**part)
            problems += found
        problems += [f"{name}: expected an object" for name in SECTIONS if name in values and name not in sections]
        raise_all(problems)
        config = cls(preset=str(values["preset"]), **sections)
        raise_all(setting_problems(**config.sections()))
        return config


def parse_run(argv: list[str]) -> RunConfig:
    """The run that a command line defines: preset, then `--config FILE`, then the flags; `--help` prints and exits.

    A source that names training data replaces all data of the sources below it, the validation file included.
    Raises InputError that lists every fault of every source, wrong combinations and missing files among them.
    """
    if any(token in ("-h", "--help") for token in argv):
        print_help()
        raise SystemExit(0)
    line = read_command_line(argv)
    sources = [line]
    name = line.values.pop("preset", DEFAULT_PRESET)
    file = at_home(line.values.pop("config", None))
    unreadable = []
    for read, place in ((read_settings_file, file), (read_preset, name)):
        try:
            sources = [read(place), *sources] if place is not None else sources
        except InputError as error:
            unreadable.append(str(error))
    problems = unreadable + [problem for source in sources for problem in source.problems]
    config = _assemble(name, [source.values for source in sources])
    if not unreadable:  # otherwise what the unreadable source sets would seem to be missing
        problems += setting_problems(**config.sections()) + path_problems(config.data, config.output)
        problems += revision_problems(config.model.model_name_or_path, config.model.model_revision)
    raise_all(problems)
    return config


def with_later_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`compared_on_resume` as of now, from what an earlier version saved: with what that did where a setting was added
    since, and without those that are not compared any more."""
    known = {**DEFAULTS_BEFORE, **settings}
    return {name: value for name, value in known.items() if rule_of(name) is not Rule.EXACT}


def _assemble(preset: str, sources: list[dict[str, Any]]) -> RunConfig:
    """`sources`: the values of each, the weakest (the preset) first."""
    names_data = any("train_file" in values or "dataset_name" in values for values in sources[1:])
    tuned = SAMPLE_SETTINGS if names_data else ()
    merged = {name: value for name, value in sources[0].items() if name not in tuned}
    for values in sources[1:]:
        if "train_file" in values or "dataset_name" in values:
            merged = {name: value for name, value in merged.items() if name not in DATA_SOURCES}
        merged.update(values)
    for name in (*PATHS, "model_name_or_path", "dataset_name", "task"):
        if name in merged:
            merged[name] = at_home(merged[name])
    for name in FILES_OF_ROWS:
        if merged.get(name) is not None:
            merged[name] = [bundled_path(path) for path in merged[name]]
    if merged.get("chat_template_kwargs") is not None:
        merged["chat_template_kwargs"] = _canonical_json(merged["chat_template_kwargs"])
    if "task" in merged:
        merged["task"] = _task_as_stored(merged["task"])
    defaults = {name: section() for name, section in SECTIONS.items()}
    return RunConfig(preset=preset, **defaults).with_resolved(**merged)


def _with_lists(part: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a saved configuration with its files of rows as lists."""
    return {
        name: [value] if name in FILES_OF_ROWS and isinstance(value, str) else value for name, value in part.items()
    }


def _canonical_json(text: str) -> str:
    """Equal JSON as equal text: resuming compares it. Other text stays; the validation reports it."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def _task_as_stored(task: str) -> str:
    """The task as a run stores it; a wrong file stays unchanged, and the validation reports it."""
    try:
        return task_text(task)
    except InputError:
        return task


def _name_problems(values: Mapping[str, Any], expected: set[str], where: str) -> list[str]:
    problems = [f"{where}: unknown entry {name!r}" for name in sorted(set(values) - expected)]
    return problems + [f"{where}: {name!r} is missing" for name in sorted(expected - set(values))]


def _section_problems(part: Mapping[str, Any], section: type, where: str) -> list[str]:
    hints = get_type_hints(section)
    problems = _name_problems(part, set(hints), where)
    wrong = [name for name in hints if name in part and not _fits(part[name], hints[name])]
    return problems + [f"{where}: {name!r} has a value of the wrong type" for name in wrong]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of a setting: scalars, `X | None`, `Literal` and `list[str]`."""
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(hint, type) and not get_args(hint):
        return type(value) is hint
    if getattr(hint, "__origin__", None) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    choices = get_args(hint)
    return any(value == choice if isinstance(choice, str) else _fits(value, choice) for choice in choices)
