"""The worked examples of examples/extend.md, as printed there: each runs to its end on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import flags, make_canary_inputs, metrics

import infer
import train_loop
from medsum_core.data.collator import split_window
from medsum_core.data.masking import Example
from medsum_core.training.loss import note_nll

PAGE = Path(__file__).parents[2] / "examples" / "extend.md"
BLOCKS = re.findall(r"^## ([^\n]*)\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
EXAMPLES = dict(BLOCKS)


def run_example(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The example with the demo's flags replaced by those of a tiny run in `folder`; what it defines."""
    inputs = make_canary_inputs(folder / "inputs")
    train, write = train_loop.main, infer.main
    visits = folder / "visits.csv"
    visits.write_text("ID,section_header,dialogue\n1,CC,Doctor: Fine?\n")

    def train_tiny(argv: list[str], **extensions: Any) -> None:
        extra = [flag for flag in argv if flag in ("--kernels", "--attention", "--ungrounded")]
        extra = [word for flag in extra for word in (flag, argv[argv.index(flag) + 1])]
        train(flags(inputs, folder / "run", "--max_steps", "2", *extra), **extensions)

    def write_tiny(argv: list[str], **extensions: Any) -> None:
        rows = ["--input_file", str(visits), "--output_file", str(folder / "notes.csv"), "--max_new_tokens", "4"]
        if not (folder / "run").exists():
            train_tiny([])
        write(["--run", str(folder / "run"), *rows], **extensions)

    monkeypatch.setattr(train_loop, "main", train_tiny)
    monkeypatch.setattr(infer, "main", write_tiny)
    scope: dict[str, Any] = {}
    exec(EXAMPLES[title], scope)
    return scope


@pytest.mark.parametrize("title", EXAMPLES)
def test_each_example_runs_as_printed(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES[title].splitlines()) <= 25
    run_example(title, tmp_path, monkeypatch)
    steps = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    if title == "A hook on the model":
        assert capsys.readouterr().out.count("mlp: largest activation") >= 4  # two layers, two updates
    if title in ("Another prompt", "Another decoding rule"):
        assert (tmp_path / "notes.csv").read_text().startswith("id,section_header,note")


def test_there_is_one_example_for_each_argument() -> None:
    assert list(EXAMPLES) == [
        "Another objective",
        "Another collator",
        "Objective and collator together",
        "Another optimiser",
        "Another prompt",
        "A hook on the model",
        "Another attention function",
        "Another decoding rule",
    ]


def _defined(title: str, name: str) -> Any:
    lines = EXAMPLES[title].rstrip().splitlines()
    scope: dict[str, Any] = {}
    exec("\n".join(line for line in lines if not line.startswith(("train_loop.main(", "infer.main("))), scope)
    return scope[name]


def _rows(*lengths: int) -> list[Example]:
    return [
        Example(
            id=str(length),
            input_ids=tuple(range(1, length + 1)),
            targets=(*[-100] * (length - 2), 7, -100),
            num_prompt_tokens=length - 1,
            num_turns_dropped=0,
        )
        for length in lengths
    ]


def test_the_other_loss_is_the_notes_loss_plus_its_penalty() -> None:
    z_loss = _defined("Another objective", "z_loss")
    torch.manual_seed(0)
    hidden_BTH, head_VH = torch.randn(1, 4, 8, requires_grad=True), torch.randn(16, 8)
    targets_BT = torch.tensor([[-100, 3, 5, -100]])
    logits_NV = hidden_BTH[0, 1:3] @ head_VH.T
    expected = note_nll(hidden_BTH, targets_BT, head_VH) + 1e-4 * logits_NV.logsumexp(-1).square().sum()
    found = z_loss(hidden_BTH, targets_BT, head_VH, softcap=None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert hidden_BTH.grad is not None and not hidden_BTH.grad[0, 0].any() and hidden_BTH.grad[0, 1].any()


def test_unsupported_tokens_are_marked_and_made_unlikely() -> None:
    title = "Objective and collator together"
    mark, unlikelihood = _defined(title, "mark_unsupported"), _defined(title, "unlikelihood")
    row = Example(  # a prompt of two tokens, a note of three, of which the second is unsupported, and the stop token
        id="1", input_ids=(1, 2, 7, 8, 9, 3), targets=(-100, 7, -100, 9, 3, -100), num_prompt_tokens=2,
        num_turns_dropped=0,
    )  # fmt: skip
    (batch,) = mark([row], batch_size=1, pack_tokens=0, pad_token_id=0)
    assert batch.targets_BT.tolist() == [[-100, 7, -1008, 9, 3, -100]]
    torch.manual_seed(0)
    hidden_BTH, head_VH = torch.randn(1, 6, 8), torch.randn(16, 8)
    log_probs_TV = (hidden_BTH[0] @ head_VH.T).log_softmax(-1)
    likely = -(log_probs_TV[1, 7] + log_probs_TV[3, 9] + log_probs_TV[4, 3])
    expected = likely - (1 - log_probs_TV[2, 8].exp()).log()
    assert unlikelihood(hidden_BTH, batch.targets_BT, head_VH).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_other_collator_keeps_every_row_and_every_target() -> None:
    by_length, rows = _defined("Another collator", "by_length"), _rows(9, 3, 7, 5, 4)
    settings = {"batch_size": 1, "pack_tokens": 64, "pad_token_id": 0}
    found = by_length(rows, **settings)
    assert [batch.ids for batch in found] == [("3", "4", "5", "7"), ("9",)]
    assert sum(batch.num_targets for batch in found) == sum(b.num_targets for b in split_window(rows, **settings))
