"""The whole note of a visit from its dialogue, division by division (ACI-Bench; MEDIQA-Chat 2023, Tasks B and C)."""

from __future__ import annotations

from medsum_core.tasks.task import Answer, Part, Task, Truncation

TASK = Task(
    name="visit",
    instruction=(
        "Write one division of the clinical note of the visit below. "
        "State only facts that are said in the dialogue, and leave out what is not said."
    ),
    parts=(
        Part(name="division", label="Division:", columns=(), form="line"),
        Part(name="dialogue", label="Dialogue:", columns=("dialogue",)),
    ),
    answer=Answer(label="Note:", columns=("note",)),
    id_columns=("encounter_id", "ID"),
    truncate=Truncation(part="dialogue", unit="turns"),
    facts_from="dialogue",
    floors=("copied_source",),
    divide=True,
)
