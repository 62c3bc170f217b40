"""Notes against their references in the official MEDIQA setting: scores, and what to compare them with.

Also the effect of short references, single sections and rows seen in training on the score, and two floors that any
model should exceed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from medsum_core.data.records import Record, find_shared
from medsum_core.data.turns import read_turns
from medsum_core.score.bootstrap import RESAMPLES, SEED, mean_difference
from medsum_core.score.letters import UnicodeTokenizer
from medsum_core.score.rouge import METRICS, RougeRows, average_runs, score_rows, summarise
from medsum_core.tasks.section_names import section_name

SHORT_WORDS = 3


def floors(records: Sequence[Record], *, training: Sequence[Record] | None = None) -> dict[str, RougeRows]:
    """Baselines without a model: `copied_dialogue` (speaker tags stripped), `commonest_training_text` (of the header).

    The first is omitted where a record has no dialogue, the second without `training` or where a record has no header.
    A header that training lacks gets the commonest text overall; of equally common texts, the first in the file.
    """
    references = [record.note for record in records]
    found: dict[str, RougeRows] = {}
    if all(record.source_text for record in records):
        found["copied_dialogue"] = score_rows(references, [strip_tags(record.source_text) for record in records])
    if training and all(record.section_header for record in records):
        overall = Counter(record.note for record in training)
        by_section: dict[str, Counter[str]] = {}
        for record in training:
            by_section.setdefault(section_name(record.section_header), Counter())[record.note] += 1
        counts = [by_section.get(section_name(record.section_header), overall) for record in records]
        texts = [count.most_common(1)[0][0] for count in counts]
        found["commonest_training_text"] = score_rows(references, texts)
    return found


def strip_tags(dialogue: str) -> str:
    """The dialogue as running text: its turns (`read_turns`) without their tags, lines joined by a space."""
    return " ".join(turn.text.replace("\n", " ") for turn in read_turns(dialogue))


def evaluate(
    references: Sequence[Record],
    runs: Sequence[Sequence[str]],
    *,
    compare: Sequence[str] | None = None,
    training: Sequence[Record] | None = None,
    with_unicode: bool = False,
) -> dict[str, Any]:
    """All scores of notes against their references, ready for JSON: ids and numbers, no text.

    `runs` holds one list of notes for each seed, in the order of the references: scores are means over seeds with their
    standard deviation as `rouge1_spread` (n - 1; only for two runs or more). Differences are `runs` minus `compare`.
    `with_unicode`: under `unicode` the scores with letters of any script as well, which are not official.
    """
    texts = [reference.note for reference in references]
    by_run = [score_rows(texts, run) for run in runs]
    rows = average_runs(by_run)
    result = summarise(rows)
    if len(by_run) > 1:
        means_RM = np.array([list(run.means().values()) for run in by_run])
        spreads = means_RM.std(axis=0, ddof=1).tolist()
        result.update({f"{metric}_spread": spread for metric, spread in zip(METRICS, spreads, strict=True)})
        result["runs"] = [run.means() for run in by_run]
    if with_unicode:
        kept = [score_rows(texts, run, tokenizer=UnicodeTokenizer()) for run in runs]
        result["unicode"] = summarise(average_runs(kept))
    result["strata"] = _strata(references, rows)
    result["sections"] = _sections(references, rows)
    result["floors"] = {name: summarise(floor) for name, floor in floors(references, training=training).items()}
    if training and all(reference.source_text for reference in references):
        result["without_shared_dialogues"] = _without_shared(references, rows, training)
    if compare is not None:
        result["compare"] = _compare(rows, score_rows(texts, compare))
    names = [reference.id for reference in references]
    result["rows"] = [
        {"id": name, **dict(zip(METRICS, scores, strict=True))}
        for name, scores in zip(names, rows.matrix().tolist(), strict=True)
    ]
    return {"protocol": _protocol(), **result}


def _strata(references: Sequence[Record], rows: RougeRows) -> dict[str, Any]:
    lengths = [len(reference.note.split()) for reference in references]
    split = {
        "short_references": [index for index, length in enumerate(lengths) if length <= SHORT_WORDS],
        "longer_references": [index for index, length in enumerate(lengths) if length > SHORT_WORDS],
    }
    return {name: summarise(rows.select(indices)) for name, indices in split.items() if indices}


def _sections(references: Sequence[Record], rows: RougeRows) -> dict[str, Any]:
    indices: dict[str, list[int]] = {}
    for index, reference in enumerate(references):
        indices.setdefault(reference.section_header, []).append(index)
    indices.pop("", None)
    selected = {header: rows.select(indices[header]) for header in sorted(indices)}
    return {header: {**chosen.means(), "count": chosen.count} for header, chosen in selected.items()}


def _without_shared(references: Sequence[Record], rows: RougeRows, training: Sequence[Record]) -> dict[str, Any]:
    shared = set(find_shared(training, references))
    kept = [index for index, reference in enumerate(references) if reference.id not in shared]
    removed = [reference.id for reference in references if reference.id in shared]
    return {**(summarise(rows.select(kept)) if kept else {"count": 0}), "removed_ids": removed}


def _compare(rows: RougeRows, other: RougeRows) -> dict[str, Any]:
    result: dict[str, Any] = {"other": other.means()}
    for metric in METRICS:
        paired = mean_difference(getattr(rows, metric), getattr(other, metric))
        result[metric] = paired.value
        result[f"{metric}_interval"] = [paired.low, paired.high]
    return {**result, "count": rows.count}


def _protocol() -> str:
    return (
        f"rouge-score {version('rouge-score')}, use_stemmer=False, F-measure, mean over rows, rougeLsum split by lines;"
        f" 95 % percentile bootstrap over rows, {RESAMPLES:,} resamples, seed {SEED}"
    )
