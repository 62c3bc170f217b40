"""Resolve `--run` of infer.py and merge: a run, finished or not, one of its checkpoints, or an adapter folder.

A run records how it was trained (`config.json`) and on which base, by hash. Outside of a run less is known, which is
reported: a checkpoint has the settings that its updates depend on, an adapter only its base's name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsum_core.checkpoint.checkpoint import ADAPTER_CONFIG, STATE, Checkpoint, newest_valid, read_checkpoint
from medsum_core.config.arguments import DataArguments, ModelArguments
from medsum_core.config.parser import SECTIONS
from medsum_core.config.run_config import RunConfig, with_later_settings
from medsum_core.config.run_folder import ADAPTER_FOLDER, CHECKPOINTS_FOLDER, CONFIG_NAME, read_run_config, run_of
from medsum_core.errors import InputError
from medsum_core.files import DamagedError
from medsum_core.model.adapter_files import adapter_base_name
from medsum_core.model.recorded_files import check_run


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter, the settings it was trained with, and its base."""

    folder: Path  # holds the adapter's two files
    run_folder: Path | None  # has the record of the base; None: there is none
    model: ModelArguments  # model_name_or_path: the base's present location
    data: DataArguments
    trained_over: str  # the base, as the adapter names it
    finished: bool  # whether it is the final adapter of the run
    moved: bool = False  # whether the user has given the base's location

    def check(self, base_files: Mapping[str, str], *, allow_other_base: bool) -> None:
        """Compare base and adapter with the recorded hashes; `base_files`: hashes of the base now.

        Raises InputError naming each file that differs; with `allow_other_base` the base's are only reported.
        """
        if self.run_folder is None:
            print(f"{self.folder}: no run's {CONFIG_NAME} beside it, so its base is not checked", file=sys.stderr)
            return
        check_run(
            self.run_folder,
            base_files,
            base_name=self.model.model_name_or_path,
            allow_other_base=allow_other_base,
            with_adapter=self.finished,
            moved=self.moved,
        )


def find_adapter(run: str | Path, *, base: str | None = None) -> AdapterSource:
    """The adapter in a run folder, a checkpoint or an adapter folder. Never looked up on a hub.

    base: the base's location, if it was moved since training. Of an unfinished run the newest valid checkpoint is used,
    with a line on stderr. Raises InputError for a folder that is none of these, or damaged.
    """
    folder = Path(run).resolve()
    if not (folder / CONFIG_NAME).exists() and (folder / STATE).exists():
        found = _of_checkpoint(folder)
    elif not (folder / CONFIG_NAME).exists() and (folder / ADAPTER_CONFIG).exists():
        found = _of_adapter(folder)
    else:
        found = _of_run(Path(run))
    if base is not None:
        return replace(found, model=replace(found.model, model_name_or_path=base, model_revision=None), moved=True)
    if Path(found.model.model_name_or_path).is_absolute() and not Path(found.model.model_name_or_path).is_dir():
        raise InputError(
            f"--run {run}: its base {found.model.model_name_or_path} is not there; if it was moved, name its place "
            "with --model_name_or_path"
        )
    return found


def base_alone(name: str, **prompt: Any) -> tuple[ModelArguments, DataArguments]:
    """The settings for a base without an adapter: not quantised, with the default prompt and lengths.

    `prompt`: fields of `DataArguments` with other values.
    """
    data = DataArguments(**prompt)
    return ModelArguments(model_name_or_path=name, load_in_4bit=False), data


def _of_run(folder: Path) -> AdapterSource:
    config, adapter = read_run_config(folder), folder / ADAPTER_FOLDER
    if not (adapter / ADAPTER_CONFIG).exists() and (checkpoint := _newest(folder)) is not None:
        print(f"{folder}: not finished; its newest checkpoint is used, {checkpoint.name}", file=sys.stderr)
        return _of_checkpoint(checkpoint)
    name, trained_over = config.model.model_name_or_path, adapter_base_name(adapter)
    if trained_over != name:
        raise InputError(f"--run {folder}: its adapter is for another base than {name}")
    return AdapterSource(
        folder=adapter, run_folder=folder, model=config.model, data=config.data, trained_over=name, finished=True
    )


def _newest(folder: Path) -> Path | None:
    """The newest valid checkpoint of a run; None if it has none at all."""
    newest, num_damaged = newest_valid(folder / CHECKPOINTS_FOLDER)
    if newest is None and num_damaged:
        raise InputError(f"--run {folder}: not finished, and its {num_damaged} checkpoints are damaged")
    return newest


def _of_checkpoint(folder: Path) -> AdapterSource:
    try:
        checkpoint = read_checkpoint(folder)
    except DamagedError as error:
        raise InputError(
            f"--run {folder}: a damaged checkpoint ({error}); name another, or the run's folder"
        ) from error
    run, trained_over = run_of(folder), adapter_base_name(folder)
    config = read_run_config(run) if run is not None else _saved_config(checkpoint, trained_over)
    return AdapterSource(
        folder=folder,
        run_folder=run,
        model=config.model,
        data=config.data,
        trained_over=trained_over,
        finished=False,
    )


def _saved_config(checkpoint: Checkpoint, base: str) -> RunConfig:
    """The settings in a checkpoint outside of its run folder; all others have their defaults."""
    default = RunConfig(preset="none", **{name: section() for name, section in SECTIONS.items()})
    try:
        settings = with_later_settings(checkpoint.fingerprints["settings"]) | checkpoint.resolved
        # A configuration must name its data; a checkpoint has only hashes of them.
        places = {"model_name_or_path": base, "train_file": ["unknown"]}
        return RunConfig.from_json(default.with_resolved(**settings | places).to_json())
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"--run {checkpoint.path}: its settings are not those of a run ({error})") from error


def _of_adapter(folder: Path) -> AdapterSource:
    if folder.name == ADAPTER_FOLDER and (run := run_of(folder)) is not None:
        return _of_run(run)
    name = adapter_base_name(folder)
    print(f"{folder}: an adapter by itself; prompt and lengths are the defaults", file=sys.stderr)
    model, data = base_alone(name)
    return AdapterSource(folder=folder, run_folder=None, model=model, data=data, trained_over=name, finished=True)
