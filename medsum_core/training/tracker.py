"""`--report_to`: the first process also sends each line of metrics.jsonl to TensorBoard, wandb or trackio.

Each tracker writes to a subfolder of the run folder with its name. Trackers get metrics and settings, no text of the
rows and no paths. A tracker that fails does not end the run: metrics.jsonl has every value.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any, Protocol

from medsum_core.config.arguments import PATHS
from medsum_core.config.run_config import RunConfig
from medsum_core.errors import MAX_REASON, InputError, MedsumError

PROJECT = "medsum"
# By default wandb also sends the console's text, which holds row ids, the command line, git remote and source code.
WANDB_SETTINGS = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True}
WANDB_RUN = re.compile(r"(?:offline-)?run-[0-9]+_[0-9]+-([0-9a-f]+)")


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What a tracker is given when a run starts or is resumed."""

    folder: Path  # the run folder
    settings: dict[str, bool | int | float | str]
    step: int | None  # of the checkpoint resumed from; None: a new run
    offline: bool


class Tracker(Protocol):
    """One tracker, started."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Store the values at this update, so that they can be seen before the run ends."""
        ...

    def finish(self, *, exit_code: int) -> None:
        """Write out what is pending. `exit_code`: the run's."""
        ...


class Trackers:
    """The trackers of a run: started by `start`, finished at the end of the `with` block, also after an error."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._running: dict[str, Tracker] = {}

    def start(self, start: RunStart) -> None:
        """Start each tracker. Raises InputError if one fails; then the others are stopped and their folders removed."""
        made = [path for name in self.names if not (path := start.folder / name).exists()]
        for name in self.names:
            try:
                self._running[name] = STARTERS[name](start)
            except Exception as error:  # third-party code: it can raise anything
                self._finish(exit_code=InputError.exit_code)
                for path in made:
                    rmtree(path, ignore_errors=True)
                raise InputError(f"--report_to {name}: can't start ({_reason(error)})") from error

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Log the values at this update. A tracker that fails is dropped with one warning."""
        for name, tracker in list(self._running.items()):
            try:
                tracker.log(values, step=step)
            except Exception as error:
                del self._running[name]
                _warn(name, f"failed at update {step}", error)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error.exit_code if isinstance(error, MedsumError) else 1
        self._finish(exit_code=0 if error is None else failed)

    def _finish(self, *, exit_code: int) -> None:
        running, self._running = self._running, {}
        for name, tracker in running.items():
            try:
                tracker.finish(exit_code=exit_code)
            except Exception as error:
                _warn(name, "could not be finished", error)


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError that names the packages which are not installed."""
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        flag, packages = f"--report_to {' '.join(names)}", " ".join(missing)
        raise InputError(f"{flag}: not installed: {', '.join(missing)}; pip install {packages}, or leave it out")


def shown_settings(config: RunConfig) -> dict[str, bool | int | float | str]:
    """The settings that a tracker may store: single values, without paths, which can contain a patient's name.

    Lists and None become JSON text: TensorBoard's hyperparameters are numbers, booleans and text only.
    """
    settings = {name: value for name, value in config.settings().items() if name not in PATHS}
    base = Path(config.model.model_name_or_path)
    if base.exists():
        settings["model_name_or_path"] = base.name
    plain = (bool, int, float, str)
    return {name: value if isinstance(value, plain) else json.dumps(value) for name, value in settings.items()}


def _is_installed(name: str) -> bool:
    """Whether it is a package; a plain folder of that name, as wandb leaves one, has no origin."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


class _TensorBoard:
    """A new event file for each start. `purge_step` hides the events of updates that a resumed run repeats."""

    def __init__(self, start: RunStart) -> None:
        tensorboard = import_module("torch.utils.tensorboard")
        first_step = 0 if start.step is None else start.step + 1
        self._writer = tensorboard.SummaryWriter(str(start.folder / "tensorboard"), purge_step=first_step)
        # add_hparams would write a second event file, after which TensorBoard no longer reads the first one.
        for summary in tensorboard.summary.hparams(start.settings, {}):
            self._writer.file_writer.add_summary(summary)
        self._writer.flush()

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def finish(self, *, exit_code: int) -> None:
        self._writer.close()


class _Wandb:
    """A resumed run keeps its id. wandb ignores steps that it has already, so repeated updates add no points.

    Offline, each start makes a new folder; `wandb sync --append` joins them.
    """

    def __init__(self, start: RunStart) -> None:
        earlier = sorted((start.folder / "wandb").glob("*run-*")) if start.step is not None else []
        ids = [found[1] for path in earlier if (found := WANDB_RUN.fullmatch(path.name))]
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else crash reports are sent to wandb, even offline
        self._run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.folder.name,
            dir=str(start.folder),
            id=ids[-1] if ids else secrets.token_hex(4),
            resume="allow" if ids else None,
            mode="offline" if start.offline else None,
            config=start.settings,
            settings=WANDB_SETTINGS,
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, *, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


class _Trackio:
    """The database is in the run folder, unless TRACKIO_DIR names another folder. A resumed run adds points to it."""

    def __init__(self, start: RunStart) -> None:
        trackio = _import_trackio(start.folder / "trackio")
        with _hub_refused(start.offline):  # it asks the hub for the user's name
            self._run = trackio.init(
                project=PROJECT,
                name=start.folder.name,
                resume="never" if start.step is None else "allow",
                config=start.settings,
                embed=False,
            )
        # The step after the last stored one. A private attribute; without it some points would be shown twice.
        self._last_step = getattr(self._run, "_next_step", 0) - 1

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        if step >= self._last_step:  # the last stored step may lack its evaluation
            self._run.log(dict(values), step=step)

    def finish(self, *, exit_code: int) -> None:
        self._run.finish()


def _import_trackio(folder: Path) -> Any:
    """Import trackio, which fixes its database's folder on import, with `folder`. Raises InputError for another one."""
    if os.environ.get("TRACKIO_DIR"):
        return import_module("trackio")
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        trackio = import_module("trackio")
    finally:
        del os.environ["TRACKIO_DIR"]
    if Path(trackio.TRACKIO_DIR) != folder:
        raise InputError(f"this process writes to {trackio.TRACKIO_DIR} already: one process for each run")
    return trackio


@contextmanager
def _hub_refused(refused: bool) -> Iterator[None]:
    """While the block runs, huggingface_hub raises instead of using the network; it reads the constant at each call."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or refused
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


STARTERS: dict[str, Callable[[RunStart], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:MAX_REASON]}"


def _warn(name: str, what: str, error: Exception) -> None:
    print(f"warning: --report_to {name} {what} ({_reason(error)}); metrics.jsonl has every value", file=sys.stderr)
