"""The server's own files: the audit log, the votes, the tokens."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from fake_server import DIALOGUE, NOTE, fake_server
from starlette.testclient import TestClient

from medsum_core.errors import InputError
from medsum_core.server.audit import AUDIT_FILE, AppendedLines, known_section, text_sha256
from medsum_core.server.compare import Votes, wilson
from medsum_core.server.tokens import read_tokens

BODY = {"dialogue": DIALOGUE, "sections": ["CC", "Mrs Smith's knee"]}


def test_the_audit_log_says_who_asked_and_what_was_written(tmp_path: Path) -> None:
    server = fake_server(folder=tmp_path)
    client = TestClient(server.app)
    id = client.post("/notes", json=BODY).json()["id"]
    client.post("/audit", json={"id": id, "action": "signed", "section": "CC", "note_sha256": text_sha256(NOTE)})
    asked, written, signed = map(json.loads, server.audit.splitlines())
    assert {record["id"] for record in (asked, written, signed)} == {id}
    assert asked["sections"] == ["CC", "other"] and asked["dialogue_sha256"] == text_sha256(DIALOGUE)
    assert [note["note_sha256"] for note in written["notes"]] == [signed["note_sha256"]] * 2
    assert stat.S_IMODE((tmp_path / AUDIT_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_identifies_the_text_that_was_sent_where_the_model_names_its_section(stream: bool) -> None:
    server = fake_server("History of present illness\nHe coughs.", task="section-with-header")
    answer = TestClient(server.app).post("/notes", json={"dialogue": DIALOGUE, "stream": stream})
    assert '"note":"He coughs."' in answer.text
    (note,) = json.loads(server.audit.splitlines()[-1])["notes"]
    assert (note["section"], note["note_sha256"]) == ("GENHX", text_sha256("He coughs."))


def test_lines_are_only_appended_and_an_incomplete_one_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1}\n{"b":')
    for number in range(2):
        lines = AppendedLines(path, flag="--audit_file")
        lines.append({"c": number})
        lines.close()
    before, torn, *added = path.read_bytes().splitlines()
    assert (before, torn) == (b'{"a":1}', b'{"b":')
    assert [json.loads(line)["c"] for line in added] == [0, 1]


def test_a_line_is_on_disk_before_the_request_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    server = fake_server(folder=tmp_path, compare=False)
    synced.clear()
    with TestClient(server.app) as client:
        assert client.post("/audit", json={"id": "0" * 32, "action": "edited"}).status_code == 204
    assert synced == [(tmp_path / AUDIT_FILE).stat().st_size]


def test_a_request_that_cannot_be_recorded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk no note is written, and no incomplete line is left."""
    server = fake_server(folder=tmp_path)
    client = TestClient(server.app)
    assert client.post("/notes", json=BODY).status_code == 200
    before = server.audit
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[: len(data) // 2]))
    answers = [client.post("/notes", json=BODY), client.post("/check", json={"dialogue": DIALOGUE, "notes": []})]
    monkeypatch.undo()
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(503, "no_audit")] * 2
    assert server.audit == before
    assert server.engine.stats().new_tokens == 2 * len(server.service.served.renderer.text_ids(NOTE))


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "another")
    with pytest.raises(InputError, match="--audit_file"):
        AppendedLines(tmp_path / "log", flag="--audit_file")
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize(
    ("section", "written"),
    [
        *(("GENHX", "GENHX"), ("history of present illness", "GENHX"), ("objective_exam", "objective_exam"), ("", "")),
        *(("Mr Smith", "other"), ("GENHX of Mr Smith", "other")),
    ],
)
def test_a_free_text_section_is_not_logged(section: str, written: str) -> None:
    assert known_section(section) == written


def test_only_the_vote_reveals_which_note_is_the_tuned_one(tmp_path: Path) -> None:
    server = fake_server("Tuned.", base_note="Base.", folder=tmp_path)
    client = TestClient(server.app)
    places = []
    for _ in range(40):
        pair = client.post("/compare/pair", json={"dialogue": DIALOGUE, "section": "CC"}).json()
        assert sorted((pair["a"], pair["b"])) == ["Base.", "Tuned."]
        places.append(pair["a"])
        letter = "a" if pair["a"] == "Tuned." else "b"
        assert client.post("/compare/vote", json={"pair_id": pair["pair_id"], "vote": letter}).status_code == 204
    assert 5 < places.count("Tuned.") < 35
    again = client.post("/compare/vote", json={"pair_id": pair["pair_id"], "vote": "tie"})
    assert again.json()["error"]["code"] == "pair_not_found"
    summary = client.get("/compare/summary").json()
    assert (summary["votes"], summary["tuned"], summary["base"], summary["tie"]) == (40, 40, 0, 0)
    later = fake_server(folder=tmp_path)
    assert TestClient(later.app).get("/compare/summary").json() == summary
    kept = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    assert {record["tuned_sha256"] for record in kept} == {text_sha256("Tuned.")}


def test_notes_are_compared_as_the_server_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that grounds every note the log said so of notes that were not."""
    server, seen = fake_server(), []
    server.service.served = replace(server.service.served, grounded=True)
    submit = server.engine.submit
    monkeypatch.setattr(server.engine, "submit", lambda *both: seen.extend(both[0]) or submit(*both))
    TestClient(server.app).post("/compare/pair", json={"dialogue": DIALOGUE, "section": "CC"})
    assert [(request.use_adapter, request.verifier is not None) for request in seen] == [(True, True), (False, True)]
    assert json.loads(server.audit)["grounded"] is True


def test_votes_for_the_base_and_ties_are_counted(tmp_path: Path) -> None:
    server = fake_server("Tuned.", base_note="Base.", folder=tmp_path)
    client = TestClient(server.app)
    for vote in ("Base.", "Tuned.", "Tuned.", "tie"):
        pair = client.post("/compare/pair", json={"dialogue": DIALOGUE, "section": "CC"}).json()
        letter = next((letter for letter in "ab" if pair[letter] == vote), "tie")
        client.post("/compare/vote", json={"pair_id": pair["pair_id"], "vote": letter})
    summary = client.get("/compare/summary").json()
    assert [summary[name] for name in ("votes", "tuned", "base", "tie", "tuned_share")] == [4, 2, 1, 1, 2 / 3]


@pytest.mark.parametrize(
    ("count", "total", "interval"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_the_interval_is_wilsons(count: int, total: int, interval: tuple[float, float]) -> None:
    assert wilson(count, total) == pytest.approx(interval, abs=5e-5)


def test_lines_that_are_no_votes_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "votes").write_text('{"vote":"tuned"}\nnot a record\n[]\n')
    assert Votes(AppendedLines(tmp_path / "votes", flag="--compare")).summary()["votes"] == 1


@pytest.mark.parametrize(
    ("text", "mode", "match"),
    [
        ("", 0o600, "holds no token"),
        ("\n\n", 0o600, "holds no token"),
        ("short", 0o600, "line 1: a token has at least 16"),
        ("ann:0123456789abcdef\nb b:0123456789abcdef", 0o600, "line 2: a name has"),
        ("ann:0123456789 abcdef", 0o600, "line 1: a token has letters"),
        ("ann:0123456789abcdéf", 0o600, "characters that no token has"),
        ("ann:0123456789abcdef", 0o644, "chmod o-rwx"),
        (None, 0o600, "can't be read"),
    ],
)
def test_an_insecure_file_of_tokens_is_refused(text: str | None, mode: int, match: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(InputError, match=match) as error:
        read_tokens(str(path))
    assert "0123456789" not in str(error.value)
