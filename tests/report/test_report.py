"""Base against tuned, the report and the model card: figures against independent references, and no text of rows."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from rouge_score import rouge_scorer
from support import section_parts, section_record, tiny_model, tiny_tokenizer

from medsum_core.data.build_report import BuildReport, SetAside
from medsum_core.data.prompt import build_renderer
from medsum_core.generation import notes as notes_module
from medsum_core.generation.generate import generate
from medsum_core.generation.notes import generate_notes
from medsum_core.grounding.kinds import CHECKED_KINDS, UNCHECKED
from medsum_core.report.comparison import Comparison, Side, compare_base_and_tuned
from medsum_core.report.markdown import estimate
from medsum_core.report.model_card import write_model_card
from medsum_core.report.report import write_report
from medsum_core.report.run_summary import RunSummary
from medsum_core.report.tables import OMISSION_NOTE, fact_differences, fact_table, score_table
from medsum_core.score.bootstrap import mean_difference, mean_estimate, rate_difference, rate_estimate
from medsum_core.score.rouge import METRICS
from medsum_core.tasks.find import find_task
from medsum_core.training.audit import TargetAudit
from medsum_core.training.dataset import DataFacts
from medsum_core.training.validation import generation_scores

CANARY = "xylocanaryphone"
RECORDS = [
    section_record(
        id=f"row-{n}",
        section_header="GENHX",
        dialogue=f"Doctor: What brings you in, {CANARY}?\nPatient: A cough for {n} days.",
        note=f"{CANARY} has had a cough for {n if n % 2 else n + 90} days.",
    )
    for n in (3, 4, 5)
]
LIMITS = {"max_length": 256, "max_new_tokens": 8}
DATA = DataFacts(
    source="own",
    train=BuildReport(
        num_rows=12,
        num_used=11,
        num_turns_dropped={"t1": 2, "t2": 1},
        beyond_reserve=("t2",),
        set_aside=(
            SetAside(id="t3", num_note_tokens=999, num_tokens_needed=1300, reason="its note alone does not fit"),
        ),
        inexact=("t5",),
    ),
    validation=BuildReport(num_rows=3, num_used=3, num_turns_dropped={}, beyond_reserve=(), set_aside=()),
    repeated_ids=("t4",),
    shared_ids=("row-4",),
)
SUMMARY = RunSummary(
    base_name="google/gemma-2b-it",
    base_type="gemma",
    base_revision="abc123",
    precision="bf16",
    load_in_4bit=True,
    task=find_task("section"),
    prompt_style="chat",
    num_updates=75,
    eval_loss_before=3.0,
    eval_loss_after=2.25,
    stop_loss_before=25.0,
    stop_loss_after=0.5,
    seconds={"training": 3725.0, "report": 42.5},
    versions={"torch": "2.13.0"},
    settings={"train": {"seed": 42, "learning_rate": 2e-4}, "output": {"output_dir": "a|b"}},
)
AUDIT = TargetAudit(choice="mask", num_notes=11, num_notes_flagged=2, num_facts=20, num_unsupported=3)


@lru_cache
def tuned_model():
    torch.manual_seed(0)
    model = get_peft_model(
        tiny_model("llama"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@lru_cache
def renderer():
    return build_renderer(tiny_tokenizer())


@lru_cache
def compared():
    found = compare_base_and_tuned(
        tuned_model(), renderer(), RECORDS, shared_ids=("row-4", "elsewhere"), show_progress=False, **LIMITS
    )
    return found.comparison, found.base_notes, found.tuned_notes


def texts_of(value) -> str:
    """Every string that a tree of records, mappings and sequences holds."""
    if is_dataclass(value):
        return " ".join(texts_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return " ".join(texts_of(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return " ".join(texts_of(part) for part in value)
    return str(value)


# --- generation ---------------------------------------------------------------------------------------------------


def test_base_and_tuned_notes_equal_those_of_the_two_models_alone():
    _, base, tuned = compared()
    plain = generate_notes(tiny_model("llama"), renderer(), RECORDS, show_progress=False, **LIMITS)
    assert base == plain
    assert tuned == generate_notes(tuned_model(), renderer(), RECORDS, show_progress=False, **LIMITS)
    assert [note.note for note in base] != [note.note for note in tuned]


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_and_gradients_are_restored(training):
    model = tuned_model().train(training)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    generate_notes(model, renderer(), RECORDS[:1], show_progress=False, **LIMITS)
    compare_base_and_tuned(model, renderer(), RECORDS[:1], show_progress=False, **LIMITS)
    assert all(module.training == training for module in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    model.eval()


def test_a_long_dialogue_is_truncated_as_in_training(monkeypatch):
    prompts = []

    def generate_and_record(model, token_ids, **settings):
        prompts.extend(token_ids)
        return generate(model, token_ids, **settings)

    monkeypatch.setattr(notes_module, "generate", generate_and_record)
    long = section_record(id="long", section_header="CC", dialogue="Doctor: Hm?\nPatient: No.\n" * 60, note="x")
    notes = generate_notes(tuned_model(), renderer(), [RECORDS[0], long], show_progress=False, **LIMITS)
    whole = renderer().prompt_ids(section_parts(long.source_text, long.section_header))
    assert prompts[0] == renderer().prompt_ids(section_parts(RECORDS[0].source_text, RECORDS[0].section_header))
    assert len(whole) > 256 - 8 >= len(prompts[1]) > 200  # whole turns are dropped, and not more than needed
    assert [note.id for note in notes] == ["row-3", "long"]


def test_each_side_is_measured_row_by_row():
    comparison, base, tuned = compared()
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for side, notes in ((comparison.base, base), (comparison.tuned, tuned)):
        for row, (record, note) in enumerate(zip(RECORDS, notes, strict=True)):
            expected = scorer.score(record.note, note.note)
            for name in ("rouge1", "rouge2", "rougeL"):
                assert side.rouge[name][row] == pytest.approx(expected[name].fmeasure)
        assert side.num_tokens == tuple(note.num_tokens for note in notes)
        assert side.hit_limit == tuple(note.hit_limit for note in notes)
    for row, record in enumerate(RECORDS):
        copied = re.sub(r"(Doctor|Patient): ", "", record.source_text).replace("\n", " ")
        expected = scorer.score(record.note, copied)["rougeL"].fmeasure
        assert comparison.copied_dialogue["rougeL"][row] == pytest.approx(expected)
    references = comparison.references
    assert references.num_tokens == tuple(len(renderer().note_ids(record.note)) - 1 for record in RECORDS)
    assert references.num_unsupported == (0, 1, 0)  # the note of row 4 says 94 days
    assert references.num_stated == (2, 2, 2) and references.num_omitted == (0, 1, 0)  # a cough, and for how long


def test_evaluation_scores_have_the_names_of_the_metrics():
    _, _, tuned = compared()
    scores = generation_scores(tuned_model(), renderer(), RECORDS, show_progress=False, **LIMITS)
    assert list(scores)[:4] == ["eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_rougeLsum"]
    assert scores["eval_rouge1"] == pytest.approx(np.mean(compared()[0].tuned.rouge["rouge1"]))
    assert scores["eval_stopped_share"] == pytest.approx(np.mean([not note.hit_limit for note in tuned]))
    assert scores["eval_note_tokens"] == pytest.approx(np.mean([note.num_tokens for note in tuned]))


def test_rows_shared_with_training_can_be_left_out():
    comparison, _, _ = compared()
    rest = comparison.without_shared()
    assert comparison.shared_ids == {"row-4"} and rest.ids == ("row-3", "row-5")
    for whole, part in ((comparison.references, rest.references), (comparison.tuned, rest.tuned)):
        assert part.num_tokens == (whole.num_tokens[0], whole.num_tokens[2])
        assert part.num_unsupported == (whole.num_unsupported[0], whole.num_unsupported[2])
        assert part.num_omitted == (whole.num_omitted[0], whole.num_omitted[2])
    assert rest.base.rouge["rougeL"] == comparison.base.rouge["rougeL"][::2]


def test_a_value_that_cannot_be_measured_is_a_dash():
    for nothing in (mean_estimate([]), mean_difference([], []), rate_estimate([0, 0], [0, 0])):
        assert estimate(nothing) == "–"
    assert np.isnan(rate_difference([0], [0], [1], [2]).value)


# --- what is written ----------------------------------------------------------------------------------------------


def row_of(text: str, title: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def a_side(rouge: float, *, tokens: int, stopped: bool, unsupported: int) -> Side:
    return Side(
        rouge=dict.fromkeys(METRICS, (rouge, rouge)),
        num_tokens=(tokens, tokens),
        hit_limit=(not stopped, not stopped),
        num_facts=(4, 4),
        num_unsupported=(unsupported, unsupported),
        num_stated=(5, 3),
        num_omitted=(unsupported, 1),
    )


def two_rows() -> Comparison:
    return Comparison(
        ids=("v1", "v2"),
        shared_ids=frozenset(),
        references=replace(a_side(0, tokens=20, stopped=True, unsupported=1), rouge={}),
        base=a_side(0.125, tokens=256, stopped=False, unsupported=3),
        tuned=a_side(0.5, tokens=25, stopped=True, unsupported=2),
        copied_dialogue=dict.fromkeys(METRICS, (0.25, 0.0)),
        max_new_tokens=256,
    )


def test_the_score_table_has_the_means_of_the_rows():
    text = score_table(two_rows())
    assert "copied source text: 0.125" in row_of(text, "ROUGE-1")[0]
    assert row_of(text, "ROUGE-1")[1:] == ["0.125 [0.125, 0.125]", "0.500 [0.500, 0.500]", "+0.375 [+0.375, +0.375]"]
    length = row_of(text, "note length")
    assert "references: 20.0" in length[0] and length[3] == "−231.0 [−231.0, −231.0]"
    stopped = row_of(text, "notes that stopped")
    assert "256 new tokens" in stopped[0]
    assert stopped[1:] == ["0.0 % [0.0, 0.0]", "100.0 % [100.0, 100.0]", "+100.0 [+100.0, +100.0] points"]
    rates = row_of(fact_table(two_rows()), "unsupported rate")
    assert rates[1:] == ["25.0 % [25.0, 25.0]", "75.0 % [75.0, 75.0]", "50.0 % [50.0, 50.0]"]
    left_out = row_of(fact_table(two_rows()), "omission rate")
    assert left_out[1:] == ["25.0 % [20.0, 33.3]", "50.0 % [33.3, 60.0]", "37.5 % [33.3, 40.0]"]
    unsupported, omission = fact_differences(two_rows()).split(" Differences")
    assert "unsupported rate" in unsupported and "tuned − base −25.0 [−25.0, −25.0]" in unsupported
    assert "tuned − base −12.5 [−20.0, +0.0]; tuned − references +12.5 [+0.0, +20.0]" in omission  # paired


@pytest.mark.parametrize("stated", [(5, 3), (0, 0)])  # (0, 0): facts come from a text that is no dialogue
def test_each_rate_names_the_kinds_of_facts_that_it_covers(tmp_path: Path, stated: tuple[int, int]) -> None:
    rows = two_rows()
    rows = replace(rows, references=replace(rows.references, num_stated=stated))
    write_report(tmp_path / "report.md", summary=SUMMARY, data=DATA, comparison=rows)
    write_model_card(tmp_path, summary=SUMMARY, data=DATA, comparison=rows)
    for text in [(tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "README.md")]:
        assert CHECKED_KINDS in text and UNCHECKED in text
        assert ("| omission rate" in text) == (OMISSION_NOTE in text) == any(stated)


def test_the_report_accounts_for_every_row(tmp_path):
    write_report(tmp_path / "report.md", summary=SUMMARY, data=DATA, comparison=compared()[0], audit=AUDIT)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert row_of(text, "validation loss")[1:] == ["3.000", "2.250", "−0.750 (−25.0 %)"]
    assert row_of(text, "loss of the stop token")[1:] == ["25.000", "0.500", "−24.500 (−98.0 %)"]
    for piece in (
        "Training: 11 of 12 rows used.",
        "(2 rows, by 3 whole turns or paragraphs): `t1`, `t2`",
        "long note (1): `t2`",
        "learnt without them (1): `t5`",
        "`t3` (note of 999 tokens; fits whole into `--max_length 1300`)",
        "an earlier row has (1, kept): `t4`",
        "(1, kept): `row-4`",
        "3 of 20 checkable facts in the training notes (15.0 %)",
        "in 2 of 11 notes: their tokens",
        "NF4 base, bf16 computation",
        "75 updates, no window skipped",
        "1 h 02 min",
        "| `learning_rate` | `0.0002` |",
        "![training and validation loss by update](loss_curve.png)",
    ):
        assert piece in text
    without = text.split("## Without rows shared with training")[1]
    assert "`row-4`. Rows left: 2." in without and "ROUGE-1" in without
    assert "dequantised" not in text


def test_a_report_without_generation_says_so(tmp_path):
    write_report(tmp_path / "report.md", summary=replace(SUMMARY, base_name="\udcff"), data=DATA, comparison=None)
    write_model_card(tmp_path, summary=SUMMARY, data=DATA, comparison=None)
    report, card = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "README.md"))
    assert "(`--report_rows 0`)" in report and r"`\udcff`" in report and "No notes were generated" in card
    write_report(tmp_path / "report.md", summary=SUMMARY, data=replace(DATA, validation=None), comparison=None)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "There are no validation rows: no notes" in report and "`--report_rows" not in report


@pytest.mark.parametrize(
    "name,base_type,label",
    [
        ("embedded:gemma3-270m", "gemma3_text", "dequantised Q4_K_M of Gemma 3 270M, not official Gemma scores"),
        ("embedded:smollm2-135m-it", "llama", "dequantised Q4_1 of SmolLM2 135M Instruct, not official SmolLM2 scores"),
        ("google/gemma-2b-it", "gemma", None),
    ],
)
def test_embedded_scores_are_labelled(tmp_path, name, base_type, label):
    summary = replace(SUMMARY, base_name=name, base_type=base_type)
    write_report(tmp_path / "report.md", summary=summary, data=DATA, comparison=compared()[0])
    write_model_card(tmp_path, summary=summary, data=DATA, comparison=compared()[0])
    for file in ("report.md", "README.md"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert label in text if label else "dequantised" not in text
    assert ("licence of the base model (Apache 2.0)" in text) == (base_type == "llama")  # Gemma's terms stand elsewhere


def test_no_text_of_a_row_reaches_report_card_or_comparison(tmp_path):
    comparison, base, tuned = compared()
    write_report(tmp_path / "report.md", summary=SUMMARY, data=DATA, comparison=comparison, audit=AUDIT)
    write_model_card(tmp_path, summary=SUMMARY, data=DATA, comparison=comparison, audit=AUDIT)
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    assert CANARY not in written and CANARY not in texts_of(comparison)
    for note in [*base, *tuned]:
        if len(note.note) > 5:
            assert note.note not in written and note.note not in repr(note)
