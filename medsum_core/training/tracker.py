"""`--report_to`: the first process hands each line of metrics.jsonl to TensorBoard, wandb or trackio as well.

What they write is in the run folder, in a folder of the tracker's name. They get figures and settings, no text of the
rows and no path. A tracker that fails ends no run: metrics.jsonl has every value.
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

from medsum_core.config.run_config import RunConfig
from medsum_core.errors import MAX_REASON, InputError, MedsumError

PROJECT = "medsum"
PATHS = ("train_file", "validation_file", "examples_file", "output_dir", "resume_from_checkpoint")
# wandb would also send the screen's text, which holds ids of rows, and command line, git remote and source code.
WANDB_SETTINGS = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True}
WANDB_RUN = re.compile(r"(?:offline-)?run-[0-9]+_[0-9]+-([0-9a-f]+)")


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What a tracker is told of the run that begins or goes on."""

    folder: Path  # the run folder
    settings: dict[str, bool | int | float | str]
    step: int | None  # of the checkpoint that is resumed from; None: a new run
    offline: bool


class Tracker(Protocol):
    """One tracker, started."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Store the values at this update, where a person can see them before the run ends."""
        ...

    def finish(self, *, exit_code: int) -> None:
        """Write out what is pending. `exit_code`: the run's."""
        ...


class Trackers:
    """The trackers of a run: none until `start`, all finished at the end of the `with` block, however it is left."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._running: dict[str, Tracker] = {}

    def start(self, start: RunStart) -> None:
        """Start each one. Raises InputError if one can't; then none is running and nothing of theirs is left."""
        made = [path for name in self.names if not (path := start.folder / name).exists()]
        for name in self.names:
            try:
                self._running[name] = STARTERS[name](start)
            except Exception as error:  # another program's: it can raise anything
                self._finish(exit_code=InputError.exit_code)
                for path in made:
                    rmtree(path, ignore_errors=True)
                raise InputError(f"--report_to {name}: can't start ({_reason(error)})") from error

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """The values at this update. A tracker that fails is given up, with one warning."""
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
    """The settings as a tracker may store them: single values, without paths, which can name a patient or a person.

    A list or an empty setting is its JSON: TensorBoard's hyperparameters are numbers, truth values and text.
    """
    settings = {name: value for name, value in config.settings().items() if name not in PATHS}
    base = Path(config.model.model_name_or_path)
    if base.exists():
        settings["model_name_or_path"] = base.name
    plain = (bool, int, float, str)
    return {name: value if isinstance(value, plain) else json.dumps(value) for name, value in settings.items()}


def _is_installed(name: str) -> bool:
    """A folder of that name is no package: wandb leaves one where it was used."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


class _TensorBoard:
    """A new file of events for each start. Those of updates that a resumed run does again are taken back."""

    def __init__(self, start: RunStart) -> None:
        tensorboard = import_module("torch.utils.tensorboard")
        first_step = 0 if start.step is None else start.step + 1
        self._writer = tensorboard.SummaryWriter(str(start.folder / "tensorboard"), purge_step=first_step)
        # add_hparams would write these into a second file, after which TensorBoard no longer reads the first one.
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
    """A resumed run goes on under its id, and wandb keeps the points that it has: steps only rise there.

    Offline, each start is a folder of its own: `wandb sync --append` puts them together.
    """

    def __init__(self, start: RunStart) -> None:
        earlier = sorted((start.folder / "wandb").glob("*run-*")) if start.step is not None else []
        ids = [found[1] for path in earlier if (found := WANDB_RUN.fullmatch(path.name))]
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # it reports to its makers otherwise, offline too
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
    """Its database is in the run folder, unless TRACKIO_DIR names another place. A resumed run adds to its points."""

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
        # The step after the last one that it has; a private name, without which it would show some points twice.
        self._last_step = getattr(self._run, "_next_step", 0) - 1

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        if step >= self._last_step:  # the last one may lack its evaluation
            self._run.log(dict(values), step=step)

    def finish(self, *, exit_code: int) -> None:
        self._run.finish()


def _import_trackio(folder: Path) -> Any:
    """The package, which reads once, when it is imported, where its database is. Raises InputError if elsewhere."""
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
    """While the block runs, the hub's client raises instead of using the network; it reads the switch at each call."""
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
