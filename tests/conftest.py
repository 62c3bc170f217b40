"""Test-wide settings: no network library chatter, one thread where results must not depend on their number."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads sleep: beside other work they would take its time
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent / "helpers"))
pytest_plugins = ["tuned_run"]  # fixtures of several folders: base, run, dialogues

# On a busy machine slow examples say nothing about the code: they must not fail a property. CI draws the same examples
# each time, so that a change is judged by itself; everywhere else new ones are tried.
settings.register_profile(
    "project",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("project")

# The files that take longest, with few tests: handed out first, or one process would wait at the end for the other.
LONGEST = ["crash", "faults", "embedded_laws", "embedded_live", "interrupted_report", "image_runs", "resume_matrix"]
LONGEST += ["sharded", "two_processes", "gradient", "offline", "families"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These files first, the others in their order."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder, to be read only."""
    from support import tiny_model

    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny run (`tiny_run.make_canary_inputs`), a module's own."""
    from tiny_run import make_canary_inputs

    return make_canary_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def signals_that_are_not_ignored() -> Iterator[None]:
    """A shell in the background ignores SIGINT, `nohup` SIGHUP; children inherit it, and would never stop."""
    from medsum_core.process import STOP_SIGNALS

    defaults = dict.fromkeys(STOP_SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    former = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)
