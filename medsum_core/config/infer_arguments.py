"""The command line of `infer.py`: its flags, and which of them may be combined."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from medsum_core.config.arguments import OFFLINE_HELP
from medsum_core.config.column_flags import COLUMN_FLAGS, add_column_flags
from medsum_core.config.home_folder import PathParser
from medsum_core.config.validation import template_kwargs_problems
from medsum_core.errors import InputError, raise_all

BATCH_HELP = "notes being written at a time; auto (default): 16 on a CPU, on a GPU as many as fit, at most 128"
BEAMS_HELP = "width of beam search (default: 1, greedy decoding)"
PENALTY_HELP = "beam search: a beam's score is its log-probability / tokens to this power (default: 1)"
LONGEST_HELP = "longest note, in tokens (default: the run's --max_new_tokens)"
REPEAT_HELP = "no sequence of N tokens occurs twice in a note; 0: no rule (default: the run's)"
KERNELS_HELP = "as in training (default: auto)"
DECODING_KERNELS = ("auto", "reference", "fast", "graphs")  # triton decodes as fast does
PRECISION_HELP = "number format of the computation (default: the run's)"


class Parser(PathParser):
    """A parser whose errors are InputError."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def batch_size(text: str) -> int | None:
    """A number, or None for `auto`, as `argparse` wants it."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def parse_options(argv: list[str]) -> argparse.Namespace:
    """Parse the flags. Raises InputError for wrong ones, and for combinations that are not allowed."""
    parser = Parser(description="Write notes with a tuned model, to a file or to the screen.", allow_abbrev=False)
    _add_input_flags(parser)
    parser.add_argument("--output_file", metavar="FILE", help="notes of --input_file or --dataset_name")
    parser.add_argument(
        "--output_format",
        choices=["csv", "mediqa"],
        default="csv",
        help="mediqa: MEDIQA-Chat's submission format (default: csv)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted --output_file: keep the notes that are finished"
    )
    parser.add_argument(
        "--evidence", action="store_true", help="add, for each sentence of a note, the turns that support it best"
    )
    parser.add_argument(
        "--grounded",
        action="store_true",
        help="write no fact that the source text does not support (default: as in the run)",
    )
    parser.add_argument("--num_beams", type=int, default=1, metavar="N", help=BEAMS_HELP)
    parser.add_argument("--length_penalty", type=float, default=1.0, metavar="X", help=PENALTY_HELP)
    parser.add_argument("--max_new_tokens", type=int, metavar="N", help=LONGEST_HELP)
    parser.add_argument("--no_repeat_ngram_size", type=int, metavar="N", help=REPEAT_HELP)
    parser.add_argument(
        "--prompt_style", choices=["auto", "chat", "plain"], help="as in train_loop.py, for a base without adapter"
    )
    parser.add_argument(
        "--chat_template_kwargs", metavar="JSON", help="as in train_loop.py, for a base without adapter"
    )
    parser.add_argument("--batch_size", type=batch_size, metavar="N", help=BATCH_HELP)
    parser.add_argument("--kernels", choices=DECODING_KERNELS, default="auto", help=KERNELS_HELP)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], help=PRECISION_HELP)
    parser.add_argument(
        "--allow_other_base", action="store_true", help="use a base whose files are not those of the run's training"
    )
    parser.add_argument("--offline", action="store_true", help=OFFLINE_HELP)
    args = parser.parse_args(argv)
    raise_all(_problems(args))
    return args


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    """Model and rows."""
    parser.add_argument(
        "--run", metavar="DIR", help="run folder: base, adapter, prompt and lengths; or a checkpoint, or an adapter"
    )
    parser.add_argument(
        "--model_name_or_path",
        metavar="NAME",
        help="a base without adapter: hub id, folder, embedded:gemma3-270m; with --run: the present path of its base",
    )
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--input_file", metavar="FILE", help="CSV, TSV, JSONL or JSON (also .gz) with dialogues")
    rows.add_argument("--dataset_name", metavar="NAME", help="a data set by name (examples/data.md), with --split")
    rows.add_argument(
        "--dialogue_file",
        metavar="FILE|-",
        help="text of one dialogue (-: standard input), its note goes to the screen; with --section",
    )
    parser.add_argument(
        "--dataset_config_name", metavar="NAME", help="configuration of --dataset_name (default: the run's)"
    )
    parser.add_argument("--split", metavar="NAME", help="split of --dataset_name, such as valid, test or test1")
    add_column_flags(parser)  # --section is that of --dialogue_file too


def _problems(args: argparse.Namespace) -> list[str]:
    """Flags that do not go together, and values out of range."""
    of_dialogue = ("section", "task")
    about_files = [name for name in COLUMN_FLAGS if name not in of_dialogue or args.dialogue_file is None]
    columns = [f"--{name}" for name in about_files if getattr(args, name) is not None]
    problems = {
        "--run names a run, or --model_name_or_path a base: give one": args.run is None
        and args.model_name_or_path is None,
        f"{', '.join(columns)}: about the columns of a file: give --input_file or --dataset_name": bool(columns)
        and args.dialogue_file is not None,
        "--dataset_config_name is a choice within --dataset_name: give it": args.dataset_config_name is not None
        and args.dataset_name is None,
        "--split names the part of --dataset_name: give both": (args.split is None) != (args.dataset_name is None),
        "--output_file is where the notes of a file go: give it": args.dialogue_file is None and not args.output_file,
        "--output_file, --output_format, --resume: of a file of notes; --dialogue_file writes to the screen": (
            args.dialogue_file is not None
            and (args.output_file is not None or args.output_format != "csv" or args.resume)
        ),
        "--evidence: a submission (--output_format mediqa) has no column for it: leave one of them out": (
            args.evidence and args.output_format == "mediqa"
        ),
        "--allow_other_base is about the base of --run: give both": args.allow_other_base and args.run is None,
        "--prompt_style is for --model_name_or_path: a run has that of its training": (
            args.prompt_style is not None and args.run is not None
        ),
        "--task is for --model_name_or_path: a run has that of its training": (
            args.task is not None and args.run is not None
        ),
        "--chat_template_kwargs is for --model_name_or_path: a run has those of its training": (
            args.chat_template_kwargs is not None and args.run is not None
        ),
    }
    wrong = [text for text, is_wrong in problems.items() if is_wrong]
    return wrong + decoding_problems(args) + template_kwargs_problems(args.chat_template_kwargs)


def decoding_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the flags that say how notes are decoded; the server's are the same."""
    counts = (args.num_beams, args.batch_size, args.max_new_tokens)
    problems = {
        "--num_beams, --batch_size and --max_new_tokens must be at least 1": any(
            count is not None and count < 1 for count in counts
        ),
        "--length_penalty must be a finite number": not math.isfinite(args.length_penalty),
        "--length_penalty belongs to beam search: give --num_beams": args.length_penalty != 1 and args.num_beams == 1,
        "--no_repeat_ngram_size must be at least 0": (args.no_repeat_ngram_size or 0) < 0,
    }
    return [text for text, is_wrong in problems.items() if is_wrong]
