"""The audit of the training notes: facts that their source texts do not support, counted before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsum_core.data.disclosure import show_id
from medsum_core.grounding.check import Fact, count_unsupported

TREATMENTS = {  # by value of --ungrounded
    "keep": "they are trained on, from which a model can learn to invent",
    "drop": "their rows are left out of training",
    "mask": "their tokens are left out of the loss",
}


@dataclass(frozen=True, kw_only=True)
class TargetAudit:
    """Counts of facts in training notes that their source texts do not support, and how `--ungrounded` treats them."""

    choice: str  # keep, drop or mask
    num_notes: int
    num_notes_flagged: int
    num_facts: int
    num_unsupported: int

    @property
    def sentence(self) -> str:
        """The counts and the choice in words, without a full stop; "" if no note holds a checkable fact."""
        if not self.num_facts:
            return ""
        counts = (
            f"{self.num_unsupported:,} of {self.num_facts:,} checkable facts in the training notes "
            f"({100 * self.num_unsupported / self.num_facts:.1f} %) are not in their source text, or against it"
        )
        if not self.num_unsupported:
            return counts
        return f"{counts}, in {self.num_notes_flagged:,} of {self.num_notes:,} notes: {TREATMENTS[self.choice]}"


def audit_targets(
    note_facts: Mapping[str, Sequence[Fact]], *, choice: str
) -> tuple[TargetAudit, list[dict[str, object]]]:
    """Counts of unsupported facts in the training notes (facts by row id), and each row with such a fact.

    `choice`: the value of `--ungrounded`, copied into the audit.
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
