"""Read the rows of a run, find repeated dialogues, audit the notes, tokenise. Notices and counts hold no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medsum_core.config.arguments import DataArguments
from medsum_core.config.parser import bundled_path
from medsum_core.data.build_report import BuildReport
from medsum_core.data.columns import Columns, columns_of
from medsum_core.data.disclosure import MAX_IDS, show_id, show_ids
from medsum_core.data.hub import load_hub
from medsum_core.data.image_tokens import split_keys
from medsum_core.data.masking import Example, build_examples
from medsum_core.data.named.registry import find_dataset, load_named, named_datasets
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import (
    Record,
    SourceRows,
    find_repeats,
    find_shared,
    records_fingerprint,
)
from medsum_core.data.sources import describe_sources, join_sources, read_sources
from medsum_core.errors import InputError
from medsum_core.grounding.check import check_record, merge_unsupported
from medsum_core.tasks.task import IMAGES
from medsum_core.training.audit import TargetAudit, audit_targets


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Where the rows came from and what was done with them."""

    source: str  # the name of a named data set, sample (the one in the package) or own
    train: BuildReport
    validation: BuildReport | None = None
    notes: tuple[str, ...] = ()  # how the files were read, and what looks wrong in their rows
    repeated_ids: tuple[str, ...] = ()  # training rows whose source text an earlier row has
    shared_ids: tuple[str, ...] = ()  # validation rows whose source text the training data has
    ungrounded_dropped_ids: tuple[str, ...] = ()  # training rows left out by --ungrounded drop


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
    image_paths: Mapping[str, Path] = field(default_factory=dict)  # where each image of the rows lies, by its key

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
    rows = _read(data, offline=offline)
    train, validation, notices = rows.train, rows.validation, rows.notices + rows.notes
    repeated, shared = tuple(find_repeats(train)), tuple(find_shared(train, validation))
    if repeated or shared:
        notices.append(
            f"warning: {len(repeated)} training rows repeat a source text (ids {show_ids(repeated)}), {len(shared)} "
            f"validation rows have a source text of the training rows (ids {show_ids(shared)}); they are kept, and "
            "scores are also given without them"
        )
    note_facts = {record.id: check_record(record.note, record, renderer.task) for record in train}
    audit, audit_rows = audit_targets(note_facts, choice=data.ungrounded)
    spans = {id: merge_unsupported(facts) for id, facts in note_facts.items()}
    dropped = [record.id for record in train if spans[record.id]] if data.ungrounded == "drop" else []
    kept = [record for record in train if record.id not in set(dropped)]
    if not kept:
        raise InputError("--ungrounded drop leaves no training row: use mask or keep")
    build = partial(build_examples, renderer=renderer, max_length=data.max_length, max_new_tokens=data.max_new_tokens)
    examples, report = build(kept, ignored_spans=spans if data.ungrounded == "mask" else None)
    valid_examples, valid_report = build(validation) if validation else ([], None)
    notices += _report_lines("training", report) + _audit_line(audit)
    notices += _report_lines("validation", valid_report) if valid_report else []
    facts = DataFacts(
        source=_source(data),
        notes=tuple(rows.notes),
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
        image_paths=rows.image_paths,
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of a run before they are tokenised. `notes` are for the report, `notices` for the screen alone."""

    train: list[Record]
    validation: list[Record]
    notes: list[str]
    notices: list[str]
    image_paths: Mapping[str, Path]


def _read(data: DataArguments, *, offline: bool) -> _Rows:
    columns = columns_of(data)
    notices: list[str] = []
    validation: list[SourceRows] = []
    if data.train_file is not None:
        train = _read_files(data.train_file, columns)
    else:
        assert data.dataset_name is not None
        if data.shows_images and data.dataset_name not in named_datasets():
            raise InputError(
                f"--dataset_name {data.dataset_name}: images are read from files: name a table of their paths with "
                "--train_file, or take vqa-rad"
            )
        load = load_named if data.dataset_name in named_datasets() else load_hub
        hub = load(
            data.dataset_name,
            columns=columns,
            config_name=data.dataset_config_name,
            train_split=data.train_split,
            validation_split=data.validation_split,
            offline=offline,
        )
        train, validation = [hub.train], [hub.validation] if hub.validation else []
        if data.shows_images:
            folder = find_dataset(data.dataset_name).folder
            train, validation = _with_image_keys(train, folder), _with_image_keys(validation, folder)
        notices += hub.notices
    if data.validation_file is not None:
        validation = _read_files(data.validation_file, columns)
    train_records, train_ids = join_sources(train)
    validation_records, validation_ids = join_sources(validation)
    notes = describe_sources(train, validation)
    notes += [f"training: {line}" for line in train_ids] + [f"validation: {line}" for line in validation_ids]
    notes += [line for source in (*train, *validation) for line in source.notices]
    image_paths = {key: path for source in (*train, *validation) for key, path in source.image_paths.items()}
    return _Rows(
        train=_without_faults(train_records, notes, "training"),
        validation=_without_faults(validation_records, notes, "validation"),
        notes=notes + _shared_images(train_records, validation_records),
        notices=notices,
        image_paths=image_paths,
    )


def _read_files(files: Sequence[str], columns: Columns) -> list[SourceRows]:
    sources = read_sources(files, columns=columns)
    if columns.task.images_part is None:
        return sources
    from medsum_core.images.rows import with_image_keys  # a run on text imports nothing that reads images

    return [with_image_keys(source, Path(file).parent) for source, file in zip(sources, files, strict=True)]


def _with_image_keys(sources: Sequence[SourceRows], folder: Path) -> list[SourceRows]:
    from medsum_core.images.rows import with_image_keys

    return [with_image_keys(source, folder) for source in sources]


def _without_faults(records: list[Record], notes: list[str], which: str) -> list[Record]:
    """The usable rows; why the others are set aside is appended to `notes`. Raises InputError where none is left."""
    faulty = [record for record in records if record.fault]
    notes += [f"{which}: row id {show_id(record.id)} is set aside: {record.fault}" for record in faulty[:MAX_IDS]]
    if len(faulty) > MAX_IDS:
        notes.append(f"{which}: and {len(faulty) - MAX_IDS} more rows are set aside for their images")
    if records and len(faulty) == len(records):
        raise InputError("\n".join(["no row is left:", *notes]))
    return [record for record in records if not record.fault]


def _shared_images(train: Sequence[Record], validation: Sequence[Record]) -> list[str]:
    """A line counting the validation rows that show an image of the training rows; no line where there are none."""
    seen = {key for record in train for key in split_keys(record.parts.get(IMAGES, ""))}
    shared = [record.id for record in validation if seen.intersection(split_keys(record.parts.get(IMAGES, "")))]
    if not shared:
        return []
    return [f"{len(shared)} validation rows show an image that training rows show too: ids {show_ids(shared)}"]


def _source(data: DataArguments) -> str:
    if data.train_file is None:
        named = data.dataset_name
        return named if named is not None and named in named_datasets() else "own"
    return "sample" if data.train_file == [bundled_path("bundled:demo_train.csv")] else "own"


def _report_lines(which: str, report: BuildReport) -> list[str]:
    head = f"{which}: {report.num_used} of {report.num_rows} rows used"
    return [head, *(f"{which}: {line}" for line in report.lines())]


def _audit_line(audit: TargetAudit) -> list[str]:
    return [f"training: {audit.sentence} (--ungrounded {audit.choice})"] if audit.sentence else []
