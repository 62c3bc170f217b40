"""Whether a run may go on from a checkpoint: the table of `config/on_resume.py`, applied to their fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from medsum_core.checkpoint.checkpoint import Checkpoint
from medsum_core.checkpoint.code_identity import is_own
from medsum_core.config.on_resume import Rule, rule_of
from medsum_core.config.run_config import with_later_settings
from medsum_core.errors import InputError, differing_names

PARTS = {
    "train_data": "the training data",
    "validation_data": "the validation data",
    "base_weights": "the base model's weights",
    "base": "the base model's weights, or how they are stored (this checkpoint of an earlier version records no more: "
    "keep --dequantize and --kernels)",
    "tokenizer": "the tokenizer or its chat template",
}
BASE_CONFIG = "the base model's configuration"
DECISIVE_FUNCTIONS = ("objective", "collate")  # of `train_loop.main`: refused if changed; others need consent
# If one of these changed, the weights' fingerprint changes with it, which is then not reported as a second reason.
FORMS_OF_WEIGHTS = ("precision", "load_in_4bit")
WINDOW = ("per_device_train_batch_size", "gradient_accumulation_steps")
PROCESSES = "number of processes"
NEEDED = ("settings", "train_data", "validation_data", "tokenizer", "parameters", "num_steps", "environment")


def saved_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's fingerprints, converted to the present format where an earlier version wrote them.

    Raises InputError where fingerprints are missing.
    """
    record = dict(checkpoint.fingerprints)
    if missing := [name for name in NEEDED if name not in record]:
        raise InputError(
            f"cannot resume: {checkpoint.path.name} does not record {', '.join(missing)}; choose another one"
        )
    environment = {PROCESSES: len(checkpoint.rng), **record["environment"]}
    environment.pop("attention kernel", None)  # also recorded among the settings
    return {**record, "settings": with_later_settings(record["settings"]), "environment": environment}


def check_compatible(saved: Mapping[str, Any], current: Mapping[str, Any], *, allow_inexact: bool) -> list[str]:
    """Compare `saved_record` with this run's fingerprints; return notes for the user, such as a longer schedule.

    Raises InputError with every reason and what to do about it. `allow_inexact` accepts the changes that need consent;
    changed data, weights and other settings are still refused.
    """
    settings = _settings_changes(saved["settings"], current["settings"])
    refused, consent = _function_changes(saved.get("functions"), current["functions"])
    problems = _content_problems(saved, current) + [f"--{change}" for change in settings[Rule.REFUSED]] + refused
    window = window_problem(saved, current)
    if window is not None:
        problems.append(window)
    elif current["num_steps"] < saved["num_steps"]:
        problems.append(f"the run has {current['num_steps']} updates, it was started for {saved['num_steps']}")
    if problems:
        remedy = "give the former values back, or start a new run with another --output_dir"
        raise InputError(f"cannot resume: {'; '.join(problems)}. Remedy: {remedy}")
    consent = [f"--{change}" for change in settings[Rule.CONSENT]] + consent + _environment_changes(saved, current)
    noted = [f"--{change}" for change in settings[Rule.NOTED]]
    if consent and not allow_inexact:
        raise InputError(
            f"cannot resume to the last bit: {'; '.join(consent + noted)}. Remedy: resume where it was started, or "
            "pass --allow_inexact_resume true and accept a result that differs in its last digits"
        )
    notes = _schedule_notes(saved, current) + _unknown_notes(saved, current)
    if consent:
        notes.append(f"resuming inexactly, as asked: {'; '.join(consent + noted)}")
    elif noted:
        notes.append(
            f"resuming with {'; '.join(noted)}: the same rows and the same gradient up to rounding, so last digits may "
            "differ, and dropout draws other masks; the former values give the same bits"
        )
    return notes


def window_problem(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """Why the rows of an update may not change, and which flag keeps them; None where they are the same.

    The position in an epoch is a number of updates: with another number of rows an update, some rows would be used
    twice or not at all.
    """
    before, now = _window(saved), _window(current)
    if prod(before) == prod(now):
        return None
    rows, (processes, batch, _) = prod(before), now
    if rows % processes:
        remedy = f"start a number of processes that divides {rows}"
    elif rows % (processes * batch):
        remedy = f"give --per_device_train_batch_size 1 --gradient_accumulation_steps {rows // processes}"
    else:
        remedy = f"give --gradient_accumulation_steps {rows // (processes * batch)}"
    shapes = [" x ".join(map(str, window)) for window in (before, now)]
    return (
        f"an update had {rows} rows (processes x batch x accumulation: {shapes[0]}) and would have {prod(now)} "
        f"({shapes[1]}), which would repeat or leave out rows: {remedy}"
    )


def _window(record: Mapping[str, Any]) -> tuple[int, ...]:
    return record["environment"][PROCESSES], *(record["settings"][name] for name in WINDOW)


def _settings_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[Rule, list[str]]:
    changes: dict[Rule, list[str]] = {rule: [] for rule in Rule}
    for name in differing_names(saved, current):
        changes[rule_of(name)].append(_change(name, saved, current))
    return changes


def _content_problems(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    skipped = ["base", "base_weights"] if _differ(saved["settings"], current["settings"], *FORMS_OF_WEIGHTS) else []
    problems = [
        f"{what} changed"
        for name, what in PARTS.items()
        if name in saved and name not in skipped and saved[name] != current.get(name)
    ]
    if _config_changed(saved, current) and _same_transformers(saved, current):
        problems.append(f"{BASE_CONFIG} changed")
    if differing := differing_names(saved["parameters"], current["parameters"]):
        problems.append(f"{len(differing)} trained parameters differ in name or shape, such as {differing[0]}")
    return problems


def _environment_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    known, now = saved["environment"], current["environment"]
    filled = {**now, **known}, {**known, **now}  # an entry that one of them lacks is not compared
    changes = [_change(name, *filled) for name in differing_names(*filled)]
    reads_differently = _config_changed(saved, current) and not _same_transformers(saved, current)
    return changes + [f"{BASE_CONFIG} is read differently"] * reads_differently


def _schedule_notes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    if current["num_steps"] == saved["num_steps"]:
        return []
    return [
        f"the run now has {current['num_steps']} updates instead of {saved['num_steps']}: "
        "a decaying learning rate follows the longer schedule from here on"
    ]


def _unknown_notes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """A note on what an earlier version did not record. Entries of another device or other kernels don't count."""
    known, now = saved["environment"], current["environment"]
    unknown = set(now) - set(known)
    if _differ(known, now, "device") or _differ(saved["settings"], current["settings"], "kernels"):
        unknown = set()
    names = sorted(unknown) + [BASE_CONFIG] * ("base_config" not in saved)
    names += ["the functions of train_loop.main"] * ("functions" not in saved)
    if not names:
        return []
    return [f"the checkpoint is of an earlier version; not recorded, so not compared: {', '.join(names)}"]


def _function_changes(
    saved: Mapping[str, Mapping[str, str]] | None, current: Mapping[str, Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """(changes that are refused, changes that need consent): user functions, or other versions of this project's."""
    refused: list[str] = []
    acceptable: list[str] = []
    for role in sorted({*saved, *current}) if saved is not None else ():
        before, now = (saved or {}).get(role), current.get(role)
        if before == now:
            continue
        names = [one["name"] if one is not None else "not given" for one in (before, now)]
        same_name = names[0] == names[1]
        text = f"the source of {role}, {names[0]}, changed" if same_name else f"{role} was {names[0]}, is {names[1]}"
        own = same_name and now is not None and is_own(now)
        (refused if role in DECISIVE_FUNCTIONS and not own else acceptable).append(text)
    return refused, acceptable


def _config_changed(saved: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    return "base_config" in saved and saved["base_config"] != current["base_config"]


def _same_transformers(saved: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether both have the same version of transformers: another one may add fields to a model's configuration."""
    return not _differ(saved["environment"], current["environment"], "transformers version")


def _differ(saved: Mapping[str, Any], current: Mapping[str, Any], *names: str) -> bool:
    return any(saved.get(name) != current.get(name) for name in names)


def _change(name: str, saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    return f"{name} was {saved.get(name)}, is {current.get(name)}"
