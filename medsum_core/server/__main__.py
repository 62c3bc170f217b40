"""Serve a run's notes on this machine, with a page to review them.

    python -m medsum_core.server --run runs/mine

Needs the extra `serve`. It listens on 127.0.0.1 only by default; its logs contain no text. See
examples/serve.md.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from medsum_core.kernels import set_up_process
from medsum_core.process import keep_files_private, run_as_script, start_script

if __name__ == "__main__":
    start_script()  # before the libraries are imported
    set_up_process()  # else each new length of a prompt would keep compiled code: 0.5 GiB after 1,000 requests

from medsum_core.config.run_folder import run_of
from medsum_core.errors import InputError
from medsum_core.server.arguments import parse_options

if TYPE_CHECKING:
    from argparse import Namespace

PACKAGES = ("starlette", "uvicorn", "prometheus_client")
MEMORY_REMEDY = "lower --batch_size or --max_new_tokens, or leave --compare out"


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for bad flags and files, before any weight is loaded."""
    args = parse_options(sys.argv[1:] if argv is None else argv)
    check_packages()
    keep_files_private()
    from medsum_core.server.audit import AUDIT_FILE, AppendedLines, AuditLog
    from medsum_core.server.compare import VOTES_FILE, Votes
    from medsum_core.server.limits import limits_for
    from medsum_core.server.serve import bind, serve
    from medsum_core.server.tokens import read_tokens

    tokens = None if args.token_file is None else read_tokens(args.token_file)
    bound = bind(args.host, args.port)

    from infer import prepare_writer
    from medsum_core.server.app import app
    from medsum_core.server.loading import check_flags, load
    from medsum_core.server.security import LOOPBACK, Access
    from medsum_core.server.service import Service

    writer = prepare_writer(args)
    check_flags(writer, args)
    audit_path = _audit_path(args, AUDIT_FILE)
    lines = AppendedLines(audit_path, flag="--audit_file")
    votes = Votes(AppendedLines(audit_path.with_name(VOTES_FILE), flag="--compare")) if args.compare else None
    limits = limits_for(writer.renderer.task, stop_seconds=args.stop_seconds)
    loaded = load(writer, args)
    audit = AuditLog(lines, model=loaded.served.name, settings_sha256=loaded.settings_sha256)
    audit.record("started", id="", who="server", description=loaded.description)
    service = Service(loaded.engine, loaded.served, limits=limits)
    hosts = LOOPBACK | {args.host.lower(), *(name.lower() for name in args.allowed_host or ())}
    access = Access(hosts=frozenset(hosts), tokens=tokens)
    try:
        serve(app(service, access=access, audit=audit, votes=votes), bound, engine=loaded.engine, limits=limits)
    finally:
        loaded.engine.close(seconds=0)
        service.close()
        audit.record("stopped", id="", who="server")


def check_packages() -> None:
    """Raise InputError, naming the extra, if one of its packages is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"the server needs {', '.join(missing)}, of the extra `serve`: pip install -e '.[serve]' -c constraints.txt"
        )


def _audit_path(args: Namespace, name: str) -> Path:
    """Where the audit log goes: into the run folder unless a file is named."""
    if args.audit_file is not None:
        return Path(args.audit_file)
    folder = run_of(args.run)
    if folder is None:
        raise InputError(f"--run {args.run}: no run folder to keep {name} in; name a place with --audit_file")
    return folder / name


if __name__ == "__main__":
    raise SystemExit(run_as_script(main, memory_remedy=MEMORY_REMEDY))
