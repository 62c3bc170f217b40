"""The server under load on loopback: `python benchmarks/serve.py --run RUN --input_file VALIDATION.csv`.

Each of 1, 4 and 16 clients streams one note after the other by `/v1/chat/completions`, the same rows for each number of
clients; tokens are those of the notes' texts. `--memory 500`: so many requests by four
clients, with the server's resident memory every hundred. `--against MERGED`: `transformers serve` with the merged model
(`python -m medsum_core.merge`), without and with its continuous batching, in turns with ours and by the same calls.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from medsum_core.config.run_folder import read_run_config
from medsum_core.data.records import Record, read_records
from medsum_core.errors import InputError
from medsum_core.model.base import load_tokenizer
from medsum_core.process import run_as_script

TIMEOUT_SECONDS = 600.0  # for a server to be ready, and for an answer
Value = TypeVar("Value")
RIVAL = ("transformers", "serve")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that is ready: its address, the model's name there, the run's longest note, and its process."""

    url: str
    model: str
    longest: int
    process: psutil.Process

    @property
    def mebibytes(self) -> float:
        """The resident memory of the process and its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / (1 << 20)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A note as received; `first`, `whole`: seconds from the request to its first token and to its end."""

    text: str
    first: float
    whole: float


def main() -> None:
    """The load at each number of clients, then the memory."""
    options = parse_options()
    records = read_records(options.input_file, require_note=False)[: options.rows]
    config = read_run_config(options.run)
    tokenizer = load_tokenizer(config.model.model_name_or_path)
    longest = config.data.max_new_tokens

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    for turn in range(options.turns):
        print(f"turn {turn + 1}, load average {os.getloadavg()[0]:.1f}", flush=True)
        with our_server(options.run, longest) as server:
            measure("ours", server, records, options.clients, count)
            if turn == 0 and options.memory:
                measure_memory(server, records, options.memory)
        for name, flags in rivals(options):
            with rival(options.against, longest, flags) as server:
                measure(name, server, records, options.clients, count)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--input_file", required=True, help="dialogues with section headers")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--memory", type=int, default=0, metavar="REQUESTS")
    parser.add_argument("--against", metavar="MERGED")
    return parser.parse_args()


def rivals(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    if options.against is None:
        return []
    return [
        ("transformers", []),
        ("transformers, continuous batching", ["--continuous-batching", "--cb-max-memory-percent", "0.2"]),
    ]


@contextmanager
def our_server(run: str, longest: int) -> Iterator[Server]:
    """`python -m medsum_core.server`, with its audit log in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "medsum_core.server", "--run", run, "--port", "0"]
        with open(Path(folder) / "log", "w+") as log:
            process = subprocess.Popen([*command, "--audit_file", f"{folder}/audit.jsonl"], stderr=log)
            try:
                url = wait_until(lambda: ready_url(Path(log.name).read_text()), process)
                model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
                yield Server(url=url, model=model, longest=longest, process=psutil.Process(process.pid))
            finally:
                process.terminate()
                process.wait()


def ready_url(log: str) -> str | None:
    found = re.search(r"^ready on (\S+)$", log, re.MULTILINE)
    return found[1] if found else None


@contextmanager
def rival(merged: str, longest: int, flags: Sequence[str]) -> Iterator[Server]:
    """`transformers serve` of the merged model on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, url = str(Path(merged).resolve()), f"http://127.0.0.1:{port}"
    command = [*RIVAL, folder, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def healthy() -> bool | None:
        try:
            return httpx.get(f"{url}/health").status_code == 200 or None
        except httpx.TransportError:
            return None

    try:
        wait_until(healthy, process)
        yield Server(url=url, model=folder, longest=longest, process=psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def wait_until(find: Callable[[], Value | None], process: subprocess.Popen[bytes]) -> Value:
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if (found := find()) is not None:
            return found
        time.sleep(0.2)
    raise InputError("the server did not start")


def ask(client: httpx.Client, server: Server, record: Record) -> Answer:
    """One note, streamed, by the call that all of these servers take."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": record.source_text}],
        "stream": True,
        "max_tokens": server.longest,
        "chat_template_kwargs": {"section": record.section_header},
    }
    pieces, first, begin = [], 0.0, time.perf_counter()
    with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
            piece = choices[0].get("delta", {}).get("content") or ""
            first = first or (time.perf_counter() - begin if piece else 0.0)
            pieces.append(piece)
    return Answer(text="".join(pieces), first=first, whole=time.perf_counter() - begin)


def ask_all(server: Server, records: Sequence[Record], num_clients: int) -> list[Answer]:
    """All rows by `num_clients` clients, each of which takes the next row when its note has arrived."""
    with httpx.Client(timeout=TIMEOUT_SECONDS) as client, ThreadPoolExecutor(num_clients) as pool:
        return list(pool.map(lambda record: ask(client, server, record), records))


def measure(
    name: str, server: Server, records: Sequence[Record], clients: Sequence[int], count: Callable[[str], int]
) -> None:
    ask_all(server, records[:2], 2)
    for num_clients in clients:
        begin = time.perf_counter()
        answers = ask_all(server, records, num_clients)
        seconds = time.perf_counter() - begin
        tokens = sum(count(answer.text) for answer in answers)
        firsts = [answer.first for answer in answers if answer.first]
        print(
            f"{name}: {num_clients} clients, {len(answers)} notes, {tokens} tokens in {seconds:.1f} s, "
            f"{tokens / seconds:.1f} tokens/s; first token p50 {statistics.median(firsts):.2f} s, "
            f"p95 {percentile(firsts, 95):.2f} s; whole note p95 "
            f"{percentile([answer.whole for answer in answers], 95):.2f} s; {server.mebibytes:.0f} MiB",
            flush=True,
        )


def measure_memory(server: Server, records: Sequence[Record], num_requests: int) -> None:
    done = 0
    while done < num_requests:
        some = [records[number % len(records)] for number in range(done, min(done + 100, num_requests))]
        ask_all(server, some, 4)
        done += len(some)
        print(f"after {done} more requests {server.mebibytes:.0f} MiB", flush=True)


def percentile(values: Sequence[float], share: int) -> float:
    """The least value that `share` per cent of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
