"""`loss_curve.png`: training loss, smoothed training loss and validation loss, drawn from `metrics.jsonl`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsum_core.errors import InputError
from medsum_core.files import write_bytes_atomic
from medsum_core.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN_COLOUR = "#4c78a8"
VALIDATION_COLOUR = "#d1495b"
FAINT = "#8a8f98"
MAX_EPOCH_LINES = 20  # more vertical lines than this hide the curve


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The losses in `metrics.jsonl`, in nats per note token, by the number of completed updates (`step`)."""

    train: tuple[tuple[int, float], ...]  # (step, loss), finite ones only, in order of step
    evaluation: tuple[tuple[int, float], ...]
    epoch_ends: tuple[int, ...]  # steps after which a new epoch starts; without the run's last step


def read_curve(metrics_path: str | Path) -> Curve:
    """Read the loss lines and the evaluation lines of a `metrics.jsonl`.

    A later line for the same step replaces an earlier one (a resumed run). A last line without a newline, left by a
    crash, is ignored. Lines whose loss is missing or not finite (skipped windows) give no point.
    Raises InputError for a missing file or a line that is not a JSON object, naming the line.
    """
    train: dict[int, float] = {}
    evaluation: dict[int, float] = {}
    epochs: dict[int, float] = {}
    try:
        entries = read_metrics(metrics_path)
    except OSError as error:
        raise InputError(f"cannot read the metrics file {metrics_path}: {error.strerror}") from error
    for entry in entries:
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


def draw_loss_curve(metrics_path: str | Path, png_path: str | Path, *, title: str = "Fine-tuning loss") -> None:
    """Draw the loss curve of a run to `png_path`, atomically. Without a single finite loss the frame is empty.

    Raises InputError as `read_curve` does. Opens no window and changes no state of matplotlib; the user's own settings
    are not used: `text.usetex`, for one, would need LaTeX.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = read_curve(metrics_path)
    image = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(9.0, 5.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, curve, title=title)
        figure.savefig(image, format="png", metadata={"Software": None})
    write_bytes_atomic(Path(png_path), image.getvalue())


def smooth(values: Sequence[float], *, width: int) -> list[float]:
    """Each value replaced by the least-squares line through the `width` values around it (fewer at the two ends).

    Away from the ends that is the running mean. At the ends the line neither lags behind a steep start, as a one-sided
    mean does, nor depends on the last value alone (local regression, Cleveland 1979, without weights).
    """
    half = width // 2
    return [
        _line_at(values, index, max(0, index - half), min(len(values), index + half + 1))
        for index in range(len(values))
    ]


def smoothing_width(num_points: int) -> int:
    """An odd number, about an eighth of the points, from 9 to 201: shows the trend of windows of 16 rows."""
    return min(201, max(9, num_points // 8) // 2 * 2 + 1)


def _line_at(values: Sequence[float], index: int, start: int, end: int) -> float:
    centre, mean = (start + end - 1) / 2, math.fsum(values[start:end]) / (end - start)
    spread = math.fsum((position - centre) ** 2 for position in range(start, end))
    if spread == 0:
        return mean
    slope = math.fsum((position - centre) * values[position] for position in range(start, end)) / spread
    return mean + slope * (index - centre)


def _keep_finite(points: dict[int, float], step: int, value: object) -> None:
    if isinstance(value, (int, float)) and math.isfinite(value):
        points[step] = float(value)


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
    axes.plot(steps, losses, color=TRAIN_COLOUR, alpha=0.35, linewidth=1.1, label="training, as logged")
    if len(losses) >= 10:
        width = smoothing_width(len(losses))
        axes.plot(steps, smooth(losses, width=width), color=TRAIN_COLOUR, linewidth=2.2, label="training, smoothed")


def _draw_evaluation(axes: Axes, curve: Curve) -> None:
    if not curve.evaluation:
        return
    steps, losses = [step for step, _ in curve.evaluation], [loss for _, loss in curve.evaluation]
    axes.plot(steps, losses, color=VALIDATION_COLOUR, linewidth=1.2, linestyle=(0, (4, 2)), alpha=0.7, zorder=4)
    axes.plot(
        steps, losses, "o", color=VALIDATION_COLOUR, markersize=8, markeredgecolor="white", zorder=5, label="validation"
    )
    first, last = losses[0], losses[-1]
    _annotate(axes, (steps[0], first), f"{'base' if steps[0] == 0 else 'first'} {first:.2f}")
    if len(losses) == 1:
        return
    change = f"\n({100 * (last - first) / first:+.0f} %)".replace("-", "\N{MINUS SIGN}") if first > 0 else ""
    _annotate(axes, (steps[-1], last), f"tuned {last:.2f}{change}", beside=True)
    best_step, best = min(curve.evaluation, key=lambda point: point[1])
    if best_step not in (steps[0], steps[-1]):
        _annotate(axes, (best_step, best), f"lowest {best:.2f}")


def _annotate(axes: Axes, point: tuple[int, float], text: str, *, beside: bool = False) -> None:
    """Write above the point, or beside it, where the last point leaves no room above."""
    axes.annotate(
        text,
        point,
        xytext=(12, 0) if beside else (-5, 11),
        textcoords="offset points",
        ha="left",
        va="center" if beside else "bottom",
        color=VALIDATION_COLOUR,
        fontsize=11,
        fontweight="bold",
        zorder=6,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
