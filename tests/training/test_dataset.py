"""Whose data a run was trained on: the model card calls only the package's own sample fictional."""

from __future__ import annotations

from pathlib import Path

from medsum_core.config.arguments import DataArguments
from medsum_core.config.parser import bundled_path
from medsum_core.training import dataset


def test_only_the_packages_own_file_is_its_sample(tmp_path: Path) -> None:
    own, sample = str(tmp_path / "medsum_core" / "demo_train.csv"), bundled_path("bundled:demo_train.csv")
    for files, source in (([sample], "sample"), ([own], "own"), ([sample, own], "own")):
        assert dataset._source(DataArguments(train_file=files)) == source
