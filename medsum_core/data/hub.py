"""Data sets of the Hugging Face hub, and local folders in its layout or as `save_to_disk` writes them.

`datasets` works in a private folder that is deleted after reading, so no Arrow copy of the rows is left.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.data.columns import DEFAULT_COLUMNS, Columns
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import SourceRows, source_from_table
from medsum_core.data.tables import table_from_objects
from medsum_core.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

REWRITTEN_MIRROR = "har1/MTS_Dialogue-Clinical_Note"
NO_SPLIT = "none"  # as --validation_split: no evaluation
VALIDATION_SPLITS = ("validation", "valid", "val", "dev")  # usual names of the validation split, most frequent first
SAVED_TO_DISK = ("dataset_dict.json", "state.json")  # files by which `save_to_disk` marks several splits, or one


@dataclass(frozen=True, kw_only=True)
class HubRows:
    """The rows of a data set: its training split and, if it has one, its validation split."""

    train: SourceRows
    validation: SourceRows | None
    notices: tuple[str, ...]  # which splits were used, and known problems of the data set


def load_hub(
    name: str,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    config_name: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    offline: bool = False,
) -> HubRows:
    """The rows of a data set by its hub name or folder, under the rules of `read_records`.

    `validation_split`: None uses the first of VALIDATION_SPLITS that it has; `NO_SPLIT` uses none. Raises InputError
    when the data set cannot be loaded for any reason, and lists configurations or splits where one must be chosen;
    messages never quote its rows.
    """
    if offline and not Path(name).is_dir():
        raise InputError(
            f"--dataset_name {name} needs the network and --offline forbids it: download the data set's file and "
            "name it with --train_file"
        )
    with _private_folder() as folder, _explained(name):
        splits = _open_splits(name, config_name, folder)
        chosen = _choose_splits(name, list(splits), train_split, validation_split)
        rows = {split: splits[split]() for split in chosen}
    sources = [
        source_from_table(table_from_objects(f"{name}, split {split}", rows[split]), columns=columns)
        for split in chosen
    ]
    notices = [f"{name}: trained on split {chosen[0]}"]
    notices[0] += f", validated on split {chosen[1]}" if len(chosen) > 1 else _no_validation(list(splits))
    warning = hub_warning(name)
    notices += [f"warning: {warning}"] if warning else []
    return HubRows(train=sources[0], validation=sources[1] if len(chosen) > 1 else None, notices=tuple(notices))


def hub_warning(name: str) -> str | None:
    """A warning for the user about a data set known to be misleading; None for all others."""
    if name.casefold() != REWRITTEN_MIRROR.casefold():
        return None
    return (
        f"{name} is a rewritten copy of MTS-Dialog: its notes are not the official ones and it holds the official "
        "validation rows, so scores with it are not MTS-Dialog scores. The official files: --dataset_name mts-dialog"
    )


def _no_validation(splits: list[str]) -> str:
    return (
        f"; it has no validation split (of {show_ids(splits)}): nothing to evaluate on, unless --validation_split or "
        "--validation_file names some"
    )


def refuse_equal_splits(train: str, validation: str | None) -> None:
    """Raise InputError if training and validation split are the same."""
    if train == validation:
        raise InputError(f"--train_split and --validation_split are both {train!r}: scores would be of learnt rows")


def _choose_splits(name: str, known: list[str], train: str, validation: str | None) -> list[str]:
    """The training split and, where there is one, the validation split."""
    for flag, split in (("--train_split", train), ("--validation_split", validation)):
        if split not in (None, NO_SPLIT, *known):
            raise InputError(f"{flag}: {name} has no split {split!r}: it has {show_ids(known)}")
    refuse_equal_splits(train, validation)
    own = next((split for split in VALIDATION_SPLITS if split in known and split != train), None)
    chosen = validation or own
    return [train] if chosen in (None, NO_SPLIT) else [train, str(chosen)]


def _open_splits(name: str, config_name: str | None, folder: Path) -> Mapping[str, Callable[[], list[dict[str, Any]]]]:
    """The splits, each with the function that reads its rows."""
    import datasets

    if any((Path(name) / mark).is_file() for mark in SAVED_TO_DISK):
        if config_name is not None:
            raise InputError(f"--dataset_config_name: {name} was saved to disk, as one configuration; leave it out")
        saved = datasets.load_from_disk(name, keep_in_memory=True)
        parts = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return {str(split): partial(_rows, part) for split, part in parts.items()}
    configs = [str(config) for config in datasets.get_dataset_config_names(name)]
    if config_name not in configs and (config_name is not None or len(configs) > 1):
        raise InputError(
            f"--dataset_config_name: {name} has {len(configs)} configurations, choose one: {show_ids(configs)}"
        )
    builder = datasets.load_dataset_builder(name, config_name, cache_dir=str(folder))
    if hasattr(builder.config, "keep_default_na"):
        builder.config.keep_default_na = False  # pandas would make nulls of cells such as "None" and "N/A"
    builder.download_and_prepare()
    return {
        str(split): lambda split=split: _rows(builder.as_dataset(split=split))  # type: ignore[misc]
        for split in builder.info.splits or {}
    }


def _rows(part: Dataset) -> list[dict[str, Any]]:
    """The rows of a split. A class label is given by its name, -1 (no label) as null; one without names stays a number.

    Source: `datasets.ClassLabel`, which makes up the names "0", "1", ... where there are none.
    """
    from datasets import ClassLabel

    labels = {column: kind.names for column, kind in part.features.items() if isinstance(kind, ClassLabel)}
    named = {column: names for column, names in labels.items() if not all(name.isdecimal() for name in names)}
    return [
        row | {column: None if row[column] in (None, -1) else names[row[column]] for column, names in named.items()}
        for row in part.to_list()
    ]


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder for the libraries' copies of the rows, without progress bars; deleted afterwards."""
    import datasets

    from medsum_core.quiet_libraries import quiet_libraries

    bars_were_off = datasets.are_progress_bars_disabled()
    folder = Path(tempfile.mkdtemp(prefix="medsum-data-"))
    datasets.disable_progress_bars()
    try:
        with quiet_libraries():
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not bars_were_off:
            datasets.enable_progress_bars()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # hub, network and file formats can raise anything; the message may quote rows
        kind = type(error).__name__
        raise InputError(
            f"--dataset_name {name}: cannot be loaded ({kind}); check the name, the network and your access, or "
            "download its file and name it with --train_file"
        ) from None
