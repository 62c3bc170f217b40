"""The table of examples/models.md: each family's loss, gradient and notes against transformers' own, or its refusal.

python tests/helpers/family_table.py        # prints the table
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from decoding_models import reference
from families import FAMILIES, VOCAB, Family, without_timm
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM
from windows import make_example, make_run, randomise_adapter, relative

from medsum_core.errors import InputError
from medsum_core.generation.generate import generate
from medsum_core.kernels import choose
from medsum_core.model.attention import OWN_ATTENTION
from medsum_core.model.base import load_base, load_config
from medsum_core.model.families import CACHED_MODEL_TYPES
from medsum_core.model.lora import LoraSettings, attach_lora, fit_to, trainable_parameters
from medsum_core.quiet_libraries import quiet_libraries
from medsum_core.training.family_check import check_family
from medsum_core.training.memory import measure_model
from train_loop import train_step

HEAD = ("family", "adapter on, by `auto`", "fp32", "NF4", "notes by")
EQUAL, LIKEWISE = "equal", "likewise"
LOSS_BOUND, GRADIENT_BOUND = 1e-5, 3e-5  # relative, fp32
ROWS = [make_example(13, 5, seed=1, vocab=96), make_example(9, 7, seed=2, vocab=96)]
SETTINGS = LoraSettings(r=4, dropout=0.0, target_modules=("auto",))
STOP, NUM_NEW = 5, 6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a family in fp32 or NF4: `equal`, the refusal's text, or what differs."""

    text: str
    targets: tuple[str, ...] = ()


def make_folder(family: Family, folder: Path) -> Path:
    """A model folder of the family with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family.config())
    with quiet_libraries():
        model.save_pretrained(folder)
    return folder


def outcomes(folder: Path) -> tuple[Outcome, Outcome]:
    """The family as a run takes it, in fp32 and in NF4: first the plan, which is the same for both."""
    try:
        measure_model(load_config(str(folder)), SETTINGS, precision="fp32", kernels="reference")
    except InputError as refusal:
        return _refused(refusal, folder), _refused(refusal, folder)
    return _outcome(folder, in_4bit=False), _outcome(folder, in_4bit=True)


def _outcome(folder: Path, *, in_4bit: bool) -> Outcome:
    """From loading to the check at start; then compared with transformers' own."""
    try:
        base = load_base(str(folder), precision="fp32", load_in_4bit=in_4bit)
        settings = fit_to(base, SETTINGS)
        model = randomise_adapter(attach_lora(base, settings, base_name="tiny"))
        check_family(model, ROWS, kernels=choose("reference"), attention=OWN_ATTENTION)
    except InputError as refusal:
        return _refused(refusal, folder)
    differences = [*_trained_differently(model), *_written_differently(model)]
    return Outcome(text="; ".join(differences) or EQUAL, targets=settings.target_modules)


def _refused(refusal: InputError, folder: Path) -> Outcome:
    return Outcome(text=f"refused: {refusal}".replace(f" {folder}", "").replace("\n", " "))


def row(family: Family, folder: Path) -> str:
    """The family's line of the table."""
    with without_timm():
        make_folder(family, folder)
        fp32, nf4 = outcomes(folder)
    decodes = "our cache, packed" if family.text_type in CACHED_MODEL_TYPES else "its own cache, one by one"
    if EQUAL not in (fp32.text, nf4.text):
        decodes = "-"
    second = LIKEWISE if nf4.text == fp32.text != EQUAL else nf4.text
    cells = (family.name, " ".join(fp32.targets or nf4.targets) or "-", fp32.text, second, decodes)
    return f"| {' | '.join(cells)} |"


def _trained_differently(model: PeftModel) -> list[str]:
    """Loss and gradient of a window of two rows, against transformers' own loss of each row alone."""
    model.train()
    parameters = [parameter for _, parameter in trainable_parameters(model)]
    num_targets = sum(example.num_targets for example in ROWS)
    total = torch.zeros(())
    for example in ROWS:
        ids = torch.tensor([example.input_ids])
        labels = ids.clone()
        labels[:, : example.num_prompt_tokens] = -100
        mean = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss
        total = total + mean * example.num_targets / num_targets
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    run = make_run(model, batch_size=2, kernels="reference", attention=OWN_ATTENTION)
    found = train_step(run, ROWS, learning_rate=0.0)
    optimizer: Any = run.optimizer
    pairs = list(zip(optimizer.gradients, expected, strict=True))
    never = [
        name for (name, _), gradient in zip(trainable_parameters(model), expected, strict=True) if gradient is None
    ]
    differences = [f"{len(never)} adapter tensors never train, such as {never[0]}"] if never else []
    if abs(found.loss - total.item()) > LOSS_BOUND * total.item():
        differences.append(f"loss {found.loss:.6f} instead of {total.item():.6f}")
    error = relative([ours for ours, _ in pairs], [_or_zero(theirs, ours) for ours, theirs in pairs])
    return differences + ([f"gradient off by {error:.1e}"] if error > GRADIENT_BOUND else [])


def _written_differently(model: PeftModel) -> list[str]:
    """Greedy notes and those of two beams, two prompts at a time, against transformers' `generate` of each alone."""
    chance = random.Random(0)
    prompts = [[2, *(chance.randrange(8, VOCAB) for _ in range(length))] for length in (12, 3)]
    causal: Any = model.eval().get_base_model()
    differences = []
    for num_beams in (1, 2):
        found = generate(model, prompts, stop_token_ids=(STOP,), max_new_tokens=NUM_NEW, num_beams=num_beams)
        for prompt, note in zip(prompts, found, strict=True):
            theirs = reference(causal, prompt, stops=(STOP,), max_new_tokens=NUM_NEW, num_beams=num_beams)
            if note.token_ids != theirs.token_ids:
                differences.append(f"another note with {num_beams} beams")
    return differences


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def main() -> None:
    """Print the table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(family, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
