"""Processes forked from one that has imported the libraries, for crash.py and faults.py.

Import this before torch: a process with idle threads must not be forked, so there is one thread from the start.
"""

from __future__ import annotations

import csv
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

NUM_TRAIN_ROWS = 10
HUNG_SECONDS = 300.0


def make_inputs(folder: Path, *, num_train_rows: int = NUM_TRAIN_ROWS, **shape: int) -> None:
    """A model folder with its tokenizer and two fictional data files. `shape`: overrides of the tiny model's."""
    from support import tiny_model, tiny_tokenizer

    tiny_model("gemma", **shape).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for name, count, first in (("train.csv", num_train_rows, 0), ("valid.csv", 3, 100)):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["ID", "section_header", "dialogue", "section_text"])
            for number in range(first, first + count):
                turns = [f"Doctor: Any cough on day {day}?\nPatient: No." for day in range(number % 4 + 1)]
                writer.writerow([f"r{number}", "ROS", "\n".join(turns), f"No cough on visit {number}."])


def preload() -> None:
    """Import once, before forking, what each run needs."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import rouge_score.rouge_scorer  # noqa: F401
    import torch
    from tqdm import tqdm

    import train_loop  # noqa: F401
    from medsum_core.report import finish  # noqa: F401
    from medsum_core.training import setup  # noqa: F401

    torch.set_num_threads(1)
    # A progress bar's lock is shared by forked processes: one that is killed while it holds it would stop all others.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    gc.freeze()  # a collection in a fork would copy the memory that it shares


def fork(run: Callable[[], int], log: Path) -> int:
    """Start a process that appends what it prints to `log` and exits with the code that `run` returns. Its pid.

    An exception of `run` is printed, exit code 1.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # not the parent's handlers
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = run()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def wait(pid: int, *, seconds: float | None = None, number: signal.Signals = signal.SIGKILL) -> int:
    """The exit code of a process, negative for a signal. After `seconds` it is sent the signal `number`, once."""
    started = time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() - started >= seconds:
            os.kill(pid, number)
            seconds = None
        if time.monotonic() - started > HUNG_SECONDS:
            os.kill(pid, signal.SIGABRT)  # an exit code that the checks refuse
        time.sleep(0.002)
