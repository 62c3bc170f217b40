"""Named data sets: splits, configurations, dropped rows and notices, on fictional files in the official formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from public_files import serve

from medsum_core.data.columns import Columns
from medsum_core.data.hub import NO_SPLIT
from medsum_core.data.named.registry import load_named, named_datasets, named_table
from medsum_core.data.named.sets import aci_bench, mts_dialog, mts_dialog_augmented, pubmedqa
from medsum_core.errors import InputError

CANARY = "CANARYTEXT"
MTS_COLUMNS = ("ID", "section_header", "section_text", "dialogue")


def mts(*rows: tuple[str, str, str]) -> bytes:
    """A file in MTS-Dialog's form, with CRLF as its training file has, from (id, note, dialogue)."""
    lines = [",".join(MTS_COLUMNS), *(f'{id},CC,{note},"{dialogue}"' for id, note, dialogue in rows)]
    return "\r\n".join(lines).encode()


def column(name: str, split: str, what: str, config: str | None = None) -> list[str]:
    return [row.cells[what] for row in named_table(name, split, config_name=config).rows]


def test_the_named_data_sets_are_these() -> None:
    names = ["aci-bench", "medquad", "mts-dialog", "mts-dialog-augmented", "primock57", "pubmedqa", "vqa-rad"]
    assert sorted(named_datasets()) == names


@pytest.fixture
def main_files() -> Mapping[str, bytes]:
    return {
        mts_dialog.FILES["train"]: mts(("0", "None", "D: a\nP: b"), ("1", "N/A", "D: shared"), ("2", "Cough.", "D: c")),
        mts_dialog.FILES["valid"]: mts(("0", "N/A", "D:  shared"), ("1", "Held out.", "D: v")),
        mts_dialog.FILES["test1"]: mts(("0", "A test.", "D: t")),
        mts_dialog.FILES["test2"]: mts(("0", "None", "D: u")),
    }


def test_mts_dialog_splits_and_refusals(
    main_files: Mapping[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, tmp_path, "mts-dialog", main_files)
    rows = load_named("mts-dialog")
    assert [record.note for record in rows.train.records] == ["None", "N/A", "Cough."]
    assert rows.validation is not None and len(rows.validation.records) == 2
    assert rows.notices == ("mts-dialog: trained on split train, validated on split valid",)
    assert load_named("mts-dialog", validation_split=NO_SPLIT).validation is None
    assert column("mts-dialog", "test2", "dialogue") == ["D: u"]
    assert "did not give the header" in named_table("mts-dialog", "test1").notices[0]
    for flags, message in (
        ({"train_split": "dev"}, r"no split 'dev': choose one of train, valid, test1, test2"),
        ({"validation_split": "train"}, "are both 'train'"),
        ({"config_name": "set1"}, "mts-dialog has no configurations"),
    ):
        with pytest.raises(InputError, match=message):
            load_named("mts-dialog", **flags)
    path = tmp_path / "raw" / "abachaa/MTS-Dialog" / mts_dialog.DATASET.commit / mts_dialog.FILES["test2"]
    path.write_bytes(mts(("0", CANARY, "D: other")))
    (tmp_path / "cache").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="not the pinned file") as caught:
        named_table("mts-dialog", "test2")
    assert CANARY not in str(caught.value)


AUGMENTED = mts(
    ("0", "None", "D: a\nP: b"),
    ("1", "N/A", "D: shared"),  # a dialogue of the validation file
    ("2", "Cough.", "D: c"),
    ("TR=EN-FR-EN 0", "None", "D: un"),
    ("TR=EN-FR-EN 1", "N/A", "D: partage"),  # translated from a dialogue of the validation file
    ("TR=EN-ES-EN 2", "Cough.", "D:   t"),  # a dialogue of the first test
    ("TR=EN-ES-EN 1", "Held out.", "D: uve"),  # has the note of row 1 of the validation file: translated from it
    ("TR=EN-ES-EN 0", "A test.", "D: te"),  # has the note of row 0 of the first test: translated from it
    ("2", "Cough.", "D: c again"),
)


def test_augmented_rows_that_leak_are_dropped_and_counted(
    main_files: Mapping[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {mts_dialog_augmented.FILES[config]: mts(("7", "x", f"D: {config}")) for config in ("set1", "set2")}
    files |= {mts_dialog_augmented.FILES["set3"]: AUGMENTED, **main_files}
    serve(monkeypatch, tmp_path, "mts-dialog-augmented", files)
    table = named_table("mts-dialog-augmented", "train")
    assert [row.cells["ID"] for row in table.rows] == ["0", "2#1", "TR=EN-FR-EN 0", "2#2"]
    assert table.notices[-1].startswith("5 of 9 rows dropped") and table.columns == MTS_COLUMNS
    assert column("mts-dialog-augmented", "train", "dialogue", "set1") == ["D: set1"]
    assert column("mts-dialog-augmented", "valid", "section_text", "set2") == ["N/A", "Held out."]
    notice = load_named("mts-dialog-augmented").notices[0]
    assert notice == "mts-dialog-augmented, configuration set3: trained on split train, validated on split valid"
    with pytest.raises(InputError, match="no configuration 'set4': choose from set3, set1, set2"):
        load_named("mts-dialog-augmented", config_name="set4")


def test_aci_bench_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "dataset,encounter_id,dialogue,note\n"
    files = {
        path: (head + f'virtassist,D2N{number},"[doctor] hi\n[patient] {split}",a note\n').encode()
        for number, (split, path) in enumerate(aci_bench.FILES.items())
    }
    serve(monkeypatch, tmp_path, "aci-bench", files)
    columns = Columns(id="encounter_id", note="note", section="Visit note")
    rows = load_named("aci-bench", columns=columns, validation_split="test3")
    assert rows.train.records[0].id == "D2N0" and rows.train.records[0].note == "a note"
    assert rows.validation is not None and rows.validation.records[0].source_text == "[doctor] hi\n[patient] test3"


def textgrid(*intervals: tuple[float, float, str]) -> bytes:
    """A transcript as Praat writes it: spaces after the values, CRLF."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", "tiers? <exists> ", "item []: "]
    lines += ["    item [1]:", '        class = "IntervalTier" ', f"        intervals: size = {len(intervals)} "]
    for number, (start, end, text) in enumerate(intervals, start=1):
        lines += [f"        intervals [{number}]:", f"            xmin = {start} ", f"            xmax = {end} "]
        lines += [f'            text = "{text}" ']
    return "\r\n".join(lines).encode()


CONSULTATION = {
    "transcripts/README.md": b"",
    "transcripts/day1_consultation01_doctor.TextGrid": textgrid(
        (0, 1, ""), (1, 2, 'Hello ""Jo"".'), (2, 3, "<UNIN/> How <UNSURE>are</UNSURE>  you?"), (10.5, 12, "I see.")
    ),
    "transcripts/day1_consultation01_patient.TextGrid": textgrid(
        (2.5, 2.9, "<INAUDIBLE_SPEECH/>"), (9.25, 9.5, "Bad."), (9.5, 9.75, "Very."), (10.5, 11, "Pain < 3 days.")
    ),
    "notes/day1_consultation01.json": b'{"day": 1, "consultation": 1, "note": "2/7 pain\\n", "highlights": ["pain"]}',
}


def test_primock57_merges_both_transcripts_in_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifth = {path.replace("day1", "day5"): data for path, data in CONSULTATION.items()}
    serve(monkeypatch, tmp_path, "primock57", {**CONSULTATION, **fifth})
    (row,) = named_table("primock57", "train").rows
    assert row.cells == {
        "id": "day1_consultation01",
        "dialogue": 'Doctor: Hello "Jo". How are you?\nPatient: Bad. Very.\nDoctor: I see.\nPatient: Pain < 3 days.',
        "note": "2/7 pain\n",
    }
    assert column("primock57", "valid", "id") == ["day5_consultation01"]
    assert column("primock57", "all", "id") == ["day1_consultation01", "day5_consultation01"]


@pytest.mark.parametrize(
    "path,data,message",
    [
        ("transcripts/day1_consultation01_patient.TextGrid", CANARY.encode(), "patient.TextGrid: not a TextGrid"),
        ("transcripts/day1_consultation01_patient.TextGrid", textgrid((0, 1, "a"), (1, 2, 'b"c')), "not a TextGrid"),
        ("transcripts/day1_consultation01_patient.TextGrid", b"\xff", "not UTF-8"),
        ("transcripts/day1_consultation01_patient.TextGrid", None, "patient.TextGrid is absent"),
        ("notes/day1_consultation01.json", b'{"' + CANARY.encode() + b'": 1}', "not JSON with a key 'note'"),
    ],
)
def test_primock57_refuses_what_it_cannot_read(
    path: str, data: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: content for name, content in {**CONSULTATION, path: data}.items() if content is not None}
    serve(monkeypatch, tmp_path, "primock57", files)
    with pytest.raises(InputError, match=message) as caught:
        named_table("primock57", "all")
    assert CANARY not in str(caught.value)


def questions(labels: Mapping[str, str]) -> bytes:
    return json.dumps(
        {
            id: {
                "QUESTION": f"Is {id} so?",
                "CONTEXTS": ["First\npart.", "Second part."],
                "LABELS": ["AIM", "RESULTS"],
                "final_decision": label,
                "LONG_ANSWER": "It is.",
            }
            for id, label in labels.items()
        }
    ).encode()


def pubmedqa_labels() -> dict[str, str]:
    """1,000 ids with the official numbers of labels: 552 yes, 338 no, 110 maybe."""
    labels = ["yes", "no", "maybe", "yes", "yes", "no"] * 110 + ["yes"] * 222 + ["no"] * 118
    return {str(10_000 + number): label for number, label in enumerate(labels)}


def test_pubmedqa_test_split_and_folds_are_the_official_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = pubmedqa_labels()
    test, folds = pubmedqa.official_split(labels)
    assert Counter(labels[id] for id in test) == {"yes": 276, "no": 169, "maybe": 55}  # figures of the official test
    assert [len(fold) for fold in folds] == [50] * 10
    assert sorted(test + [id for fold in folds for id in fold]) == sorted(labels)
    truth = json.dumps({id: labels[id] for id in sorted(test)}).encode()
    files = {pubmedqa.QUESTIONS: questions(labels), pubmedqa.TEST: truth}
    serve(monkeypatch, tmp_path, "pubmedqa", files)
    table = named_table("pubmedqa", "test")
    assert table.columns == ("id", "question", "context", "long_answer", "final_decision")
    assert table.rows[0].cells["context"] == "First part.\nSecond part."
    assert column("pubmedqa", "test", "id") == test
    assert column("pubmedqa", "valid", "id") == folds[0] and column("pubmedqa", "valid", "id", "fold9") == folds[9]
    assert column("pubmedqa", "train", "id", "fold1") == [id for fold in (folds[0], *folds[2:]) for id in fold]
    serve(monkeypatch, tmp_path / "2", "pubmedqa", {**files, pubmedqa.TEST: truth.replace(test[0].encode(), b"5")})
    with pytest.raises(InputError, match="the test questions are not those of"):
        named_table("pubmedqa", "train")


# test_ground_truth.json lists the 55 test questions with the answer maybe in the order in which the official split drew
# them; these are their ranks in the order of ori_pqal.json.
OFFICIAL_DRAW = [
    40, 47, 12, 15, 7, 41, 39, 53, 21, 34, 30, 48, 38, 27, 36, 11, 25, 22, 31, 28, 8, 13, 18, 37, 54, 16, 19, 43, 17,
    46, 52, 9, 3, 24, 0, 51, 44, 49, 6, 45, 5, 35, 1, 26, 32, 23, 2, 14, 42, 4, 33, 50, 10, 20, 29,
]  # fmt: skip


def test_the_pubmedqa_test_split_is_drawn_in_the_official_order() -> None:
    labels = pubmedqa_labels()
    drawn = [id for id in pubmedqa.official_split(labels)[0] if labels[id] == "maybe"]
    assert [sorted(drawn).index(id) for id in drawn] == OFFICIAL_DRAW


def document(collection: str, focus: str, *pairs: tuple[str, str]) -> tuple[str, bytes]:
    body = "".join(
        f'<QAPair pid="{number}"><Question qid="0000001-{number}" qtype="information">{question}</Question>'
        f"<Answer>{answer}</Answer></QAPair>"
        for number, (question, answer) in enumerate(pairs, start=1)
    )
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Document id="0000001" source="S" url="u">\n<Focus>{focus}</Focus>'
    return f"{collection}/0000001.xml", f"{text}<QAPairs>{body}</QAPairs></Document>".encode()


def test_medquad_drops_empty_and_repeated_pairs_and_splits_by_entity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict(
        [
            document("1_A_QA", "Gout", ("What is gout ?", "A &amp; b.\n      \n  c  "), ("Why ?", ""), ("Who ?", "  ")),
            document("2_B_QA", "gout", ("What is  gout ?", "A &amp; B. c"), ("What is gout ?", "Other.")),
            *(document(f"{number}_QA", f"The F{number}", (f"Q{number}", "x")) for number in range(10, 210)),
            *(document(f"{number}_QB", f"the  f{number}", (f"P{number}", "x")) for number in range(10, 210)),
        ]
    )
    serve(monkeypatch, tmp_path, "medquad", files)
    table = named_table("medquad", "all")
    assert table.columns == ("id", "question", "answer", "focus", "qtype", "source")
    assert "of the 405 pairs of all splits, 2 without an answer and 1 that repeat" in table.notices[-1]
    rows = {row.cells["id"]: tuple(row.cells.values())[1:] for row in table.rows}
    assert rows["1-0000001-1"] == ("What is gout ?", "A & b.\n\n  c", "Gout", "information", "S")
    train, valid = (set(column("medquad", split, "id")) for split in ("train", "valid"))
    assert not train & valid and len(train | valid) == len(table.rows) == 402
    entities = [
        {row[2].casefold().replace("  ", " ") for id, row in rows.items() if id in part} for part in (train, valid)
    ]
    assert not entities[0] & entities[1]  # although each entity has two spellings
    assert 3 <= len(entities[1]) <= 20  # of 201; 10 are expected


@pytest.mark.parametrize(
    "data,message",
    [
        (f'<!DOCTYPE d [<!ENTITY a "{CANARY}">]><Document>&a;</Document>', "document type"),
        (f"<Document>\n<{CANARY}></Document>", "line 2: not XML"),
        (f"<Document><QAPair><Answer>{CANARY}</Answer></QAPair></Document>", "a pair has no question"),
    ],
)
def test_medquad_refuses_what_it_cannot_read(
    data: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, tmp_path, "medquad", {"1_A_QA/0000001.xml": data.encode()})
    with pytest.raises(InputError, match=message) as caught:
        named_table("medquad", "all")
    assert CANARY not in str(caught.value) and "1_A_QA/0000001.xml" in str(caught.value)
