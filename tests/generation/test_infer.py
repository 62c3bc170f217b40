"""`infer.py` on a run made here: columns, order, streaming, resuming without loss, and one message for bad input."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from notes_command import read, write
from support import section_parts, tiny_tokenizer
from tuned_run import DIALOGUES

import infer
from medsum_core.config.infer_arguments import parse_options
from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.errors import InputError
from medsum_core.generation.generate import generate
from medsum_core.model.base import load_base

ROOT = Path(__file__).parents[2]


def test_columns_order_and_notes_of_the_output_file(run: Path, base: Path, dialogues: Path, tmp_path: Path) -> None:
    rows = write(run, dialogues, tmp_path / "notes.csv", "--batch_size", "2")
    columns = "id section_header note num_tokens hit_limit unsupported checked omitted set_aside"
    assert list(rows[0]) == columns.split()
    assert [(row["id"], row["section_header"]) for row in rows] == [(i, section) for i, section, _ in DIALOGUES]
    assert {row["hit_limit"] for row in rows} <= {"true", "false"}
    assert not (tmp_path / "notes.csv.part.jsonl").exists()
    assert (tmp_path / "notes.csv").stat().st_mode & 0o077 == 0
    for row in rows:
        assert all(0 <= start < end <= len(row["note"]) for start, end in json.loads(row["unsupported"]))
        assert int(row["checked"]) >= len(json.loads(row["unsupported"]))
    omitted = [json.loads(row["omitted"]) for row in rows]  # a random model's notes state nothing of the dialogue
    said = [[text[o["start"] : o["end"]] for o in row] for row, (_, _, text) in zip(omitted, DIALOGUES, strict=True)]
    assert said[0] == ["cough", "three days"] and said[2] == ["fever"] and said[3] == ["knee hurts"]
    assert [(o["turn"], o["kind"]) for o in omitted[0]] == [(1, "symptom"), (1, "duration")]
    renderer = build_renderer(tiny_tokenizer())
    from medsum_core.model.adapter_files import load_adapter

    model = load_adapter(load_base(str(base), precision="fp32"), run / "adapter", base_name=str(base))
    prompts = [renderer.prompt_ids(section_parts(text, section)) for _, section, text in DIALOGUES]
    expected = generate(model, prompts, stop_token_ids=renderer.stop_token_ids, max_new_tokens=24)
    assert [row["note"] for row in rows] == [renderer.decode(note.token_ids) for note in expected]
    assert [row["num_tokens"] for row in rows] == [str(len(note.token_ids)) for note in expected]
    alone = ["--model_name_or_path", str(base), "--input_file", str(dialogues), "--max_new_tokens", "24"]
    infer.main([*alone, "--output_file", str(tmp_path / "base.csv"), "--precision", "fp32", "--num_beams", "2"])
    assert [row["note"] for row in read(tmp_path / "base.csv")] != [row["note"] for row in rows]


def test_the_flags_of_the_search_reach_it(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def watched(*arguments: Any, **settings: Any) -> Any:
        seen.update(settings)
        return generate(*arguments, **settings)

    monkeypatch.setattr("medsum_core.generation.writer.generate", watched)
    wanted = {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "max_new_tokens": 4, "batch_size": 2}
    given = [word for name, value in wanted.items() for word in (f"--{name}", str(value))]
    write(run, dialogues, tmp_path / "notes.csv", "--grounded", *given)
    assert {name: seen[name] for name in wanted} == wanted
    assert seen["grounding"] is not None


def test_submission_format_and_evidence(run: Path, dialogues: Path, tmp_path: Path) -> None:
    rows = write(run, dialogues, tmp_path / "a.csv", "--output_format", "mediqa")
    assert list(rows[0]) == ["TestID", "SystemOutput1", "SystemOutput2"]
    assert [row["TestID"] for row in rows] == [row[0] for row in DIALOGUES]
    with_evidence = write(run, dialogues, tmp_path / "b.csv", "--evidence")
    assert all({"start", "turns", "score"} <= set(s) for row in with_evidence for s in json.loads(row["evidence"]))


def test_no_repeat_ngram_size_is_the_runs_unless_given(run: Path, dialogues: Path, tmp_path: Path) -> None:
    free = write(run, dialogues, tmp_path / "free.csv")
    ruled = write(run, dialogues, tmp_path / "ruled.csv", "--no_repeat_ngram_size", "1")
    assert [row["note"] for row in ruled] != [row["note"] for row in free]
    other = tmp_path / "run"
    shutil.copytree(run, other)
    saved = json.loads((run / "config.json").read_text())
    assert saved["settings"]["data"]["no_repeat_ngram_size"] == 0
    saved["settings"]["data"]["no_repeat_ngram_size"] = 1
    (other / "config.json").write_text(json.dumps(saved))
    assert write(other, dialogues, tmp_path / "by_run.csv") == ruled
    assert write(other, dialogues, tmp_path / "off.csv", "--no_repeat_ngram_size", "0") == free
    with pytest.raises(InputError, match="no_repeat_ngram_size"):
        write(run, dialogues, tmp_path / "wrong.csv", "--no_repeat_ngram_size", "-1")


def test_one_dialogue_streams_the_note_of_the_file(
    run: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write(run, dialogues, tmp_path / "notes.csv")
    capsys.readouterr()
    (tmp_path / "visit.txt").write_text(DIALOGUES[0][2])
    infer.main(["--run", str(run), "--dialogue_file", str(tmp_path / "visit.txt"), "--section", "GENHX"])
    from_file = capsys.readouterr().out
    assert from_file.startswith(rows[0]["note"])
    assert '\nSaid in the dialogue and not in the note (2): turn 2 "cough", turn 2 "three days"\n' in from_file
    assert "\nchecked " in from_file and " facts of the note, 2 of the dialogue: numbers, ages" in from_file
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(DIALOGUES[0][2].encode())))
    infer.main(["--run", str(run), "--dialogue_file", "-", "--section", "history of present illness"])
    capsys.readouterr()


def test_a_terminal_is_sent_no_control_characters_of_a_note_or_a_dialogue(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "visit.txt").write_text("Doctor: Any fever?\nPatient: No \x9b2J fever.")
    flags = ["--run", str(run), "--dialogue_file", str(tmp_path / "visit.txt"), "--section", "CC"]
    monkeypatch.setattr(PromptRenderer, "decode", lambda *_: "Has a fever of 39 °C\x1b[2J.\nNo cough.")
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        infer.main(flags)
        shown = capsys.readouterr().out
        assert shown.splitlines()[1] == "No cough." and "contradicted by turn" in shown and "°" in shown
        assert ("\x1b[2J" in shown) == ("\x9b" in shown) == (not is_terminal)
        assert ("C\\x1b[2J" in shown) == ("No \\x9b2J" in shown) == is_terminal


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--input_file f --output_file o.csv --max_new_tokens 0", "--max_new_tokens must be at least 1"),
        ("--input_file f --output_file o.csv --batch_size 0", "--batch_size and"),
        ("--input_file f --output_file o.csv --num_beams 2 --length_penalty nan", "finite"),
        ("--input_file f --output_file o.csv --num_beams 2 --length_penalty inf", "finite"),
        ("--input_file f --output_file o.csv --length_penalty 0.6", "belongs to beam search"),
        ("--dialogue_file f --section CC --output_file o.csv", "writes to the screen"),
        ("--dialogue_file f --section CC --resume", "writes to the screen"),
        ("--dialogue_file f --section CC --output_format mediqa", "writes to the screen"),
        ("--input_file f --output_file o.csv --output_format mediqa --evidence", "--evidence: a submission"),
    ],
)
def test_no_flag_is_dropped_without_a_word(flags: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        parse_options(["--run", "r", *flags.split()])


def test_bad_input_is_one_message(run: Path, base: Path, dialogues: Path, tmp_path: Path) -> None:
    out, empty = str(tmp_path / "o.csv"), tmp_path / "empty.txt"
    empty.write_text("\ufeff\ufeff \n")
    invisible = tmp_path / "invisible.txt"
    invisible.write_text("\u200b\n")
    holes = tmp_path / "holes.csv"
    holes.write_text("ID,section_header,dialogue\n1,CC,\n")
    rows = ["--input_file", str(dialogues), "--output_file"]
    for flags, message in (
        (["--run", str(run), "--dialogue_file", str(empty), "--section", "CC"], "empty"),
        (["--run", str(run), "--dialogue_file", str(invisible), "--section", "CC"], "empty"),
        (["--run", str(run), "--dialogue_file", str(empty)], "--section"),
        (["--run", str(run), "--input_file", str(holes), "--output_file", out], "row 1"),
        (["--run", str(tmp_path / "none"), *rows, out], "run folder"),
        (["--run", str(run), *rows, str(tmp_path / "o.txt")], "csv"),
        (["--run", str(run), *rows, str(tmp_path / "no" / "o.csv")], "no folder"),
        (["--run", str(run), "--model_name_or_path", str(base), *rows, out], "no hash to know its base by"),
        (["--run", str(run), "--dataset_name", "mts-dialog", "--output_file", out], "--split"),
        (["--run", str(run), *rows, out, "--num_beams", "0"], "at least 1"),
        (["--model_name_or_path", str(tmp_path / "none"), *rows, out], "no folder"),
    ):
        with pytest.raises(InputError, match=message):
            infer.main(flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dialogues.csv",
        "empty.txt",
        "holes.csv",
        "invisible.txt",
    ]


def test_a_missing_adapter_or_one_for_another_base_is_refused(run: Path, dialogues: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "config.json").write_bytes((run / "config.json").read_bytes())
    flags = ["--run", str(copy), "--input_file", str(dialogues), "--output_file", str(tmp_path / "o.csv")]
    with pytest.raises(InputError, match="not looked up on a hub"):
        infer.main(flags)
    (copy / "adapter").mkdir()
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "google/gemma-2b-it"
    (copy / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="another base"):
        infer.main(flags)
    assert not (tmp_path / "o.csv.part.jsonl").exists()


def test_truncated_dialogues_are_reported_by_id(
    run: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = "\n".join(f"Doctor: Any fever {i}?" for i in range(200))
    dialogues.write_text(f'ID,section_header,dialogue\nx9,CC,"{turns}"\nx8,CC,Doctor: Hi.\n')
    write(run, dialogues, tmp_path / "o.csv")
    assert "1 source texts lost turns or paragraphs to fit the prompt: ids x9" in capsys.readouterr().err
