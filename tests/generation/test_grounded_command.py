"""`infer.py --grounded`: its column, its notes on the screen, --resume, and decoding rules that cannot go back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from decoding_models import small_model
from families import FAMILIES
from family_table import make_folder
from notes_command import write
from small_language import grounding
from support import section_record, tiny_tokenizer
from torch import Tensor
from tuned_run import DIALOGUES

import infer
from medsum_core.data.prompt import build_renderer
from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.generation import notes as notes_module
from medsum_core.generation.generate import generate
from medsum_core.generation.notes import grounding_in
from medsum_core.generation.part_file import PartFile
from medsum_core.generation.search import Search
from medsum_core.grounding.check import unsupported_spans
from medsum_core.grounding.clauses import clause_end
from medsum_core.model.base import load_base

COLUMNS = ["id", "section_header", "note", "num_tokens", "hit_limit", "unsupported", "checked", "omitted"]


def refuse_vowels(note: str, dialogue: str) -> list[tuple[int, int]]:
    """A random model writes no number often enough."""
    return [(place, place + 1) for place, letter in enumerate(note) if letter in "aeiou"]


def test_left_out_facts_are_counted_in_a_column_and_on_the_screen(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(run, dialogues, tmp_path / "plain.csv")
    assert list(plain[0]) == [*COLUMNS, "set_aside"]
    monkeypatch.setattr(notes_module, "unsupported_spans", refuse_vowels)
    rows = write(run, dialogues, tmp_path / "notes.csv", "--grounded")
    assert list(rows[0]) == [*COLUMNS, "left_out", "set_aside"]
    assert any(refuse_vowels(row["note"], "") for row in plain)
    assert not any(refuse_vowels(row["note"], "") for row in rows)
    assert any(int(row["left_out"]) > 0 for row in rows)
    assert write(run, dialogues, tmp_path / "notes.csv", "--grounded", "--resume") == rows
    (tmp_path / "visit.txt").write_text(DIALOGUES[0][2])
    capsys.readouterr()
    infer.main(["--run", str(run), "--dialogue_file", str(tmp_path / "visit.txt"), "--section", "GENHX", "--grounded"])
    screen = capsys.readouterr()
    assert screen.out.rstrip("\n").startswith(rows[0]["note"]) and not refuse_vowels(screen.out.splitlines()[0], "")
    assert f"(left out {rows[0]['left_out']} times" in screen.err or rows[0]["left_out"] == "0"


@pytest.mark.parametrize("flags", [[], ["--grounded"]])
def test_resume_needs_the_same_grounded_flag(
    flags: list[str], run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part file or a finished file is not resumed with the flag if it was begun without, nor without it if begun with."""
    other = [] if flags else ["--grounded"]
    out = tmp_path / "notes.csv"
    add = PartFile.add

    def add_one(self: PartFile, row: str, note: Any) -> None:
        add(self, row, note)
        raise KeyboardInterrupt

    monkeypatch.setattr(PartFile, "add", add_one)
    with pytest.raises(StoppedBySignal):
        write(run, dialogues, out, *flags)
    monkeypatch.undo()
    part = (tmp_path / "notes.csv.part.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"other settings \(grounded\)"):
        write(run, dialogues, out, "--resume", *other)
    assert (tmp_path / "notes.csv.part.jsonl").read_bytes() == part
    write(run, dialogues, out, "--resume", *flags)
    with pytest.raises(InputError, match=r"other settings \(grounded\)"):
        write(run, dialogues, out, "--resume", *other)


def test_verifiers_are_the_rows_own_dialogues() -> None:
    renderer = build_renderer(tiny_tokenizer())
    said = ("Patient: I am fifty.", "Patient: I am sixty.")
    rules = grounding_in([section_record(id="1", section_header="CC", dialogue=text) for text in said], renderer)
    note = "She is 60 years old."
    assert [verify(note) for verify in rules.verifiers] == [unsupported_spans(note, "Patient: I am fifty."), []]
    assert rules.verifiers[0](note)
    (full_stop,) = rules.full_stops
    assert renderer.decode([*renderer.text_ids("it"), full_stop]) == "it."


@pytest.mark.parametrize(
    ("clause", "kept"),
    [
        ("She has had a cough for about ", "She has had a cough"),
        ("The patient is a ", ""),
        ("He takes lisinopril ", "He takes lisinopril"),
        ("He takes ", ""),
        ("She presents today with pain in the ", "She presents today with pain"),
        ("Pain since", ""),
        ("Hernia at the level of L", "Hernia at the level"),
        ("", ""),
    ],
)
def test_where_a_sentence_can_end(clause: str, kept: str) -> None:
    assert clause[: clause_end(clause)] == kept


class WithoutReturn:
    """A decoding rule that can't take back a token: it is no `ReversibleSearch`."""

    num_beams = num_candidates = 1

    def advance(self, notes: Any, candidates: Any) -> tuple[Tensor, None, list[bool]]:
        return candidates.tokens_Mk, None, [True for _ in notes]

    def written(self, notes: Any) -> list[list[int]]:
        return [[] for _ in notes]

    def result(self, note: Any, slot: int) -> Any: ...

    def move_slot(self, source: int, target: int) -> None: ...


def test_a_decoding_rule_that_cannot_go_back_is_refused(tmp_path: Path) -> None:
    rules = grounding([lambda text: []])
    options: dict[str, Any] = {"stop_token_ids": [1], "max_new_tokens": 3, "grounding": rules}
    model = small_model("gemma")
    rule: Search = WithoutReturn()
    with pytest.raises(ValueError, match="ReversibleSearch"):
        generate(model, [[2, 3]], search=lambda stops: rule, **options)
    with pytest.raises(ValueError, match="on_token"):
        generate(model, [[2, 3]], on_token=lambda index, token: None, **options)
    lfm2 = next(family for family in FAMILIES if family.name == "lfm2")
    recurrent: Any = load_base(str(make_folder(lfm2, tmp_path)), precision="fp32")
    with pytest.raises(InputError, match="--grounded: lfm2"):
        generate(recurrent, [[2, 3]], **options)
