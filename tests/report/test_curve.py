"""The loss curve: how metrics.jsonl is read and smoothed, and what the image shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsum_core.errors import InputError
from medsum_core.report.loss_curve import _draw, draw_loss_curve, read_curve, smooth, smoothing_width

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_metrics(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def two_epochs(path: Path) -> Path:
    lines: list[dict] = [{"step": 0, "epoch": 0.0, "eval_loss": 3.0}]
    for step in range(1, 21):
        lines.append(
            {"step": step, "epoch": step / 10, "loss": 3.0 - step / 20, "grad_norm": 1.0, "learning_rate": 1e-4}
        )
        if step in (10, 20):
            lines.append({"step": step, "epoch": step / 10, "eval_loss": 2.0 if step == 10 else 2.25})
    return write_metrics(path, lines)


def test_training_and_evaluation_points_are_separated(tmp_path):
    curve = read_curve(two_epochs(tmp_path / "metrics.jsonl"))
    assert curve.evaluation == ((0, 3.0), (10, 2.0), (20, 2.25))
    assert curve.train == tuple((step, 3.0 - step / 20) for step in range(1, 21))
    assert curve.epoch_ends == (10,)


def test_skipped_windows_are_left_out_and_the_last_line_of_a_step_counts(tmp_path):
    lines = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 2.0}, {"step": 1, "loss": 4.0}]
    path = write_metrics(tmp_path / "metrics.jsonl", lines)
    with path.open("a") as file:
        file.write('{"step": 4, "loss": NaN}\n{"step": 5, "lo')
    assert read_curve(path).train == ((1, 4.0), (3, 2.0))


@pytest.mark.parametrize("content", [None, '{"step": 1}\nnot json\n'])
def test_unreadable_metrics_are_an_input_error(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError):
        draw_loss_curve(path, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=60), width=st.integers(3, 31))
@settings(max_examples=60, deadline=None)
def test_smoothing_is_the_least_squares_line_through_each_span(values, width):
    smoothed = smooth(values, width=width)
    for index in range(len(values)):
        span = np.arange(max(0, index - width // 2), min(len(values), index + width // 2 + 1))
        degree = 1 if len(span) > 1 else 0
        fit = np.polynomial.Polynomial.fit(span, [values[i] for i in span], degree)
        assert smoothed[index] == pytest.approx(fit(index), abs=1e-6)


def test_smoothing_a_line_gives_the_line():
    line = [3.0 - 0.01 * step for step in range(200)]
    assert smooth(line, width=smoothing_width(200)) == pytest.approx(line)


def test_the_image_is_a_png_and_replaces_the_old_one_atomically(tmp_path):
    image = tmp_path / "loss_curve.png"
    image.write_bytes(b"old")
    draw_loss_curve(two_epochs(tmp_path / "metrics.jsonl"), image)
    data = image.read_bytes()
    assert data.startswith(PNG_SIGNATURE) and data.rstrip().endswith(b"IEND\xaeB`\x82")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_curve.png", "metrics.jsonl"]


def test_the_image_labels_the_base_tuned_and_lowest_loss(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    _draw(figure, read_curve(two_epochs(tmp_path / "metrics.jsonl")), title="A title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["base 3.00", "tuned 2.25\n(\N{MINUS SIGN}25 %)", "lowest 2.00"]
    assert axes.get_title(loc="left") == "A title"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("update", "loss per note token (nats)")


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": 2.0}], [{"step": 0, "eval_loss": 3.0}]])
def test_runs_with_one_point_or_none_are_drawn(tmp_path, lines):
    draw_loss_curve(write_metrics(tmp_path / "metrics.jsonl", lines), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG_SIGNATURE)


def test_the_users_own_settings_of_matplotlib_are_not_used_and_stay(tmp_path):
    import matplotlib

    metrics = two_epochs(tmp_path / "metrics.jsonl")
    draw_loss_curve(metrics, tmp_path / "plain.png")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black"}):  # no LaTeX is needed
        draw_loss_curve(metrics, tmp_path / "own.png")
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["axes.facecolor"] == "black"
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, medsum_core.report.loss_curve; sys.exit('matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
