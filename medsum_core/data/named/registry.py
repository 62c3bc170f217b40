"""Data sets by name: which there are (every file of `sets/` is one), and their splits as tables and rows of a run."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from medsum_core.data.columns import DEFAULT_COLUMNS, Columns
from medsum_core.data.download import PinnedFile, pinned_file
from medsum_core.data.git_commit import commit_files
from medsum_core.data.hub import NO_SPLIT, HubRows, refuse_equal_splits
from medsum_core.data.named import sets
from medsum_core.data.named.dataset import NamedDataset
from medsum_core.data.records import source_from_table
from medsum_core.data.rows import Table
from medsum_core.errors import InputError


@cache
def named_datasets() -> dict[str, NamedDataset]:
    """The data sets by name: `DATASET` of each module in `sets/`."""
    modules = [importlib.import_module(f"{sets.__name__}.{info.name}") for info in pkgutil.iter_modules(sets.__path__)]
    return {module.DATASET.name: module.DATASET for module in modules}


def find_dataset(name: str) -> NamedDataset:
    """The data set of this name. Raises InputError that lists the known ones."""
    if name not in named_datasets():
        raise InputError(f"--dataset_name: no named data set {name!r}: choose from {', '.join(named_datasets())}")
    return named_datasets()[name]


def load_named(
    name: str,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    config_name: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    offline: bool = False,
) -> HubRows:
    """The rows of a named data set, as `load_hub`; `validation_split` None uses the set's own, `none` uses none.

    Raises InputError for unknown configurations and splits, and for files that are unavailable or not the pinned ones.
    """
    dataset = find_dataset(name)
    chosen = validation_split or dataset.validation_split
    refuse_equal_splits(train_split, chosen)
    splits = [train_split] + ([] if chosen == NO_SPLIT else [chosen])
    tables = [named_table(name, split, config_name=config_name, offline=offline) for split in splits]
    sources = [source_from_table(table, columns=columns) for table in tables]
    config = f", configuration {dataset.choose_config(config_name)}" if len(dataset.configs) > 1 else ""
    validated = f"validated on split {chosen}" if len(splits) > 1 else "no validation"
    notice = f"{name}{config}: trained on split {train_split}, {validated}"
    return HubRows(train=sources[0], validation=sources[1] if len(sources) > 1 else None, notices=(notice,))


def named_table(name: str, split: str, *, config_name: str | None = None, offline: bool = False) -> Table:
    """The table of one split of a named data set, from its pinned files. Raises InputError as `load_named`."""
    dataset = find_dataset(name)
    config = dataset.choose_config(config_name)
    splits = dataset.configs[config]
    if split not in splits:
        raise InputError(f"{name} has no split {split!r}: choose one of {', '.join(splits)}")
    if dataset.sha256:
        files = {path: _pinned(dataset, path, offline=offline) for path in splits[split]}
    else:
        files = commit_files(dataset.repository, dataset.commit, splits[split], offline=offline)
    return dataset.read(files, source=f"{name}, split {split}", config=config, split=split)


def _pinned(dataset: NamedDataset, path: str, *, offline: bool) -> bytes:
    pin = PinnedFile(
        repository=dataset.repository,
        commit=dataset.commit,
        path=path,
        sha256=dataset.sha256[path],
        is_on_hub=dataset.is_on_hub,
    )
    return pinned_file(pin, offline=offline).read_bytes()
