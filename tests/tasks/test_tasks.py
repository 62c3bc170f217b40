"""Tasks: users' task files and what is refused in them, answers that begin with a choice, and divided visits."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_tokenizer
from task_files import visit_note

from medsum_core.config.run_config import parse_run
from medsum_core.data.columns import Columns
from medsum_core.data.masking import IGNORE_INDEX, build_example, build_examples
from medsum_core.data.prompt import build_renderer
from medsum_core.data.records import (
    NOT_DISCUSSED,
    Record,
    divide_records,
    find_repeats,
    find_shared,
    join_records,
    read_records,
)
from medsum_core.data.truncation import GAP, prompt_within
from medsum_core.errors import InputError
from medsum_core.generation.notes import TokenBudget, fit_rows
from medsum_core.tasks.divisions import DIVISIONS
from medsum_core.tasks.find import find_task, read_task_file, task_names, task_text
from medsum_core.tasks.section_names import SECTION_NAMES, section_code, section_name
from medsum_core.tasks.task import Answer, Choice, task_problems

EXAMPLE = Path(__file__).parents[2] / "examples" / "patient_instructions.yaml"
NAMES = ["findings", "medquad", "pubmedqa", "section", "section-with-header", "visit", "vqa-rad"]
SMALL = """\
instruction: Translate.
parts:
  - {name: text, label: "Text:", columns: text}
answer: {label: "Out:", columns: out}
"""
CHOICE = 'choice: {columns: c, options: ["a", "b"]}'


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_task_file(own(tmp_path, text))
    return str(caught.value)


def test_the_built_in_tasks_are_the_files_of_their_folder() -> None:
    assert task_names() == NAMES
    for name in task_names():
        assert find_task(name).name == name
    with pytest.raises(InputError, match=r"--task poem: no such task; known are findings, .*, or FILE.yaml"):
        find_task("poem")
    with pytest.raises(InputError, match="not JSON"):
        find_task("{poem")


@pytest.mark.parametrize("name", NAMES)
def test_a_task_survives_the_json_of_a_run(name: str) -> None:
    task = find_task(name)
    assert find_task(json.dumps(dataclasses.asdict(task))) == task
    assert task_problems(task) == []


def test_the_worked_example_is_read() -> None:
    task = read_task_file(EXAMPLE)
    assert task.name == "patient_instructions" and task.source == "summary" and task.id_columns == ("stay_id",)
    assert task.parts[0].form == "line" and task.parts[1].columns == ("discharge_summary", "summary")
    assert find_task(task_text(str(EXAMPLE))) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "metric: rouge\n", "unknown key 'metric'; known are name, instruction, parts"),
        (SMALL.replace('label: "Text:"', "lable: x"), "parts[1]: unknown key 'lable'"),
        (SMALL.replace("columns: text", "columns: text, form: paragraph"), "parts[1].form: expected line or block"),
        (SMALL.replace("instruction: Translate.\n", ""), "'instruction' is missing"),
        (SMALL + "metrics: [rouge, bleu]\n", "metrics: unknown 'bleu'; known are rouge, accuracy, macro_f1"),
        (SMALL + "metrics: accuracy\n", "accuracy and macro_f1 are of a choice, and the answer has none"),
        (SMALL + "floors: copy\n", "floors: unknown 'copy'"),
        (SMALL + "truncate: {part: dialogue, unit: turns}\n", "truncate: there is no part 'dialogue'"),
        (SMALL + "truncate: {part: text, unit: words}\n", "truncate.unit: expected turns or paragraphs"),
        (SMALL + "facts_from: note\n", "facts_from: there is no part 'note'; the parts are text"),
        (SMALL + "divide: maybe\n", "divide: expected true or false"),
        (SMALL.replace("Translate.", '""'), "the instruction is empty"),
        (
            SMALL.replace("columns: out", "columns: out, choice: {columns: c, options: [yes, no]}"),
            "need quotes in YAML",
        ),
        (SMALL.replace("columns: out", "columns: out, choice: {columns: c, options: [a, A]}"), "at least two options"),
        # A row's own field would be read from the part's column: a note that is the prompt's, or equal ids.
        (SMALL.replace("name: text", "name: note"), "parts: 'note' is the name of a row's own field"),
        (SMALL.replace("name: text", "name: id"), "parts: 'id' is the name of a row's own field"),
        (SMALL.replace("name: text", "name: choice"), "parts: 'choice' is the name of a row's own field"),
        (SMALL.replace("columns: text", "columns: []"), "parts: 'text' has no columns"),
        (SMALL.replace("columns: text", "columns: text, is_section: true"), "named 'section_header' and stands on a"),
        (SMALL + "divide: true\n", "divide: needs a part 'division'"),
        (
            SMALL.replace("name: text", "name: division") + "divide: true\n",
            "'division' is made by divide, so it has no",
        ),
        (
            SMALL.replace("columns: out", f"columns: out, {CHOICE}") + "divide: true\n",
            "divide: the answer has a choice",
        ),
        (SMALL + "floors: majority\n", "floors: majority is of a choice"),
        (SMALL + "floors: without_source\n", "floors: without_source is of a choice by_likelihood"),
        (SMALL.replace("columns: out", f"columns: out, {CHOICE}") + "floors: without_source\n", "by_likelihood"),
        (SMALL.replace("parts:\n", "parts:\n  - {name: more, label: More, columns: m}\n"), "which of more, text"),
        (SMALL.replace("answer:", "  - {name: to, label: To, columns: to, form: line}\nanswer:"), "which of text, to"),
        (SMALL + "instruction: Read.\n", "a key occurs twice below line 1"),
        (SMALL.replace("columns: out", "columns: out, columns: text"), "a key occurs twice below line 4"),
        ("- a\n- b\n", "expected keys and values"),
        ("a: [b\n", "not YAML (line 2)"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_a_wrong_task_file_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_the_source_is_the_last_part_where_nothing_may_be_truncated(tmp_path: Path) -> None:
    line = "parts:\n  - {name: reader, label: To, columns: to, form: line}\n"
    task = read_task_file(own(tmp_path, SMALL.replace("parts:\n", line)))
    assert (task.source, task.truncate) == ("text", None)


def test_the_task_of_an_earlier_run_is_read_where_its_file_would_be_refused_today() -> None:
    task = dataclasses.asdict(find_task("pubmedqa")) | {"truncate": None}
    task["parts"] = task["parts"][::-1]
    assert find_task(json.dumps(task)).source == "question"


@pytest.mark.parametrize("names", [("history", "past_history"), ("past_history", "history")])
def test_the_name_of_a_part_may_end_as_another_does(tmp_path: Path, names: tuple[str, str]) -> None:
    parts = "\n".join(f'  - {{name: {name}, label: "{name}:", columns: {name}}}' for name in names)
    text = f"instruction: Plan.\nparts:\n{parts}\nanswer: {{label: Out, columns: out}}\n"
    task = read_task_file(own(tmp_path, text + "truncate: {part: history, unit: turns}\n"))
    renderer = build_renderer(tiny_tokenizer(), task=task, style="plain")
    prompt = renderer.decode(renderer.prompt_ids({"history": "cough", "past_history": "asthma"}))
    first, second = ("cough", "asthma") if names[0] == "history" else ("asthma", "cough")
    assert prompt == f"Plan.\n\n{names[0]}:\n{first}\n\n{names[1]}:\n{second}\n\nOut"


def test_all_faults_of_a_task_file_are_in_one_message_with_those_of_the_flags(tmp_path: Path) -> None:
    path = own(tmp_path, SMALL + "metrics: bleu\nfloors: copy\n")
    with pytest.raises(InputError) as caught:
        parse_run(["--train_file", str(tmp_path / "none.csv"), "--task", str(path), "--lora_r", "0"])
    message = str(caught.value)
    assert all(part in message for part in ("'bleu'", "'copy'", "there is no such file", "--lora_r 0"))


def test_grounded_is_refused_for_a_task_without_a_source_text() -> None:
    with pytest.raises(InputError, match="--grounded: the task medquad gives no text"):
        parse_run(["--train_file", str(EXAMPLE), "--task", "medquad", "--grounded"])


def test_missing_columns_are_named_with_the_remedy(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("stay_id,summary\n1,Rest.\n")
    with pytest.raises(InputError) as caught:
        read_records(rows, columns=Columns(task=read_task_file(EXAMPLE)))
    assert "no column 'patient_instructions', 'reading_level'" in str(caught.value)
    assert "--note_column NAME" in str(caught.value)
    with pytest.raises(InputError, match="describe yours in a task file"):
        read_records(rows, columns=Columns(task=read_task_file(EXAMPLE)), require_note=False)


def test_a_choice_that_is_none_of_the_options_is_refused_by_row(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,question,context,final_decision\n1,Q?,C.,Yes\n2,Q?,C.,perhaps\n3,Q?,C.,\n")
    with pytest.raises(InputError) as caught:
        read_records(rows, columns=Columns(task=find_task("pubmedqa")))
    assert "row 2 (line 3), column 'final_decision': none of the 3 options, yes, no, maybe" in str(caught.value)
    assert "row 3 (line 4), column 'final_decision': empty" in str(caught.value) and "perhaps" not in str(caught.value)
    rows.write_text("id,question,context,final_decision\n1,Q?,C.,Yes\n")
    (record,) = read_records(rows, columns=Columns(task=find_task("pubmedqa")))
    assert record.choice == "yes" and record.answer == "yes" and record.source_text == "C."


YES_NO = Answer(label="Answer:", columns=("a",), choice=Choice(columns=("c",), options=("yes", "no", "no data")))


@pytest.mark.parametrize(
    ("answer", "split"),
    [
        ("yes\nIt does.", ("yes", "It does.")),
        ("Yes, it does.", ("yes", "it does.")),
        ("**No data**: none", ("no data", "none")),  # the longest option counts
        ("**No data:** none", ("no data", "none")),
        ("No - none", ("no", "none")),
        ("No\n- none", ("no", "- none")),
        ("No fracture is seen.", ("no", "No fracture is seen.")),  # never its opposite
        ("No-one fell.", ("no", "No-one fell.")),
        ("  no", ("no", "")),
        ("none of them", ("", "none of them")),
        ("It does: yes", ("", "It does: yes")),
        ("", ("", "")),
    ],
)
def test_a_written_answer_is_split_into_choice_and_text(answer: str, split: tuple[str, str]) -> None:
    assert YES_NO.split(answer) == split
    assert Answer(label="x", columns=("a",)).split(answer) == ("", answer)


@given(st.sampled_from(sorted(SECTION_NAMES)), st.text(min_size=1).map(str.strip).filter(bool))
def test_a_joined_answer_is_split_into_the_same_choice_and_text(code: str, text: str) -> None:
    task = find_task("section-with-header")
    record = Record(id="1", parts={"dialogue": "x"}, note=text, choice=section_name(code))
    choice, rest = task.answer.split(record.answer)
    assert (section_code(choice), rest) == (code, text)


def test_choice_and_text_are_trained_on_and_ignored_spans_are_positions_in_the_text() -> None:
    renderer = build_renderer(tiny_tokenizer(), task=find_task("pubmedqa"))
    record = Record(
        id="1", parts={"question": "Why?", "context": "Four."}, note="In 4 days.", choice="yes", source="context"
    )
    limits = {"max_length": 512, "max_new_tokens": 64}
    whole = build_example(record, renderer, **limits)
    masked = build_example(record, renderer, **limits, ignored_spans=[(3, 4)])
    assert whole is not None and masked is not None
    assert renderer.decode(whole.note_ids) == "yes\nIn 4 days."
    dropped = [a for a, b in zip(whole.targets, masked.targets, strict=True) if a != b and b == IGNORE_INDEX]
    assert renderer.tokenizer.decode(dropped).strip() == "4"


def test_an_abstract_without_a_paragraph_that_fits_is_set_aside() -> None:
    renderer = build_renderer(tiny_tokenizer(), task=find_task("pubmedqa"))
    record = Record(id="1", parts={"question": "Why?", "context": "So. " * 90}, choice="yes", source="context")
    short = replace(record, parts={"question": "Why?", "context": "So."})
    [left_out] = build_examples([record, short], renderer, max_length=200, max_new_tokens=10)[1].set_aside
    assert left_out.reason == "no paragraph of the context fits with its note"


def test_an_abstract_loses_whole_paragraphs() -> None:
    renderer = build_renderer(tiny_tokenizer(), task=find_task("pubmedqa"))
    lines = ["Doctor: is no turn here.", *(f"Sentence {n} of it. Still the same paragraph." for n in range(8))]
    record = Record(id="1", parts={"question": "Why?", "context": "\n".join(lines)}, source="context")
    kept = "\n".join([lines[0], GAP, lines[-1]])
    budget = len(renderer.prompt_ids({"question": "Why?", "context": kept}))
    prompt = prompt_within(record, renderer, max_prompt_tokens=budget)
    assert prompt.ids == renderer.prompt_ids({"question": "Why?", "context": kept}) and prompt.num_turns_dropped == 7


def test_a_row_too_long_for_a_task_without_truncation_is_set_aside() -> None:
    renderer = build_renderer(tiny_tokenizer(), task=find_task("medquad"))
    record = Record(id="1", parts={"question": "Why " * 80}, note="So.", source="question")
    assert build_example(record, renderer, max_length=90, max_new_tokens=10) is None
    assert build_example(record, renderer, max_length=600, max_new_tokens=10) is not None
    [left_out] = build_examples(
        [record, replace(record, parts={"question": "Why?"})], renderer, max_length=90, max_new_tokens=10
    )[1].set_aside
    assert left_out.reason == "the question, which this task never truncates, does not fit with its note"
    budget = TokenBudget(max_prompt_tokens=80, max_new_tokens=10, num_positions=None)
    reason = fit_rows({"row": record}, renderer, budget).set_aside["row"]
    assert reason.startswith("the question, which this task never truncates, does not fit a prompt of 80 tokens")


def visit(id: str, note: str) -> Record:
    return Record(id=id, parts={"division": "", "dialogue": f"[doctor] hello {id}"}, note=note)


def test_a_visit_is_divided_into_four_rows_and_joined_again() -> None:
    visits = [visit("a", visit_note("a cough")), visit("b", visit_note("a rash", with_results=False))]
    rows = divide_records(visits)
    assert [row.id for row in rows[:4]] == [f"a/{division}" for division in DIVISIONS]
    assert [row.parts["division"] for row in rows[:2]] == ["subjective", "objective exam"]
    assert rows[0].note == "CHIEF COMPLAINT\n\nHas a cough." and rows[6].note == NOT_DISCUSSED
    joined, texts = join_records(rows, [row.note for row in rows])
    assert texts == [visit.note for visit in visits] == [record.note for record in joined]
    assert [record.id for record in joined] == ["a", "b"]
    with pytest.raises(ValueError, match="not complete"):
        join_records(rows[1:5], ["x"] * 4)


def test_the_divisions_of_a_visit_are_not_repeats_and_shared_visits_are_found() -> None:
    rows = divide_records([visit("a", visit_note("a cough"))])
    assert find_repeats(rows) == [] and find_shared(rows, rows) == [row.id for row in rows]


def test_a_section_is_refused_for_a_task_without_sections() -> None:
    with pytest.raises(InputError, match="the task visit knows no sections"):
        Columns(task=find_task("visit"), section="CC")


def test_tasks_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_task("section").name = "x"  # type: ignore[misc]
