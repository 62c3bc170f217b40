"""The command line of `python -m medsum_core.merge`: known to be right before torch is imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from medsum_core.config.arguments import OFFLINE_HELP
from medsum_core.config.home_folder import PathParser
from medsum_core.errors import InputError

MAX_PROMPTS = 64  # their logits stay in memory: 34 MB a prompt for a vocabulary of 256,000
REASON_4BIT = (
    "an adapter is merged into 16-bit weights only: a sum kept in 4 bits would be quantised anew, and that changes the "
    "model by more than the merge does"
)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags. Raises InputError for values that no merge has."""
    parser = PathParser(
        prog="python -m medsum_core.merge",
        description="Merge a run's adapter into its 16-bit base; the result is kept only if it gives the same outputs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", required=True, metavar="DIR", help="the run whose adapter is merged; or a checkpoint, or an adapter"
    )
    parser.add_argument("--model_name_or_path", metavar="NAME", help="path of the run's base, if it was moved")
    parser.add_argument("--output_dir", required=True, metavar="OUT", help="a new folder, or an empty one")
    parser.add_argument(
        "--num_prompts", type=int, default=4, metavar="N", help="prompts to compare on (default: %(default)s)"
    )
    parser.add_argument(
        "--input_file", metavar="F", help="their dialogues: CSV, TSV, JSONL or JSON (default: the sample)"
    )
    parser.add_argument(
        "--base", metavar="NAME", help="the same model in 16 bits, where the files of the run's base are in 4 bits"
    )
    parser.add_argument("--load_in_4bit", action="store_true", help="refused: merging is for 16-bit weights")
    parser.add_argument(
        "--allow_other_base", action="store_true", help="merge into a base whose files are not those of the training"
    )
    parser.add_argument("--offline", action="store_true", help=OFFLINE_HELP)
    args = parser.parse_args(argv)
    if args.load_in_4bit:
        raise InputError(f"--load_in_4bit: {REASON_4BIT}; leave the flag out")
    if not 1 <= args.num_prompts <= MAX_PROMPTS:
        raise InputError(f"--num_prompts {args.num_prompts}: from 1 to {MAX_PROMPTS}")
    return args
