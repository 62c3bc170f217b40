"""PubMedQA PQA-L: 1,000 questions to be answered with yes, no or maybe from the abstract of a paper.

Jin, Dhingra, Liu, Cohen and Lu, EMNLP 2019; MIT. The official split: 500 questions for the test, ten folds of the other
500 for cross-validation, a configuration each (`fold0`, the default, to `fold9`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from medsum_core.data.json_tables import parse_json
from medsum_core.data.named.dataset import NamedDataset, decode
from medsum_core.data.rows import Row, Table
from medsum_core.data.tables import table_of
from medsum_core.data.turns import join_turns
from medsum_core.errors import InputError

QUESTIONS = "data/ori_pqal.json"
TEST = "data/test_ground_truth.json"
LABELS = ("yes", "no", "maybe")  # in the order of the official split
NUM_FOLDS = 10
OFFICIAL_COLUMNS = {"QUESTION": "question", "CONTEXTS": "context", "LONG_ANSWER": "long_answer"}
COLUMNS = ("id", "question", "context", "long_answer", "final_decision")


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `id, question, context, long_answer, final_decision`, rows in the order of the official split's files.

    Raises InputError where the split is not the official one, which the published test ids tell.
    """
    table = table_of(source, parse_json(decode(files[QUESTIONS], source=QUESTIONS), format="json"))
    rows = {row.cells["id"]: _in_columns(row) for row in table.rows}
    test, folds = official_split({id: row.cells["final_decision"] for id, row in rows.items()})
    if set(test) != set(json.loads(files[TEST])):
        raise InputError(f"{source}: the test questions are not those of {TEST}: this Python shuffles otherwise")
    valid = int(config.removeprefix("fold"))
    training = [id for number, fold in enumerate(folds) if number != valid for id in fold]
    ids = {"train": training, "valid": folds[valid], "test": test}[split]
    return Table(source=source, columns=COLUMNS, rows=tuple(rows[id] for id in ids))


def _in_columns(row: Row) -> Row:
    """The row in `COLUMNS`, the paragraphs of its abstract a line each."""
    cells = {OFFICIAL_COLUMNS.get(name, name): text for name, text in row.cells.items()}
    return replace(
        row, cells={**{name: cells[name] for name in COLUMNS}, "context": join_turns(cells["context"])}, not_text={}
    )


def official_split(labels: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """The ids of the test and of the ten folds, from the label of each question by id, in the order of the file.

    Source: preprocess/split_dataset.py of the repository, which seeds Python's generator with 0 and cuts first the
    questions in two, then the first half in ten, label by label.
    """
    generator = random.Random(0)
    rest, test = _cut(list(labels), labels, 2, generator)
    return test, _cut(rest, labels, NUM_FOLDS, generator)


def _cut(ids: Sequence[str], labels: Mapping[str, str], count: int, generator: random.Random) -> list[list[str]]:
    """The ids in so many parts with the same share of each label; where the last came out short, each gives it one."""
    parts: list[list[str]] = [[] for _ in range(count)]
    for label in LABELS:
        shuffled = [id for id in ids if labels[id] == label]
        generator.shuffle(shuffled)
        size = -(-len(shuffled) // count)
        for number, part in enumerate(parts):
            part += shuffled[number * size : (number + 1) * size]
    if len(parts[-1]) != len(parts[0]):
        for part in parts[:-1]:
            given = generator.choice(part)
            part.remove(given)
            parts[-1].append(given)
    return parts


CREDIT = """\
PubMedQA, PQA-L (Jin, Dhingra, Liu, Cohen and Lu: *PubMedQA: A Dataset for Biomedical Research Question Answering*,
EMNLP 2019; [github.com/pubmedqa/pubmedqa](https://github.com/pubmedqa/pubmedqa)), licensed MIT; its abstracts are those
of PubMed."""

DATASET = NamedDataset(
    name="pubmedqa",
    repository="pubmedqa/pubmedqa",
    commit="1cbae8e92f72f20c8d3747cbb3bf5bc53554d997",
    configs={
        f"fold{number}": dict.fromkeys(("train", "valid", "test"), (QUESTIONS, TEST)) for number in range(NUM_FOLDS)
    },
    sha256={
        QUESTIONS: "8b3276be8942ebbd77f3ddcda12c1749bf0e490045a736fd8438ee40cf37a41d",
        TEST: "939fe566f09017d13b1ca64d2ddfee0bc2374b366048152997669cccedc44d51",
    },
    read=read,
    credit=CREDIT,
)
