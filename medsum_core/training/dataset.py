"""The rows of a run: read, checked against each other, audited and turned into token ids. No text is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from medsum_core.config.arguments import DataArguments
from medsum_core.data.download import hub_warning, load_hub_records, mts_dialog_file
from medsum_core.data.masking import BuildReport, Example, build_examples
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Columns, Record, find_repeats, find_shared, read_records, records_fingerprint
from medsum_core.errors import InputError
from medsum_core.grounding.check import check_note, unsupported_spans
from medsum_core.report.run_summary import DataFacts, TargetAudit

OFFICIAL = "mts-dialog"
IDS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Training and validation rows as text and as examples, and what there is to say about them."""

    train_records: list[Record]
    validation_records: list[Record]
    train: list[Example]
    validation: list[Example]
    facts: DataFacts
    audit: TargetAudit
    audit_rows: list[dict[str, object]]  # id and counts of each training row with an unsupported fact
    notices: list[str]

    @property
    def train_sha256(self) -> str:
        """Of the rows that are trained on."""
        return records_fingerprint(self.train_records)

    @property
    def validation_sha256(self) -> str | None:
        """Of the rows that are evaluated on; None where there are none."""
        return records_fingerprint(self.validation_records) if self.validation_records else None


def load_corpus(data: DataArguments, renderer: PromptRenderer, *, offline: bool) -> Corpus:
    """Read the rows that `data` names. Raises InputError for every fault of the files, by row and column."""
    train, validation, notices = _read(data, offline=offline)
    repeated, shared = tuple(find_repeats(train)), tuple(find_shared(train, validation))
    if repeated or shared:
        notices.append(
            f"warning: {len(repeated)} training rows repeat a dialogue (ids {_ids(repeated)}), {len(shared)} "
            f"validation rows have a dialogue of the training rows (ids {_ids(shared)}); they are kept, and "
            "scores are also given without them"
        )
    spans = {record.id: unsupported_spans(record.note, record.dialogue) for record in train}
    audit, audit_rows = _audit(train, spans, choice=data.ungrounded)
    dropped = [record.id for record in train if spans[record.id]] if data.ungrounded == "drop" else []
    kept = [record for record in train if record.id not in set(dropped)]
    if not kept:
        raise InputError("--ungrounded drop leaves no training row: use mask or keep")
    build = partial(build_examples, renderer=renderer, max_length=data.max_length, max_new_tokens=data.max_new_tokens)
    examples, report = build(kept, ignored_spans=spans if data.ungrounded == "mask" else None)
    valid_examples, valid_report = build(validation) if validation else ([], None)
    notices += _report_lines("training", report) + (_report_lines("validation", valid_report) if valid_report else [])
    facts = DataFacts(
        source=_source(data),
        train=report,
        validation=valid_report,
        repeated_ids=repeated,
        shared_ids=shared,
        ungrounded_dropped_ids=tuple(dropped),
    )
    return Corpus(
        train_records=kept,
        validation_records=validation,
        train=examples,
        validation=valid_examples,
        facts=facts,
        audit=audit,
        audit_rows=audit_rows,
        notices=notices,
    )


def _read(data: DataArguments, *, offline: bool) -> tuple[list[Record], list[Record], list[str]]:
    columns = Columns(
        id=data.id_column, dialogue=data.dialogue_column, note=data.note_column, section_header=data.section_column
    )
    notices: list[str] = []
    validation: list[Record] = []
    if data.train_file is not None:
        train = read_records(data.train_file, columns=columns)
    elif data.dataset_name == OFFICIAL:
        train = read_records(mts_dialog_file("train", offline=offline))
        validation = read_records(mts_dialog_file("valid", offline=offline))
    else:
        assert data.dataset_name is not None
        train = load_hub_records(data.dataset_name, "train", columns=columns, offline=offline)
        warning = hub_warning(data.dataset_name)
        notices += [f"warning: {warning}"] if warning else []
    if data.validation_file is not None:
        validation = read_records(data.validation_file, columns=columns)
    return train, validation, notices


def _audit(
    records: Sequence[Record], spans: dict[str, list[tuple[int, int]]], *, choice: str
) -> tuple[TargetAudit, list[dict[str, object]]]:
    num_facts = sum(len(check_note(record.note, record.dialogue)) for record in records)
    flagged = [{"id": record.id, "unsupported": len(spans[record.id])} for record in records if spans[record.id]]
    audit = TargetAudit(
        choice=choice,
        num_notes=len(records),
        num_notes_flagged=len(flagged),
        num_facts=num_facts,
        num_unsupported=sum(len(found) for found in spans.values()),
    )
    return audit, flagged


def _source(data: DataArguments) -> str:
    if data.train_file is None:
        return OFFICIAL if data.dataset_name == OFFICIAL else "own"
    return "sample" if "medsum_core" in data.train_file and data.train_file.endswith("demo_train.csv") else "own"


def _report_lines(which: str, report: BuildReport) -> list[str]:
    head = f"{which}: {report.num_used} of {report.num_rows} rows used"
    return [head, *(f"{which}: {line}" for line in report.lines())]


def _ids(ids: Sequence[str]) -> str:
    return ", ".join(ids[:IDS_SHOWN]) + (", ..." if len(ids) > IDS_SHOWN else "") if ids else "none"
