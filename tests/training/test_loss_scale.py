"""fp16: overflows while GradScaler searches for its scale do not end a run; those of gradients that stay too large do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import exit_code, flags, make_canary_inputs, metrics
from torch import Tensor

from medsum_core.training.loss import note_nll


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_canary_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def fp16_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU refuses fp16, whose scaler works there all the same."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr("torch.amp.GradScaler", lambda kind, *, enabled: scaler(kind, enabled=True))


class Overflow(torch.autograd.Function):
    """The identity; its gradient is infinite from `limit` on, as that of an fp16 activation from 65,504 on."""

    @staticmethod
    def forward(ctx: Any, nll: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return nll.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        [gradient] = gradients
        return torch.where(gradient < ctx.limit, gradient, torch.inf), None


def overflowing(limit: float) -> Callable[..., Tensor]:
    return partial(_overflowing, limit=limit)


def _overflowing(*args: Tensor, limit: float, **settings: Any) -> Tensor:
    return Overflow.apply(note_nll(*args, **settings), limit)


def run(inputs: Path, folder: Path, limit: float, *more: str) -> int:
    argv = flags(inputs, folder, "--eval_strategy", "no", "--save_strategy", "no", "--kernels", "reference", *more)
    return exit_code(argv, objective=overflowing(limit))


def test_a_run_survives_more_overflows_than_may_be_skipped_in_a_row(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "run", 50.0, "--num_train_epochs", "5") == 0  # 65,536 / 50 is about 2^10 a target
    steps = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert 0 < len(steps) <= 15 - 4  # of 15 windows at least four overflowed first


def test_the_scale_that_was_found_survives_a_resume(inputs: Path, tmp_path: Path) -> None:
    folder, more = tmp_path / "run", ("--num_train_epochs", "5", "--save_strategy", "epoch")
    assert run(inputs, folder, 50.0, *more) == 0
    losses = [(line["step"], line["loss"]) for line in metrics(folder)]
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    assert run(inputs, folder, 50.0, *more, "--resume_from_checkpoint", "auto") == 0
    assert [(line["step"], line["loss"]) for line in metrics(folder)] == losses


def test_a_run_ends_when_gradients_overflow_at_every_scale(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path / "run", 0.0, "--num_train_epochs", "10") == 3
    assert "17 windows in a row" in capsys.readouterr().err  # 65,536 is 2^16: the 17th halves a scale of 1


def test_a_loss_that_is_not_finite_is_no_search(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def non_finite(*args: Tensor, **settings: Any) -> Tensor:
        return note_nll(*args, **settings) * torch.nan

    more = ("--eval_strategy", "no", "--kernels", "reference", "--num_train_epochs", "2")
    assert exit_code(flags(inputs, tmp_path / "run", *more), objective=non_finite) == 3
    assert "3 windows in a row" in capsys.readouterr().err
