"""The definition of a named data set: a commit of a public repository, the files of each split, and their reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medsum_core.data.csv_tables import parse_csv
from medsum_core.data.download import commit_folder
from medsum_core.data.rows import Table
from medsum_core.data.tables import table_of
from medsum_core.errors import InputError

Splits = Mapping[str, tuple[str, ...]]  # split -> paths in the repository, or patterns with `*`
ONLY_CONFIG = "default"  # the configuration of a set that has no choice


class Reader(Protocol):
    """Turns the files of a split, by path, into its table, whose messages name it `source`."""

    def __call__(self, files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table: ...


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """A data set that `--dataset_name` accepts by `name`.

    `sha256`: of each file, by path; empty for sets of many files, which are verified by the commit's own hash (see
    git_commit.py). `configs`: the splits of each configuration; the first is the default.
    """

    name: str
    repository: str  # owner/name on GitHub, or among the hub's data sets
    commit: str
    configs: Mapping[str, Splits]
    read: Reader
    credit: str  # for the model card: authors, publication, licence
    sha256: Mapping[str, str] = field(default_factory=dict)
    validation_split: str = "valid"  # evaluated on unless another is asked for
    is_on_hub: bool = False

    @property
    def folder(self) -> Path:
        """Its folder in the cache, to which paths in its tables are relative; it may not exist yet."""
        return commit_folder(self.repository, self.commit)

    def choose_config(self, config: str | None) -> str:
        """The configuration to read. Raises InputError that names them where it is none of them."""
        if config is None:
            return next(iter(self.configs))
        if tuple(self.configs) == (ONLY_CONFIG,):
            raise InputError(f"--dataset_config_name: {self.name} has no configurations; leave it out")
        if config not in self.configs:
            known = ", ".join(self.configs)
            raise InputError(f"--dataset_config_name: {self.name} has no configuration {config!r}: choose from {known}")
        return config


def csv_table(data: bytes, *, source: str) -> Table:
    """The table of a CSV file's bytes, under the rules of `load_table`. Raises InputError that names `source`."""
    return table_of(source, parse_csv(decode(data, source=source)))


def decode(data: bytes, *, source: str) -> str:
    """The text of UTF-8 bytes. Raises InputError that names `source`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 (byte {error.start})") from None
