"""MedQuAD: questions about diseases, drugs and tests with answers from 12 websites of the NIH, as XML.

Ben Abacha and Demner-Fushman, BMC Bioinformatics 2019; CC BY 4.0. Three of its collections have no answers any more,
as their texts are under copyright. Upstream has no split: `valid` holds about one focus (the entity that a question is
about) in twenty, `train` the others, `all` everything.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from medsum_core.data.named.dataset import ONLY_CONFIG, NamedDataset, decode
from medsum_core.data.records import number_doubled
from medsum_core.data.rows import Table
from medsum_core.data.tables import table_from_objects
from medsum_core.errors import InputError

VALIDATION_SHARE = 0.05


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `id, question, answer, focus, qtype, source`; what was dropped from the whole set is a notice."""
    pairs = [pair for path in sorted(files) for pair in parse_document(decode(files[path], source=path), path=path)]
    answered = [pair for pair in pairs if pair["answer"].strip()]
    first: dict[tuple[str, str], dict[str, str]] = {}
    for pair in answered:
        first.setdefault((_fold(pair["question"]), _fold(pair["answer"])), pair)
    unique = list(first.values())
    ids = number_doubled([pair["id"] for pair in unique])
    rows = [{**pair, "id": id} for pair, id in zip(unique, ids, strict=True)]
    wanted = [row for row in rows if split == "all" or in_validation(row["focus"]) == (split == "valid")]
    table = table_from_objects(source, wanted)
    notice = (
        f"of the {len(pairs):,} pairs of all splits, {len(pairs) - len(answered):,} without an answer and "
        f"{len(answered) - len(unique):,} that repeat a question with its answer were dropped"
    )
    return Table(source=source, columns=table.columns, rows=table.rows, notices=(*table.notices, notice))


def parse_document(text: str, *, path: str) -> Iterator[dict[str, str]]:
    """The rows of one XML file. An id is the number of its collection, then the question's own: `8-0000007-1`.

    Raises InputError for what is no such XML, and for a document type, whose entities could be expanded without end.
    """
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise InputError(f"{path}: XML with a document type is not read")
    try:
        document = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: line {error.position[0]}: not XML") from None
    collection = path.partition("_")[0]
    for pair in document.iter("QAPair"):
        question, answer = pair.find("Question"), pair.find("Answer")
        if question is None or not (question.text or "").strip():
            raise InputError(f"{path}: a pair has no question")
        yield {
            "id": f"{collection}-{question.get('qid', '')}",
            "question": _tidy(question.text or ""),
            "answer": "" if answer is None else _tidy("".join(answer.itertext())),
            "focus": _tidy(document.findtext("Focus") or ""),
            "qtype": question.get("qtype", ""),
            "source": document.get("source", ""),
        }


def in_validation(focus: str) -> bool:
    """Whether questions about this entity are validation rows: decided by a hash of its name, case ignored."""
    digest = hashlib.sha256(_fold(focus).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def _tidy(text: str) -> str:
    """Without the blanks that indented XML leaves at the ends of lines and around the text."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


CREDIT = """\
MedQuAD (Ben Abacha and Demner-Fushman: *A Question-Entailment Approach to Question Answering*, BMC Bioinformatics
2019; [github.com/abachaa/MedQuAD](https://github.com/abachaa/MedQuAD)), licensed CC BY 4.0: credit its authors when you
pass this adapter on."""

DATASET = NamedDataset(
    name="medquad",
    repository="abachaa/MedQuAD",
    commit="577bd37b96c02d1833b2c9eed2de9f96964e96cb",
    configs={ONLY_CONFIG: dict.fromkeys(("train", "valid", "all"), ("*/*.xml",))},
    read=read,
    credit=CREDIT,
)
