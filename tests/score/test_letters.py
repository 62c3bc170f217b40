"""Notes in other scripts: the official tokenizer drops their letters, which is refused or reported; another keeps them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from medsum_core.errors import InputError
from medsum_core.score.__main__ import main
from medsum_core.score.letters import UnicodeTokenizer, check_letters
from medsum_core.score.rouge import score_rows


def file_of(path: Path, *notes: str) -> Path:
    lines = [
        json.dumps({"ID": str(row), "section_text": note, "section_header": "CC"}) for row, note in enumerate(notes)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_tokens_of_ascii_text_are_the_official_ones(text: str) -> None:
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Übelkeit, 3 Tage", ["übelkeit", "3", "tage"]),
        (unicodedata.normalize("NFD", "Übelkeit"), ["übelkeit"]),
        ("患者咳嗽。", ["患", "者", "咳", "嗽"]),
        ("кашель BP_140", ["кашель", "bp", "140"]),
    ],
)
def test_tokens_of_other_scripts_keep_their_letters(text: str, tokens: list[str]) -> None:
    assert UnicodeTokenizer().tokenize(text) == tokens


def test_a_chinese_note_scores_one_against_itself() -> None:
    note = ["患者咳嗽三天"]
    assert score_rows(note, note).rouge1 == (0.0,)  # with the official tokenizer
    assert score_rows(note, note, tokenizer=UnicodeTokenizer()).rougeLsum == (1.0,)


def test_notes_whose_letters_would_be_dropped_are_refused_naming_the_remedy(tmp_path: Path) -> None:
    notes = file_of(tmp_path / "r.jsonl", "患者咳嗽三天", "a cough")
    command = ["--references", str(notes), "--predictions", str(notes), "--json", str(tmp_path / "s.json")]
    with pytest.raises(InputError, match=r"1 of 2 notes have other letters \(50 % of all\).*--tokenizer unicode"):
        main(command)
    assert not (tmp_path / "s.json").exists()
    main([*command, "--tokenizer", "unicode"])
    scores = json.loads((tmp_path / "s.json").read_text())
    assert (scores["rouge1"], scores["unicode"]["rouge1"]) == (0.5, 1.0)


def test_few_other_letters_are_reported_and_scored_officially(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = file_of(tmp_path / "r.jsonl", "no fever " * 20 + "Mrs. André")
    main(["--references", str(notes), "--predictions", str(notes)])
    shown = capsys.readouterr()
    assert "1 of 1 notes have other letters (fewer than 1 %)" in shown.err and "not official" not in shown.out
    assert check_letters(["no fever"], source="r.csv") is None
