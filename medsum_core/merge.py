"""The adapter folded into its 16-bit base, with a gate: do the merged weights still say what base and adapter say?

`python -m medsum_core.merge --run DIR --output_dir OUT [--num_prompts N]`

Never into 4 bits: the sum would have to be quantised anew, which changes the model by far more than the merge does. A
run over an NF4 base is merged into the same base unquantised; the gate then shows the price of NF4 as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.adapter import load_adapter
from medsum_core.config import RunConfig
from medsum_core.errors import InputError, run_as_script
from medsum_core.fast_weights import fast_weights
from medsum_core.generation import generate
from medsum_core.model import load_base, load_tokenizer
from medsum_core.prompt import PromptRenderer, build_renderer
from medsum_core.run_folder import ADAPTER_FOLDER, read_run_config

GATE_NEW_TOKENS = 32
# Fictional, so that the gate needs no data; one prompt per section.
GATE_DIALOGUE = (
    "Doctor: What brings you in today?\n"
    "Patient: I have had a dry cough for about three weeks, worse at night.\n"
    "Doctor: Any fever or chest pain?\n"
    "Patient: A fever of 38.5 two days ago, no chest pain.\n"
    "Doctor: Do you take any medicine?\n"
    "Patient: Lisinopril, ten milligrams once a day."
)
GATE_SECTIONS = ("GENHX", "CC", "MEDICATIONS", "ROS", "ASSESSMENT", "PASTMEDICALHX", "ALLERGY", "PLAN")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the merged model is from base and adapter: logits at the prompts' ends, and greedy notes."""

    largest_logit_difference: float
    logit_spread: float  # standard deviation of the logits: what the difference is to be measured against
    num_prompts: int
    num_same_first_token: int
    num_same_notes: int

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"largest logit difference {self.largest_logit_difference:.3g} (logits spread {self.logit_spread:.3g})",
            f"greedy agreement: first token {self.num_same_first_token} of {self.num_prompts} prompts, "
            f"first {GATE_NEW_TOKENS} tokens {self.num_same_notes} of {self.num_prompts}",
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises InputError for a folder that is no finished run, or an output that exists."""
    parser = argparse.ArgumentParser(prog="python -m medsum_core.merge", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", required=True, metavar="DIR", help="the run whose adapter is merged")
    parser.add_argument("--output_dir", required=True, metavar="OUT", help="a new folder, or an empty one")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16"], help="of the merged weights")
    parser.add_argument("--num_prompts", type=int, default=4, help=f"prompts of the gate, up to {len(GATE_SECTIONS)}")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    options = parser.parse_args(arguments)
    if not 1 <= options.num_prompts <= len(GATE_SECTIONS):
        raise InputError(f"--num_prompts must be from 1 to {len(GATE_SECTIONS)}")
    output = Path(options.output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output_dir {output}: exists and is not an empty folder; name another")
    config, adapter = read_run_config(options.run), Path(options.run) / ADAPTER_FOLDER
    source: dict[str, Any] = {
        "revision": config.model.model_revision,
        "offline": options.offline or config.model.offline,
    }
    name = config.model.model_name_or_path
    base = load_base(name, precision=options.precision, load_in_4bit=False, **source)
    model = load_adapter(base, adapter, base_name=name, keep_dense=False)
    renderer = build_renderer(load_tokenizer(name, **source), style=config.data.prompt_style)
    merged, parity = merge(model, renderer, num_prompts=options.num_prompts)
    print("\n".join(parity.lines()))
    save_merged(merged, renderer, config, output)
    print(f"merged model in {output}")


def merge(model: PeftModel, renderer: PromptRenderer, *, num_prompts: int) -> tuple[PreTrainedModel, Parity]:
    """Fold the adapter into its base, which is changed; returns the plain model and what the gate found.

    Raises InputError for a base in 4 bits.
    """
    refuse_4bit(model)
    prompts = [renderer.prompt_ids(GATE_DIALOGUE, section) for section in GATE_SECTIONS[:num_prompts]]
    logits_before, notes_before = _probe(model, prompts, renderer)
    merged = _fold(model)
    logits_after, notes_after = _probe(merged, prompts, renderer)
    parity = Parity(
        largest_logit_difference=float((logits_after - logits_before).abs().max()),
        logit_spread=float(logits_before.std()),
        num_prompts=num_prompts,
        num_same_first_token=int((logits_after.argmax(-1) == logits_before.argmax(-1)).sum()),
        num_same_notes=sum(after == before for after, before in zip(notes_after, notes_before, strict=True)),
    )
    return merged, parity


def refuse_4bit(model: nn.Module) -> None:
    """Raise InputError if any weight is held in 4 bits."""
    if any(hasattr(parameter, "quant_state") for parameter in model.parameters()):
        raise InputError(
            "an adapter is not merged into a 4-bit base: the sum would be quantised anew; load the base in 16 bits"
        )


def save_merged(model: PreTrainedModel, renderer: PromptRenderer, config: RunConfig, output: Path) -> None:
    """Weights, tokenizer with its chat template, and a generation configuration that stops where this project stops.

    `AutoModelForCausalLM.from_pretrained(output).generate(...)` needs nothing else.
    """
    tokenizer = renderer.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=config.data.max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(renderer.stop_token_ids),
        pad_token_id=renderer.pad_token_id,
    )
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    except OSError as error:
        raise InputError(f"--output_dir {output}: can't be written ({error.strerror})") from error


def _fold(model: PeftModel) -> PreTrainedModel:
    """W + s B A, summed in fp32 and rounded once to the base's dtype; then the adapter's modules are taken out."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if any(layer.lora_variant for layer in layers):  # DoRA scales the sum's rows: PEFT's own arithmetic
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
        return merged.eval()
    with torch.no_grad():
        for layer in layers:
            weight = layer.get_base_layer().weight
            (name,) = layer.lora_A.keys()
            weight.copy_(weight.float() + layer.get_delta_weight(name).float())
    plain: PreTrainedModel = model.unload()
    return plain.eval()


def _probe(
    model: nn.Module, prompts: Sequence[Sequence[int]], renderer: PromptRenderer
) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """The logits after each prompt, (N, V) fp32, and the first tokens of each greedy note."""
    with torch.no_grad(), fast_weights(model):
        rows = [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].float() for prompt in prompts]
    notes = generate(model, prompts, stop_token_ids=renderer.stop_token_ids, max_new_tokens=GATE_NEW_TOKENS)
    return torch.stack(rows), [note.token_ids for note in notes]


if __name__ == "__main__":
    sys.exit(run_as_script(main))
