"""A process that serves `fake_server.fake_server`, as `python -m medsum_core.server` does a run: sockets, signals, limits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).parent


@dataclass
class Served:
    """A process that is ready: where, and what it has said on stderr once it has ended."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self) -> str:
        """All that it says on stderr, once it has ended."""
        if not self.said:
            self.said.append(self.process.communicate(timeout=30)[1])
        return self.said[0]


@contextmanager
def serve_process(command: list[str], folder: Path) -> Iterator[Served]:
    """The command, from `ready on` to its end; killed if it still runs."""
    environment = {**os.environ, "PYTHONPATH": f"{HELPERS.parents[1]}:{HELPERS}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"^ready on (\S+)$", line):
                break
        else:
            raise AssertionError("".join(lines))
        try:
            yield Served(process, found[1], folder)
        finally:
            process.kill()


def serve_fake(folder: Path, **options: Any) -> Any:
    """`serve_process` for a fake server; `options`: `limits` as a mapping, `token`, others as of `fake_server`."""
    return serve_process([sys.executable, str(HELPERS / "serve_fake.py"), str(folder), json.dumps(options)], folder)


def main(folder: str, options: str) -> None:
    from fake_server import fake_server, tokens_of

    from medsum_core.server.limits import Limits
    from medsum_core.server.serve import bind, serve

    values = json.loads(options)
    token = values.pop("token", None)
    limits = Limits(**values.pop("limits", {}))
    fake = fake_server(folder=Path(folder), limits=limits, tokens=token and tokens_of(token), **values)
    try:
        serve(fake.app, bind("127.0.0.1", 0), engine=fake.engine, limits=limits)
    finally:
        fake.service.close()


if __name__ == "__main__":
    from medsum_core.process import run_as_script, start_script

    start_script()
    raise SystemExit(run_as_script(lambda: main(*sys.argv[1:])))
