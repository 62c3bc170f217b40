"""Find a task by its name, in a user's YAML file, or in the JSON text that a run's configuration stores.

Each file of `built_in/` is a task of that name; adding a task needs no other change.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from medsum_core.errors import InputError, raise_all
from medsum_core.tasks import built_in
from medsum_core.tasks.task import Answer, Choice, Part, Task, Truncation, task_problems

SUFFIXES = (".yaml", ".yml")
DEFAULT_TASK = "section"


def task_names() -> list[str]:
    """The names of the built-in tasks."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(built_in.__path__))


def find_task(task: str) -> Task:
    """The built-in task of that name, or the one that `task_text` wrote. Raises InputError for any other."""
    if task.startswith("{"):
        try:
            values = json.loads(task)
        except (ValueError, RecursionError):
            raise InputError("--task: begins as the text that a run keeps of a task, but is not JSON") from None
        return _read(values, where="the task of the run", is_new=False)
    if task not in task_names():
        raise InputError(f"--task {task}: no such task; known are {', '.join(task_names())}, or FILE.yaml")
    found: Task = importlib.import_module(f"medsum_core.tasks.built_in.{task.replace('-', '_')}").TASK
    return found


def task_text(task: str) -> str:
    """The value of `--task` for a configuration: a name unchanged, a YAML file as JSON text, so that the file is not
    needed again. Raises InputError with all problems of the file."""
    if not task.endswith(SUFFIXES):
        return task
    return json.dumps(asdict(read_task_file(task)), sort_keys=True)


def read_task_file(path: str | Path) -> Task:
    """The task in a YAML file with the fields of `Task` as keys. Raises InputError with all problems of the file."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):  # YAML's own readers take the last one
                raise InputError(f"--task {path}: a key occurs twice below line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep=deep)

    try:
        values = yaml.load(Path(path).read_text("utf-8"), UniqueKeys)
    except OSError as error:
        raise InputError(f"--task {path}: can't be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        raise InputError(f"--task {path}: not YAML" + (f" (line {place.line + 1})" if place else "")) from None
    if isinstance(values, dict):
        values.setdefault("name", Path(path).stem)
    return _read(values, where=f"--task {path}", is_new=True)


def _read(values: Any, *, where: str, is_new: bool) -> Task:
    """The task from plain values. One that a run has stored is not checked again: the rules may have changed."""
    problems: list[str] = []
    task = _record(Task, values, "", problems)
    if is_new and task is not None and not problems:
        problems += task_problems(task)
    raise_all([f"{where}: {problem}" for problem in problems])
    assert isinstance(task, Task)
    return task


NESTED: dict[str, type] = {"parts": Part, "answer": Answer, "choice": Choice, "truncate": Truncation}


def _record(kind: type, values: Any, where: str, problems: list[str]) -> Any:
    """The dataclass from plain values; messages are appended to `problems`. A text is accepted for a list of one."""
    if not isinstance(values, Mapping):
        problems.append(f"{where or 'the file'}: expected keys and values")
        return None
    known = {field.name: field for field in fields(kind)}
    prefix = f"{where}: " if where else ""
    problems += [f"{prefix}unknown key {name!r}; known are {', '.join(known)}" for name in values if name not in known]
    given = {name: _value(kind, name, values[name], where, problems) for name in known if name in values}
    absent = [name for name, field in known.items() if name not in given and _is_required(field)]
    problems += [f"{prefix}{name!r} is missing" for name in absent]
    return None if problems else kind(**given)


def _value(kind: type, name: str, value: Any, where: str, problems: list[str]) -> Any:
    place = f"{where}.{name}" if where else name
    hint = get_type_hints(kind)[name]
    if value is None and type(None) in get_args(hint):
        return None
    if name == "parts":
        rows = value if isinstance(value, list) else [value]
        return tuple(_record(Part, row, f"{place}[{i}]", problems) for i, row in enumerate(rows, start=1))
    if name in NESTED:
        return _record(NESTED[name], value, place, problems)
    if getattr(hint, "__origin__", None) is tuple:
        return _texts(value, place, problems)
    choices = get_args(hint)
    if hint is bool or bool in choices:
        fits, expected = isinstance(value, bool), "true or false"
    elif choices and str not in choices:
        fits, expected = value in choices, " or ".join(map(str, choices))
    else:
        fits, expected = isinstance(value, str), "text"
    if not fits:
        problems.append(f"{place}: expected {expected}")
    return value


def _texts(value: Any, place: str, problems: list[str]) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        problems.append(f"{place}: expected text, or a list of texts (yes and no need quotes in YAML)")
        return ()
    return tuple(texts)


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
