"""The command line of the server: its flags, and which of them go together."""

from __future__ import annotations

import argparse
import ipaddress
import math
import re

from medsum_core.config.infer_arguments import (
    BATCH_HELP,
    BEAMS_HELP,
    DECODING_KERNELS,
    KERNELS_HELP,
    LONGEST_HELP,
    PENALTY_HELP,
    PRECISION_HELP,
    REPEAT_HELP,
    Parser,
    batch_size,
    decoding_problems,
)
from medsum_core.errors import raise_all

ANY_HOST = ("0.0.0.0", "::")


class _Parser(Parser):
    def flag(self, name: str, help: str, **how: object) -> None:
        """Add a flag; its name may also be written with hyphens, as other servers' flags are."""
        names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        self.add_argument(*names, help=help, **how)  # type: ignore[arg-type]


def parse_options(argv: list[str]) -> argparse.Namespace:
    """The flags. Raises InputError for wrong ones, and for those that do not go together."""
    parser = _Parser(
        prog="python -m medsum_core.server",
        description="Serve a run's notes on this machine, with a page to review them (examples/serve.md).",
        allow_abbrev=False,
    )
    parser.flag("run", "run folder, checkpoint or adapter", required=True, metavar="DIR")
    parser.flag("model_name_or_path", "the present path of the run's base, if it was moved", metavar="NAME")
    parser.flag("host", "address to listen on (default: 127.0.0.1); others need --token_file", default="127.0.0.1")
    parser.flag("port", "port to listen on; 0: any free one (default: 8000)", type=int, default=8000, metavar="N")
    parser.flag("token_file", "clients that are accepted: a line `name:token` or `token` each", metavar="FILE")
    allowed = "a name by which clients reach the server; repeat the flag for several"
    parser.flag("allowed_host", allowed, action="append", metavar="HOST")
    parser.flag(
        "audit_file",
        "log of requests and actions, without text (default: server_audit.jsonl in the run folder)",
        metavar="FILE",
    )
    parser.flag(
        "compare", "add the page /compare, base against tuned, blinded; needs twice the cache", action="store_true"
    )
    parser.flag("batch_size", f"{BATCH_HELP}; the cache is allocated for them", type=batch_size, metavar="N")
    parser.flag(
        "max_waiting",
        "notes that may wait; more are refused with status 429 (default: 64)",
        type=int,
        default=64,
        metavar="N",
    )
    parser.flag(
        "stop_seconds",
        "seconds that running requests have to finish when the server stops (default: 30)",
        type=float,
        default=30.0,
    )
    parser.flag(
        "grounded", "write no fact that the source text does not support (default: as in the run)", action="store_true"
    )
    parser.flag("num_beams", f"{BEAMS_HELP}; only greedy streams token by token", type=int, default=1, metavar="N")
    parser.flag("length_penalty", PENALTY_HELP, type=float, default=1.0, metavar="X")
    parser.flag("max_new_tokens", LONGEST_HELP, type=int, metavar="N")
    parser.flag("no_repeat_ngram_size", REPEAT_HELP, type=int, metavar="N")
    parser.flag("kernels", KERNELS_HELP, choices=DECODING_KERNELS, default="auto")
    parser.flag("precision", PRECISION_HELP, choices=["auto", "fp32", "bf16", "fp16"])
    parser.flag("allow_other_base", "use a base whose files are not those of the training", action="store_true")
    parser.flag("offline", "never use the network to load; what is not on disk is an error", action="store_true")
    args = parser.parse_args(argv)
    raise_all(_problems(args))
    return args


def is_loopback(host: str) -> bool:
    """Whether the address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_host(name: str) -> bool:
    """Whether it is a name or an address alone: the port of a Host header is not compared."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return re.fullmatch(r"[^\s/:@\[\]]+", name) is not None


def _problems(args: argparse.Namespace) -> list[str]:
    problems = {
        f"--host {args.host}: other machines reach it, so say who may ask with --token_file (and put TLS before it, "
        "examples/serve.md)": not is_loopback(args.host) and args.token_file is None,
        f"--host {args.host}: name the host by which clients reach it with --allowed_host": (
            args.host in ANY_HOST and not args.allowed_host
        ),
        "--allowed_host: a host's name or address alone, without https:// and without a port": not all(
            map(_is_host, args.allowed_host or ())
        ),
        "--port must be from 0 to 65535": not 0 <= args.port <= 65535,
        "--max_waiting must be at least 20, the sections of one request": args.max_waiting < 20,
        "--stop_seconds must be at least 0, and finite": not 0 <= args.stop_seconds < math.inf,
    }
    return [text for text, is_wrong in problems.items() if is_wrong] + decoding_problems(args)
