"""Merge a run's adapter into its 16-bit base; the result is saved only if it computes what base and adapter compute.

    python -m medsum_core.merge --run DIR --output_dir OUT [--num_prompts N --input_file F.csv]

A run over an NF4 base is merged into the same base, unquantised. What is compared, and the bounds: `parity.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from medsum_core.process import send_nothing_unasked

if __name__ == "__main__":
    send_nothing_unasked()  # before the libraries are imported

from medsum_core.config.run_folder import ADAPTER_FOLDER, FolderLock, read_run_config
from medsum_core.data.prompt import build_renderer
from medsum_core.data.records import read_records
from medsum_core.data.truncation import prompt_within
from medsum_core.device import find_device
from medsum_core.errors import InputError, run_as_script
from medsum_core.merge.fold import REASON_4BIT, fold, lock_path, refuse_quantised, save_if_equal
from medsum_core.merge.parity import MAX_PROMPTS, note_logits
from medsum_core.model.adapter_files import load_adapter
from medsum_core.model.base import load_base, load_config, load_tokenizer
from medsum_core.model.recorded_files import base_files, check_run

MEMORY_REMEDY = "on a CPU (CUDA_VISIBLE_DEVICES= in the environment) the merge needs no GPU; nothing was written"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Raises InputError for input that can't be merged, ParityError for a merge that failed.

    Nothing is written in either case.
    """
    args = _parse(argv)
    if args.load_in_4bit:
        raise InputError(f"--load_in_4bit: {REASON_4BIT}; leave the flag out")
    if not 1 <= args.num_prompts <= MAX_PROMPTS:
        raise InputError(f"--num_prompts {args.num_prompts}: from 1 to {MAX_PROMPTS}")
    output = Path(args.output_dir)
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        if lock_path(output).exists():  # of one at work, or of one that was killed when all but this was done
            with FolderLock() as lock:
                lock.take(output, lock_file=lock_path(output))
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
    check_run(args.run, base_files(name, **source), base_name=name, allow_other_base=args.allow_other_base)
    renderer = build_renderer(load_tokenizer(name, **source), style=data.prompt_style)
    prompts = [prompt_within(one, renderer, max_prompt_tokens=data.max_prompt_tokens).ids for one in records]
    base = load_base(name, precision="bf16", device=find_device().torch_device, **source)
    model = load_adapter(base, Path(args.run) / ADAPTER_FOLDER, base_name=name)
    expected = note_logits(model, prompts, renderer)
    merged = fold(model)
    parity = save_if_equal(merged, expected, output, renderer=renderer, max_new_tokens=data.max_new_tokens)
    print(parity.line())
    if config.model.load_in_4bit:
        print("the run trained over this base in 4 bits; the merged model holds it, and was compared with it, in bf16")
    print(f"merged model in {output}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m medsum_core.merge", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the run whose adapter is merged")
    parser.add_argument("--output_dir", required=True, metavar="OUT", help="a new folder, or an empty one")
    parser.add_argument("--num_prompts", type=int, default=4, metavar="N", help="prompts to compare on (%(default)s)")
    parser.add_argument("--input_file", metavar="F", help="CSV or JSONL with their dialogues (default: the sample)")
    parser.add_argument("--load_in_4bit", action="store_true", help="refused: merging is for 16-bit weights")
    parser.add_argument(
        "--allow_other_base", action="store_true", help="merge into a base whose files are not those of the training"
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(run_as_script(main, memory_remedy=MEMORY_REMEDY))
