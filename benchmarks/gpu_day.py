"""All measurements of examples/gpu.md on a GPU by one command, in at most 9 minutes.

    python benchmarks/gpu_day.py                     # everything; needs a GPU, and 6 GB of disk in --folder
    python benchmarks/gpu_day.py --quick             # at most 4 minutes, for a T4 or an RTX card
    python benchmarks/gpu_day.py --with_trl          # TRL's steady windows too, where trl is installed, in what is left
    python benchmarks/gpu_day.py --table             # write the table of examples/gpu.md from benchmarks/figures/
    python benchmarks/gpu_day.py --device cpu --tiny --figures FOLDER              # to try the script

Nothing is downloaded. The figures go to benchmarks/figures/CARD-DATE-COMMIT.json, rewritten after each section.
A section that fails is recorded by the type of its error, one for which no time was left as "NoTimeLeft"; the others
run all the same. Send us the file of your card: the table is made from these files alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "benchmarks")]

from gpu_day_sections import Day, Section, attempt, sections  # noqa: E402 - a bare machine has nothing installed
from gpu_day_table import write_table  # noqa: E402

FIGURES = ROOT / "benchmarks" / "figures"
PAGE = ROOT / "examples" / "gpu.md"
GPU_TESTS = ("tests/whole/test_cuda.py", "tests/whole/test_cuda_runs.py")
LIMIT_SECONDS, QUICK_LIMIT_SECONDS = (
    530,
    230,
)  # of all sections together, so that the whole takes less than 9 and 4 minutes
MIN_SECONDS = 10  # with less left no process is started

Run = Callable[[str, argparse.Namespace, float], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or write the table."""
    options = parse(argv)
    if options.table:
        write_table(PAGE, FIGURES)
    elif options.section:
        print(json.dumps(in_this_process(options.section, options, 0)))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            options.folder = options.folder or Path(scratch)
            path = measure(options, command=["benchmarks/gpu_day.py", *(sys.argv[1:] if argv is None else argv)])
        print(f"written: {path}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter windows, 16 notes, the tests last")
    parser.add_argument("--with_trl", action="store_true", help="TRL's windows too")
    parser.add_argument("--table", action="store_true", help="write the table of examples/gpu.md, measure nothing")
    parser.add_argument("--sections", nargs="+", choices=sections(with_trl=True), metavar="NAME", help="only these")
    parser.add_argument("--folder", type=Path, help="where the model is built, for later runs too (default: temporary)")
    parser.add_argument("--figures", type=Path, help="folder for the figures (default: benchmarks/figures)")
    parser.add_argument("--tests", nargs="+", default=GPU_TESTS, metavar="FILE", help="the tests that are run")
    parser.add_argument("--commit", help="of this code, where its folder is not a git checkout")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script; needs --figures")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # of the processes that this script starts
    options = parser.parse_args(argv)
    if (options.tiny or options.device == "cpu") and not (options.figures or options.section):
        parser.error("--tiny, --device cpu: give --figures, so that they are not mixed with those of GPUs")
    options.figures = options.figures or FIGURES
    return options


def measure(options: argparse.Namespace, *, command: Sequence[str], run: Run | None = None) -> Path:
    """Run the sections in order; returns the file with the figures. `run` runs one section, by default in a process.

    Raises SystemExit where the machine can't be identified, e.g. without a GPU.
    """
    run = run or in_a_process
    deadline = time.monotonic() + (QUICK_LIMIT_SECONDS if options.quick else LIMIT_SECONDS)
    chosen = sections(with_trl=options.with_trl, quick=options.quick)
    wanted = [name for name in chosen if name in (options.sections or chosen) or name in ("machine", "model")]
    day: dict[str, Any] = {"figures": {}, "errors": {}, "seconds": {}}
    path = Path()
    for name in wanted:
        started = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = run_section(name, chosen[name], options, deadline - started, run)
        day["seconds"][name] = round(time.monotonic() - started, 1)
        day["errors" if "error" in found else "figures"][name] = found.get("error", found)
        if name == "machine":
            day = about(found, options, command) | day
            path = options.figures / file_name(day)
        write(path, day)
        print(f"{name}: {day['seconds'][name]} s {found.get('error', '')}", file=sys.stderr, flush=True)
    return path


def run_section(
    name: str, section: Section, options: argparse.Namespace, left_seconds: float, run: Run
) -> dict[str, Any]:
    """Its figures, or {"error": the error's type}."""
    if left_seconds < MIN_SECONDS:
        return {"error": "NoTimeLeft"}
    return run(name, options, min(section.seconds, left_seconds))


def in_a_process(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """A section in a new process without network, ended when its time is over; its messages go to this stderr."""
    # pytest plugins that happen to be installed would only cost time.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    given = [flag for flag in ("quick", "tiny") if getattr(options, flag)]
    command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--device", options.device]
    command += ["--folder", str(options.folder), *(f"--{flag}" for flag in given), "--tests", *options.tests]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=seconds, cwd=ROOT)
    except subprocess.TimeoutExpired as error:
        return {"error": type(error).__name__}
    if done.returncode:
        return {"error": f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_this_process(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """A section in this process; `seconds` is ignored, since the process around it enforces the limit."""
    if options.device == "cuda":
        from torch.cuda import is_available

        if not is_available():
            return {"error": "NoGpu"}
    day = Day(folder=options.folder, tests=options.tests, tiny=options.tiny, quick=options.quick)
    return attempt(lambda: sections(with_trl=True)[name].measure(day))


def about(machine: dict[str, Any], options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """The machine, date, commit and command of the figures."""
    if "error" in machine:
        remedy = "; try the script with --device cpu --tiny" if machine["error"] == "NoGpu" else ""
        raise SystemExit(f"the machine can't be identified: {machine['error']}{remedy}")
    return {
        "card": machine["card"],
        "driver": machine["driver"],
        "torch": machine["torch"],
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": options.commit or commit(),
        "command": shlex.join(["python", *command]),
        "tiny": options.tiny,
    }


def commit() -> str:
    """The commit of this code, with "-changed" where tracked files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT).returncode != 0
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit("this folder is not a git checkout: say which commit it is with --commit") from error
    return head.stdout.strip() + ("-changed" if changed else "")


def file_name(day: dict[str, Any]) -> str:
    """CARD-DATE-COMMIT.json in small letters."""
    return re.sub(r"[^a-z0-9]+", "-", f"{day['card']}-{day['date']}-{day['commit']}".lower()) + ".json"


def write(path: Path, day: dict[str, Any]) -> None:
    """Write the file atomically: it stays valid if the machine is lost meanwhile."""
    from medsum_core.files import write_text_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(day, indent=1) + "\n")


if __name__ == "__main__":
    main()
