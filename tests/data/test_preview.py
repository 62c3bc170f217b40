"""The preview shows which tokens are trained on, and reports every broken law."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support import section_parts, section_record, tiny_tokenizer

from medsum_core.data.masking import IGNORE_INDEX, build_example
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.records import Record
from medsum_core.errors import InputError
from medsum_core.model import base as model
from medsum_core.preview import LAWS, broken_laws, main, show_example

RECORD = section_record(
    id="7", section_header="PLAN", dialogue="Doctor: Any cough?\nPatient: No.", note="No cough.\n\u6f22."
)
MAX_PROMPT_TOKENS = 512 - 64


@pytest.fixture
def renderer() -> PromptRenderer:
    return build_renderer(tiny_tokenizer())


@pytest.fixture
def example(renderer: PromptRenderer):
    return build_example(RECORD, renderer, max_length=512, max_new_tokens=64)


def test_plain_view_marks_exactly_the_note_and_its_stop_token(renderer: PromptRenderer, example) -> None:
    shown = show_example(example, RECORD, renderer, colour=False)
    assert "\x1b" not in shown
    body = shown.split("\n\nposition")[0]
    marked = re.findall("\u00ab(.*?)\u00bb", body, flags=re.DOTALL)
    # A token that is a part of a character is shown by its entry in the byte-level vocabulary.
    assert "".join(marked) == "No cough.\n\u00e6\u00bc\u00a2.<end_of_turn>"
    assert "row id 7, section PLAN" in shown and f"{len(marked)} trained on" in shown
    assert "<bos>|<start_of_turn>|" in shown


def test_terminal_view_colours_exactly_the_note_and_its_stop_token(renderer: PromptRenderer, example) -> None:
    shown = show_example(example, RECORD, renderer, colour=True)
    green = re.findall("\x1b\\[30;(?:42|102)m(.*?)\x1b\\[0m", shown, flags=re.DOTALL)
    assert "".join(green).startswith("No cough.\n") and green[-1] == "<end_of_turn>"
    assert len(green) == example.num_targets


def test_the_positions_around_the_first_and_last_target_are_shown_with_shifted_targets(
    renderer: PromptRenderer, example
) -> None:
    lines = show_example(example, RECORD, renderer, colour=False).split("position")[1].splitlines()[1:]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip()]
    last = example.num_tokens - 1
    assert rows[-1] == [str(last), f"{renderer.stop_token_id} '<end_of_turn>'", "-"]
    assert rows[-2][2] == f"{renderer.stop_token_id} '<end_of_turn>'"
    first = next(row for row in rows if row[-1] != "-" and row != ["..."])
    assert first[0] == str(example.num_prompt_tokens - 1) and first[2].endswith("'N'")


def test_a_row_cannot_send_commands_to_the_terminal(renderer: PromptRenderer) -> None:
    record = replace(RECORD, parts=section_parts("Doctor: \x1b[2J\x07 \u202e", "PLAN"), note="No \x1b]0;x\x07.")
    example = build_example(record, renderer, max_length=512, max_new_tokens=64)
    shown = show_example(example, record, renderer, colour=False)
    assert not any(char != "\n" and not char.isprintable() for char in shown)
    assert "\\x1b" in shown


def test_every_broken_law_is_reported(renderer: PromptRenderer, example) -> None:
    def broken(changed, record: Record = RECORD) -> set[int]:
        laws = broken_laws(changed, record, renderer, max_prompt_tokens=MAX_PROMPT_TOKENS)
        return {LAWS.index(law) for law in laws}

    border = example.num_prompt_tokens
    ids, targets = example.input_ids, example.targets
    assert broken(example) == set()
    another_prompt = (*ids[:20], ids[20] + 1, *ids[21:])
    assert broken(replace(example, input_ids=another_prompt)) == {0}
    doubled_bos = replace(example, input_ids=(2, *ids), targets=(IGNORE_INDEX, *targets), num_prompt_tokens=border + 1)
    assert {0, 1} <= broken(doubled_bos)
    forged = (*ids[: border - 12], 5, *ids[border - 11 :])
    assert {0, 2} <= broken(replace(example, input_ids=forged))
    assert broken(replace(example, targets=(*targets[: border - 2], 9, *targets[border - 1 :]))) >= {3, 5}
    no_stop = (*targets[:-2], IGNORE_INDEX, IGNORE_INDEX)
    assert broken(replace(example, targets=no_stop)) == {3, 4}
    assert broken(example, replace(RECORD, note="No cough.")) == {5}
    unshifted = (*[IGNORE_INDEX] * border, *ids[border:])
    assert 3 in broken(replace(example, targets=unshifted))


def write_rows(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("ID", "section_header", "section_text", "dialogue"), *rows])
    return path


@pytest.fixture
def tiny_tokenizer_for_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_tokenizer", lambda *_, **__: tiny_tokenizer())


@pytest.mark.usefixtures("tiny_tokenizer_for_any_name")
def test_the_command_shows_the_first_rows_and_that_the_laws_hold(tmp_path: Path) -> None:
    rows = [(str(n), "PLAN", f"Rest {n}.", "Doctor: Any cough?\nPatient: No.") for n in range(5)]
    rows.insert(1, ("long", "PLAN", "Rest. " * 200, "Doctor: Hm."))
    out = io.StringIO()
    main(
        ["--train_file", str(write_rows(tmp_path / "rows.csv", rows)), "--num_examples", "3", "--max_length", "400"],
        out=out,
    )
    shown = out.getvalue()
    assert re.findall(r"^row id (\w+), section", shown, flags=re.MULTILINE) == ["0", "1"]
    assert "row id long is set aside" in shown
    assert "checked on 2 rows, with a chat prompt" in shown
    assert all(f"holds: {law}" in shown for law in LAWS)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]  # nothing is written


@pytest.mark.usefixtures("tiny_tokenizer_for_any_name")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_examples", "0"], "--num_examples 0: at least 1"),
        (["--max_new_tokens", "-5"], "--max_new_tokens -5: at least 1"),
        (["--max_length", "30", "--max_new_tokens", "30"], "leaves no prompt"),
        (["--max_length", "40", "--max_new_tokens", "30"], "none of the 1 rows fits"),
        (["--note_column", "summary"], "summary"),
        (["--model_revision", "v1"], "gemma3-270m is an embedded model, which has no revisions"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, options: list[str], message: str) -> None:
    path = write_rows(tmp_path / "rows.csv", [("1", "PLAN", "Rest.", "Doctor: Hi.")])
    with pytest.raises(InputError, match=message):
        main(["--train_file", str(path), *options], out=io.StringIO())


@pytest.mark.usefixtures("tiny_tokenizer_for_any_name")
def test_a_broken_law_is_an_error_without_the_rows_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptRenderer, "decode", lambda self, ids: "another text")
    path = write_rows(tmp_path / "rows.csv", [("1", "PLAN", "Rest.", "Doctor: Hi.")])
    with pytest.raises(InputError, match="row id 1 breaks a law: the targets decode to exactly the note") as caught:
        main(["--train_file", str(path)], out=io.StringIO())
    assert "Rest" not in str(caught.value)
