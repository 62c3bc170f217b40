"""`python -m medsum_core.server`: its flags, a run without the extra, and a real model behind it."""

from __future__ import annotations

import csv
import json
import os
import socket
import sys
from pathlib import Path

import httpx
import pytest
from serve_fake import serve_process

from infer import main as infer
from medsum_core.errors import InputError
from medsum_core.server.__main__ import check_packages, main
from medsum_core.server.arguments import parse_options

DIALOGUE = "Doctor: What brings you in today?\nPatient: I have had a cough for three days."


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("", "--run"),
        ("--run r --port x", "--port"),
        ("--run r --port 70000", "--port must be"),
        ("--run r --host 192.0.2.1", "--token_file"),
        ("--run r --host 0.0.0.0 --token_file t", "--allowed_host"),
        ("--run r --host example.org", "--token_file"),
        ("--run r --allowed_host https://scribe.example.org", "--allowed_host"),
        ("--run r --allowed_host a.example --allowed_host b.example:443", "--allowed_host"),
        ("--run r --batch_size 0", "--batch_size"),
        ("--run r --max_new_tokens 0", "--max_new_tokens"),
        ("--run r --num_beams 2 --length_penalty nan", "--length_penalty"),
        ("--run r --length_penalty 2", "--num_beams"),
        ("--run r --max_waiting 3", "--max_waiting"),
        ("--run r --stop_seconds -1", "--stop_seconds"),
        ("--run r --stop_seconds nan", "--stop_seconds"),
        ("--run r --prot 80", "--prot"),
    ],
)
def test_wrong_flags_are_named(flags: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        parse_options(flags.split())


def test_flags_may_have_hyphens_too() -> None:
    assert parse_options(["--run", "r", "--token-file", "t", "--allowed-host", "::1"]).token_file == "t"


def test_bad_files_are_refused_before_anything_is_loaded_or_written(run: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "tokens"
    token_file.write_text("a" * 16)
    token_file.chmod(0o600)
    with socket.socket() as taken, pytest.raises(InputError, match="--port"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        main(["--run", str(run), "--port", str(taken.getsockname()[1])])
    with pytest.raises(InputError, match="--audit_file"):
        main(["--run", str(run), "--port", "0", "--audit_file", str(tmp_path / "no" / "folder")])
    with pytest.raises(InputError, match=r"is .+ a run folder"):
        main(["--run", str(tmp_path), "--port", "0"])
    with pytest.raises(InputError, match="no host has such a name"):
        main(["--run", str(run), "--port", "0", "--host", "a..b", "--token_file", str(token_file)])
    with pytest.raises(InputError, match="--max_new_tokens 2048: this model has room for 2048 tokens"):
        main(["--run", str(run), "--port", "0", "--max_new_tokens", "2048"])
    assert list(tmp_path.iterdir()) == [token_file] and not list(run.glob("*.jsonl"))


def test_a_missing_package_of_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsum_core.server.__main__.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(InputError, match=r"needs uvicorn, of the extra `serve`: pip install -e '\.\[serve\]'"):
        check_packages()


def test_a_run_is_served_with_the_notes_that_infer_writes(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    with rows.open("w") as file:
        file.write(
            "ID,section_header,dialogue\n" + "".join(f'{code},{code},"{DIALOGUE}"\n' for code in ("CC", "GENHX"))
        )
    infer(["--run", str(run), "--input_file", str(rows), "--output_file", str(tmp_path / "notes.csv")])
    with (tmp_path / "notes.csv").open(newline="") as file:
        expected = [row["note"] for row in csv.DictReader(file)]
    command = [sys.executable, "-m", "medsum_core.server", "--run", str(run), "--port", "0", "--compare"]
    command += ["--audit_file", str(tmp_path / "audit.jsonl")]
    with serve_process(command, tmp_path) as served:
        assert served.url.startswith("http://127.0.0.1:")
        answer = httpx.post(f"{served.url}/notes", json={"dialogue": DIALOGUE, "sections": ["CC", "GENHX"]}, timeout=60)
        assert [note["note"] for note in answer.json()["notes"]] == expected
        pair = httpx.post(f"{served.url}/compare/pair", json={"dialogue": DIALOGUE, "section": "CC"}, timeout=60).json()
        assert expected[0] in (pair["a"], pair["b"]) and pair["a"] != pair["b"]
        assert httpx.get(f"{served.url}/options").json()["grounded_available"] is True
        served.process.terminate()
        assert "stopped by SIGTERM" in served.end()
    events = [json.loads(line)["event"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert events == ["started", "asked", "written", "asked", "stopped"]
    assert os.stat(tmp_path / "audit.jsonl").st_mode & 0o777 == 0o600
