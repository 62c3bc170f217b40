"""Benchmarks start our processes with the settings that the scripts make for themselves."""

from __future__ import annotations

import ctypes
import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from medsum_core.kernels import set_up_process
from medsum_core.kernels.cpu import malloc

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
GLIBC_VARIABLES = {malloc.M_ARENA_MAX: "MALLOC_ARENA_MAX", malloc.M_MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_"}


def test_our_environment_is_what_set_up_process_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}

    def mallopt(option: int, value: int) -> None:
        found[GLIBC_VARIABLES[option]] = str(value)

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    expected = importlib.import_module("process_memory").OUR_ENVIRONMENT
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
        patch.setattr(os, "environ", found)
        set_up_process()
    assert found == expected
