"""`loss_curve.png`: the training loss, its running mean and the evaluation points, drawn from `metrics.jsonl`."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.atomic import write_bytes_atomic
from medsum_core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN_COLOUR = "#4c78a8"
EVAL_COLOUR = "#d1495b"
FAINT = "#8a8f98"
MAX_EPOCH_LINES = 20  # beyond that, a vertical line for every epoch is a fence, not an aid


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What `metrics.jsonl` says about the loss. Losses are nats per note token; `x` is completed updates."""

    train: tuple[tuple[int, float], ...]  # (step, loss), finite ones only, in order of step
    evaluation: tuple[tuple[int, float], ...]
    epoch_ends: tuple[int, ...]  # steps after which a new epoch starts, the run's last step left out


def read_curve(metrics_path: str | Path) -> Curve:
    """Read the loss lines and the evaluation lines of a `metrics.jsonl`.

    A later line for the same step replaces an earlier one (a resumed run). A last line without a newline, left by a
    crash, is passed over. Lines whose loss is missing or not finite (skipped windows) give no point.
    Raises InputError for a missing file or a line that is no JSON object, naming the line.
    """
    train: dict[int, float] = {}
    evaluation: dict[int, float] = {}
    epochs: dict[int, float] = {}
    for entry in read_metrics(metrics_path):
        step = int(entry.get("step", 0))
        _keep_finite(train, step, entry.get("loss"))
        _keep_finite(evaluation, step, entry.get("eval_loss"))
        if isinstance(entry.get("epoch"), (int, float)):
            epochs[step] = float(entry["epoch"])
    return Curve(
        train=tuple(sorted(train.items())),
        evaluation=tuple(sorted(evaluation.items())),
        epoch_ends=_epoch_ends(sorted(epochs.items())),
    )


def read_metrics(metrics_path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a `metrics.jsonl`, in order; an unfinished last line is left out. Raises InputError."""
    path = Path(metrics_path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the metrics file {path}: {error.strerror}") from error
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    return [_parse_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def draw_loss_curve(metrics_path: str | Path, png_path: str | Path, *, title: str = "Fine-tuning loss") -> None:
    """Draw the loss curve of a run to `png_path`, atomically. A run without a single finite loss gets an empty frame.

    Raises InputError as `read_curve` does. Draws off screen: no window, no state kept in matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = read_curve(metrics_path)
    figure = Figure(figsize=(9.0, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, curve, title=title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    write_bytes_atomic(Path(png_path), picture.getvalue())


def running_mean(values: Sequence[float], *, width: int) -> list[float]:
    """The mean over a centred span of `width` values, narrowed evenly at both ends so that it does not lag or lean."""
    half = width // 2
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        span = values[index - reach : index + reach + 1]
        means.append(math.fsum(span) / len(span))
    return means


def smoothing_width(num_points: int) -> int:
    """An odd span of about a tenth of the points, at least 5: enough to see the trend through windows of 16 rows."""
    return max(5, num_points // 10) // 2 * 2 + 1


def _keep_finite(points: dict[int, float], step: int, value: object) -> None:
    if isinstance(value, (int, float)) and math.isfinite(value):
        points[step] = float(value)


def _parse_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict):
        raise InputError(f"{path}, line {number}: not a JSON object; remove the line or the file")
    return entry


def _epoch_ends(epochs: Sequence[tuple[int, float]]) -> tuple[int, ...]:
    ends = [step for step, epoch in epochs if epoch > 0 and abs(epoch - round(epoch)) < 1e-9]
    return tuple(step for step in ends if step < epochs[-1][0])


def _draw(figure: Figure, curve: Curve, *, title: str) -> None:
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=12)
    axes.set_xlabel("update", fontsize=11)
    axes.set_ylabel("loss per note token (nats)", fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", integer=True)
    if not curve.train and not curve.evaluation:
        axes.text(0.5, 0.5, "no loss logged yet", transform=axes.transAxes, ha="center", color=FAINT)
        return
    _draw_epochs(axes, curve)
    _draw_training(axes, curve)
    _draw_evaluation(axes, curve)
    axes.margins(x=0.03, y=0.1)
    axes.legend(frameon=False, fontsize=10, loc="upper right")


def _draw_epochs(axes: Axes, curve: Curve) -> None:
    if len(curve.epoch_ends) > MAX_EPOCH_LINES:
        return
    for number, step in enumerate(curve.epoch_ends, start=1):
        label = "end of an epoch" if number == 1 else None
        axes.axvline(step, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), label=label)


def _draw_training(axes: Axes, curve: Curve) -> None:
    if not curve.train:
        return
    steps, losses = [step for step, _ in curve.train], [loss for _, loss in curve.train]
    axes.plot(steps, losses, color=TRAIN_COLOUR, alpha=0.35, linewidth=1.1, label="training, each logged update")
    if len(losses) >= 10:
        width = smoothing_width(len(losses))
        label = f"training, running mean of {width}"
        axes.plot(steps, running_mean(losses, width=width), color=TRAIN_COLOUR, linewidth=2.2, label=label)


def _draw_evaluation(axes: Axes, curve: Curve) -> None:
    if not curve.evaluation:
        return
    steps, losses = [step for step, _ in curve.evaluation], [loss for _, loss in curve.evaluation]
    style: dict[str, Any] = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "linewidth": 1.4}
    axes.plot(steps, losses, color=EVAL_COLOUR, zorder=5, label="validation", **style)
    first, last = losses[0], losses[-1]
    before = f"base {first:.2f}" if steps[0] == 0 else f"first {first:.2f}"
    _annotate(axes, (steps[0], first), before, right=True)
    if len(losses) == 1:
        return
    change = f" ({100 * (last - first) / first:+.0f} %)".replace("-", "\N{MINUS SIGN}") if first > 0 else ""
    _annotate(axes, (steps[-1], last), f"tuned {last:.2f}{change}", right=False)
    best_step, best = min(curve.evaluation, key=lambda point: point[1])
    if best_step not in (steps[0], steps[-1]):
        _annotate(axes, (best_step, best), f"lowest {best:.2f}", right=False)


def _annotate(axes: Axes, point: tuple[int, float], text: str, *, right: bool) -> None:
    axes.annotate(
        text,
        point,
        xytext=(10 if right else 0, 6 if right else 14),
        textcoords="offset points",
        ha="left" if right else "right",
        color=EVAL_COLOUR,
        fontsize=11,
        fontweight="bold",
        zorder=6,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
