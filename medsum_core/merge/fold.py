"""The adapter folded into its 16-bit base, behind a gate: do the merged files still say what base and adapter say?

    python -m medsum_core.merge --run DIR --output_dir OUT [--num_prompts N --input_file F.csv]

Never into 4 bits: the sum would have to be quantised anew, which changes the model by far more than the merge does. A
run over an NF4 base is merged into the same base unquantised. What the gate compares, and its bounds: `merge_gate.py`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.config.run_folder import ADAPTER_FOLDER, read_run_config
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.records import read_records
from medsum_core.data.truncation import prompt_within
from medsum_core.device import find_device
from medsum_core.errors import InputError, run_as_script
from medsum_core.merge.parity import MAX_PROMPTS, Parity, ParityError, Reading, compare, read_notes
from medsum_core.model.adapter_files import load_adapter
from medsum_core.model.base import load_base, load_config, load_tokenizer
from medsum_core.quiet_libraries import quiet_libraries

REASON_4BIT = (
    "an adapter is merged into 16-bit weights only: a sum kept in 4 bits would be quantised anew, and that changes the "
    "model by more than the merge does"
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Raises InputError for input that can't be merged (nothing written), ParityError at the gate."""
    args = _parse(argv)
    if args.load_in_4bit:
        raise InputError(f"--load_in_4bit: {REASON_4BIT}; leave the flag out")
    if not 1 <= args.num_prompts <= MAX_PROMPTS:
        raise InputError(f"--num_prompts {args.num_prompts}: from 1 to {MAX_PROMPTS}")
    output = Path(args.output_dir)
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise InputError(f"--output_dir {output}: exists and is not an empty folder; name another")
    config = read_run_config(args.run)
    sample = files("medsum_core") / "data" / "sample" / "demo_valid.csv"
    records = read_records(args.input_file or str(sample), require_note=False)[: args.num_prompts]
    name, data = config.model.model_name_or_path, config.data
    source: dict[str, Any] = {
        "revision": config.model.model_revision,
        "offline": args.offline or config.model.offline,
    }
    refuse_quantised(name, load_config(name, **source))
    renderer = build_renderer(load_tokenizer(name, **source), style=data.prompt_style)
    budget = data.max_length - data.max_new_tokens
    prompts = [prompt_within(one, renderer, max_prompt_tokens=budget).ids for one in records]
    base = load_base(name, precision="bf16", device=find_device().torch_device, **source)
    model = load_adapter(base, Path(args.run) / ADAPTER_FOLDER, base_name=name, keep_dense=False)
    readings = read_notes(model, prompts, renderer)
    merged = fold(model)
    parity = save_behind_gate(merged, readings, output, renderer=renderer, max_new_tokens=data.max_new_tokens)
    print(parity.line())
    if config.model.load_in_4bit:
        print("the run trained over this base in 4 bits; the merged model holds it, and was compared with it, in bf16")
    print(f"merged model in {output}")


def refuse_quantised(name: str, config: Any) -> None:
    """Raise InputError for a base whose own files are quantised."""
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{name}: this base is itself quantised; {REASON_4BIT}")


def fold(model: PeftModel) -> PreTrainedModel:
    """W + s B A by PEFT: summed in fp32, rounded once to the base's dtype. The base is changed, the adapter taken out.

    Raises InputError for weights in 4 bits.
    """
    if any(hasattr(parameter, "quant_state") for parameter in model.parameters()):
        raise InputError(REASON_4BIT)
    # safe_merge would round s B A to bf16 before the sum, and the sum again.
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=False)
    return merged.eval()


def save_behind_gate(
    merged: PreTrainedModel,
    readings: Sequence[Reading],
    output: Path,
    *,
    renderer: PromptRenderer,
    max_new_tokens: int,
) -> Parity:
    """Write the folder beside its place, compare the model that is in it, and only then rename it.

    It holds bf16 safetensors, the tokenizer with its chat template, and a generation configuration that ends notes
    where this project does. Private to its owner: weights can remember what they were trained on. `merged` ends on the
    CPU. Raises ParityError beyond the gate's bounds, InputError if the system refuses to write; nothing stays then.
    """
    device, draft = merged.device, None
    nn.Module.to(merged, "cpu")  # a small card has no room for it and for the one that is read back
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
        _save(merged, draft, renderer=renderer, max_new_tokens=max_new_tokens)
        parity = compare(load_base(str(draft), precision="bf16", offline=True, device=device), readings)
        if not parity.holds:
            raise ParityError(f"{parity.line()}; the merged model is not what base and adapter are, so it was removed")
        with suppress(FileNotFoundError):
            output.rmdir()  # an empty folder may stand in the place
        os.rename(draft, output)
    except OSError as error:
        raise InputError(f"--output_dir {output}: can't be written ({error.strerror or error})") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return parity


def _save(merged: PreTrainedModel, folder: Path, *, renderer: PromptRenderer, max_new_tokens: int) -> None:
    merged.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=list(renderer.stop_token_ids),
        pad_token_id=renderer.pad_token_id,
    )
    with quiet_libraries():
        merged.save_pretrained(folder)
        renderer.tokenizer.save_pretrained(folder)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m medsum_core.merge", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the run whose adapter is merged")
    parser.add_argument("--output_dir", required=True, metavar="OUT", help="a new folder, or an empty one")
    parser.add_argument("--num_prompts", type=int, default=4, metavar="N", help="prompts of the gate (%(default)s)")
    parser.add_argument("--input_file", metavar="F", help="CSV or JSONL with their dialogues (default: the sample)")
    parser.add_argument("--load_in_4bit", action="store_true", help="refused: merging is for 16-bit weights")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_as_script(main))
