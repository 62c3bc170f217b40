"""The rows of a run: read, compared with each other, audited and tokenised. Notices and counts hold no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from medsum_core.config.arguments import DataArguments
from medsum_core.data.disclosure import show_id, show_ids
from medsum_core.data.download import hub_warning, load_hub_records, mts_dialog_file
from medsum_core.data.masking import BuildReport, Example, build_examples
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Columns, Record, find_repeats, find_shared, read_records, records_fingerprint
from medsum_core.errors import InputError
from medsum_core.grounding.check import Fact, check_note, count_unsupported, merge_unsupported

OFFICIAL = "mts-dialog"


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Where the rows came from and what happened to them."""

    source: str  # mts-dialog, sample (the one in the package) or own
    train: BuildReport
    validation: BuildReport | None = None
    repeated_ids: tuple[str, ...] = ()  # training rows whose dialogue an earlier row has
    shared_ids: tuple[str, ...] = ()  # validation rows whose dialogue the training data has
    ungrounded_dropped_ids: tuple[str, ...] = ()  # training rows left out by --ungrounded drop


@dataclass(frozen=True, kw_only=True)
class TargetAudit:
    """Counts of the facts in training notes that their dialogues do not say, and what was done about them."""

    choice: str  # keep, drop or mask
    num_notes: int
    num_notes_flagged: int
    num_facts: int
    num_unsupported: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and validation rows as records (text) and as tokenised examples, with their checks."""

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
        """Hash of the training rows."""
        return records_fingerprint(self.train_records)

    @property
    def validation_sha256(self) -> str | None:
        """Hash of the validation rows; None where there are none."""
        return records_fingerprint(self.validation_records) if self.validation_records else None


def load_dataset(data: DataArguments, renderer: PromptRenderer, *, offline: bool) -> Dataset:
    """Read and tokenise the rows that `data` names.

    Raises InputError for bad files, naming rows and columns, and where `--ungrounded drop` leaves no row.
    """
    train, validation, notices = _read(data, offline=offline)
    repeated, shared = tuple(find_repeats(train)), tuple(find_shared(train, validation))
    if repeated or shared:
        notices.append(
            f"warning: {len(repeated)} training rows repeat a dialogue (ids {show_ids(repeated)}), {len(shared)} "
            f"validation rows have a dialogue of the training rows (ids {show_ids(shared)}); they are kept, and "
            "scores are also given without them"
        )
    note_facts = {record.id: check_note(record.note, record.dialogue) for record in train}
    audit, audit_rows = audit_targets(note_facts, choice=data.ungrounded)
    spans = {id: merge_unsupported(facts) for id, facts in note_facts.items()}
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
    return Dataset(
        train_records=kept,
        validation_records=validation,
        train=examples,
        validation=valid_examples,
        facts=facts,
        audit=audit,
        audit_rows=audit_rows,
        notices=notices,
    )


def audit_targets(
    note_facts: Mapping[str, Sequence[Fact]], *, choice: str
) -> tuple[TargetAudit, list[dict[str, object]]]:
    """What the checked training notes (facts by row id) say that their dialogues do not, and each row with such a fact.

    `choice`: what is done about these rows, for the record.
    """
    unsupported = {id: count_unsupported(facts) for id, facts in note_facts.items()}
    rows: list[dict[str, object]] = [
        {"id": show_id(id), "unsupported": count} for id, count in unsupported.items() if count
    ]
    audit = TargetAudit(
        choice=choice,
        num_notes=len(note_facts),
        num_notes_flagged=len(rows),
        num_facts=sum(len(facts) for facts in note_facts.values()),
        num_unsupported=sum(unsupported.values()),
    )
    return audit, rows


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


def _source(data: DataArguments) -> str:
    if data.train_file is None:
        return OFFICIAL if data.dataset_name == OFFICIAL else "own"
    return "sample" if "medsum_core" in data.train_file and data.train_file.endswith("demo_train.csv") else "own"


def _report_lines(which: str, report: BuildReport) -> list[str]:
    head = f"{which}: {report.num_used} of {report.num_rows} rows used"
    return [head, *(f"{which}: {line}" for line in report.lines())]
