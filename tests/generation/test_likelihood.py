"""Options by likelihood: equal to sums of log-probabilities taken by hand from plain forward passes of the model."""

from __future__ import annotations

import pytest
import torch
from support import tiny_model, tiny_tokenizer

from medsum_core.data.prompt import build_renderer
from medsum_core.errors import InputError
from medsum_core.generation.likelihood import likeliest_options, option_ids, option_log_probs
from medsum_core.kernels import choose
from medsum_core.tasks.find import find_task

PROMPTS = [[2, 30, 31, 32], [2, 40, 41], [2, 50, 51, 52, 53, 54]]


def by_hand(model: torch.nn.Module, prompt: list[int], option: tuple[int, ...]) -> float:
    ids = torch.tensor([[*prompt, *option]])
    with torch.no_grad():
        log_probs_TV = model(ids, use_cache=False).logits[0].float().log_softmax(-1)
    return sum(log_probs_TV[len(prompt) - 1 + place, token].item() for place, token in enumerate(option))


@pytest.mark.parametrize("kernels", ["reference", "fast"])
@pytest.mark.parametrize("kind", ["gemma", "gemma2", "llama"])
@pytest.mark.parametrize(
    "options", [[(60,), (61,), (62,)], [(60, 61, 62), (60, 61, 63), (70,), (71, 60)]], ids=["one token", "several"]
)
def test_log_probabilities_are_sums_by_hand(kind: str, kernels: str, options: list[tuple[int, ...]]) -> None:
    model = tiny_model(kind)
    found = option_log_probs(model, PROMPTS, options, decoder=choose(kernels, "cpu").decoder)
    for prompt, row in zip(PROMPTS, found, strict=True):
        assert row == pytest.approx([by_hand(model, prompt, option) for option in options], abs=2e-5)


def test_options_of_one_token_share_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma")
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **more: (calls.append(1), forward(*args, **more))[1])
    option_log_probs(model, PROMPTS, [(60,), (61,), (62,)])
    assert len(calls) == 1


def test_the_likeliest_option_is_named_and_other_tasks_have_none() -> None:
    model, renderer = tiny_model("gemma"), build_renderer(tiny_tokenizer(), task=find_task("pubmedqa"))
    options, ids = ("yes", "no", "maybe"), option_ids(renderer)
    wanted = []
    for prompt in PROMPTS:
        values = [by_hand(model, prompt, option) for option in ids]
        wanted.append(options[values.index(max(values))])
    assert likeliest_options(model, renderer, PROMPTS) == wanted
    for task in ("section", "section-with-header"):
        assert likeliest_options(model, build_renderer(tiny_tokenizer(), task=find_task(task)), PROMPTS) == []


def test_a_tokenizer_that_joins_an_option_with_what_follows_is_refused() -> None:
    """The tokens that are scored would not be those with which a trained answer begins."""
    renderer = build_renderer(tiny_tokenizer(), task=find_task("pubmedqa"))

    class Joining:
        task = renderer.task
        text_ids = renderer.text_ids

        def note_ids(self, note: str) -> list[int]:
            return [5, *renderer.note_ids(note)]

    with pytest.raises(InputError, match="joins an option with what follows"):
        option_ids(Joining())  # type: ignore[arg-type]
