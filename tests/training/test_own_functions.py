"""Functions of a user's own: what the loop keeps of them, and errors where they break their contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_model
from tiny_run import exit_code, flags, make_canary_inputs, metrics
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from windows import make_run, make_window, tuned

import train_loop
from medsum_core.data.collator import MicroBatch, split_window
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.errors import InputError
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.greedy import GreedySearch
from medsum_core.generation.search import Note
from medsum_core.training.loss import note_nll
from medsum_core.training.objective_check import check_objective
from medsum_core.training.run import Run


@pytest.fixture(scope="module", params=["reference", "fast"])
def run(request: pytest.FixtureRequest) -> Run:
    return make_run(tuned(tiny_model(), kernels=request.param), kernels=request.param)


def update(run: Run, **functions: Any) -> train_loop.StepStats:
    return train_loop.train_step(run, make_window(4), learning_rate=1e-3, **functions)


WRONG_LOSSES: dict[str, Callable[[Tensor], Any]] = {
    "a tensor of shape \\(1,\\)": lambda nll: nll[None],
    "float": lambda nll: nll.item(),
    "NoneType": lambda nll: None,
    "a number without a gradient": lambda nll: nll.detach(),
}


@pytest.mark.parametrize("found", WRONG_LOSSES)
def test_an_objective_that_returns_no_summed_loss_is_refused(run: Run, found: str) -> None:
    def wrong(*tensors: Tensor, softcap: float | None) -> Any:
        return WRONG_LOSSES[found](note_nll(*tensors, softcap=softcap))

    with pytest.raises(InputError, match=f"the objective returned {found}.*summed"):
        update(run, objective=wrong)


def mean(hidden: Tensor, targets: Tensor, head: Tensor, *, softcap: float | None) -> Tensor:
    return cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten())


def test_an_objective_that_returns_a_mean_is_refused_before_anything_is_written(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, state = tuned(tiny_model("gemma2", dtype=torch.bfloat16)), torch.get_rng_state()
    check_objective(lambda *tensors, softcap: 3 * note_nll(*tensors, softcap=softcap), model, kernels="fast")
    assert torch.equal(torch.get_rng_state(), state)
    assert exit_code(flags(inputs, tmp_path / "run"), objective=mean) == 2
    assert "summed over the targets, not a mean" in capsys.readouterr().err and not (tmp_path / "run").exists()


def lose_one(examples: Sequence[Example], **settings: int) -> list[MicroBatch]:
    return split_window(examples[1:], **settings)


def repeat_one(examples: Sequence[Example], **settings: int) -> list[MicroBatch]:
    return split_window([*examples, examples[0]], **settings)


def replace_one(examples: Sequence[Example], **settings: int) -> list[MicroBatch]:
    return split_window([*examples[1:], examples[1]], **settings)


@pytest.mark.parametrize("collate,returned", [(lose_one, 3), (repeat_one, 5), (replace_one, 4)])
def test_a_collator_that_loses_or_repeats_a_row_is_refused(run: Run, collate: Any, returned: int) -> None:
    with pytest.raises(InputError, match=f"given 4 rows and returned {returned}.*exactly once"):
        update(run, collate=collate)


def test_a_collator_may_change_rows(run: Run) -> None:
    """Without its first target each row adds less to the sum, which is divided by the same number."""

    def shortened(examples: Sequence[Example], **settings: int) -> list[MicroBatch]:
        rows = []
        for row in examples:
            first = row.num_prompt_tokens - 1
            targets = (*row.targets[:first], IGNORE_INDEX, *row.targets[first + 1 :])
            rows.append(replace(row, targets=targets))
        return split_window(rows, **settings)

    assert 0 < update(run, collate=shortened).loss < update(run).loss


def test_groups_of_an_optimiser_keep_the_ratio_of_their_rates(tmp_path: Path) -> None:
    built: list[torch.optim.Optimizer] = []

    def lora_plus(named: Sequence[tuple[str, nn.Parameter]], *, learning_rate: float, **_: Any) -> torch.optim.SGD:
        groups = [
            {"params": [pair for pair in named if "lora_A" in pair[0]]},
            {"params": [pair for pair in named if "lora_B" in pair[0]], "lr": 16 * learning_rate},
        ]
        built.append(torch.optim.SGD(groups, lr=learning_rate))
        return built[0]

    inputs = make_canary_inputs(tmp_path / "inputs")
    argv = flags(inputs, tmp_path / "run", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no")
    train_loop.main(argv, build_optimizer=lora_plus)
    assert [line["learning_rate"] for line in metrics(tmp_path / "run")] == [2e-4, 1e-4]  # linear to 0
    assert [group["lr"] for group in built[0].param_groups] == pytest.approx([1e-4, 16e-4], rel=1e-12)


def test_a_decoding_rule_that_chooses_several_candidates_is_refused() -> None:
    class Undecided(GreedySearch):
        num_candidates = 3

    candidates = Candidates(tokens_Mk=torch.tensor([[4, 5, 6]]), log_probs_Mk=torch.zeros(1, 3))
    note = Note(index=0, prompt=(1,), min_new=0, max_new=4)
    with pytest.raises(InputError, match=r"Undecided\.choose returned 3 candidates"):
        Undecided(frozenset()).advance([note], candidates)
