"""A section's header and its text from a dialogue alone (MEDIQA-Chat 2023, Task A)."""

from __future__ import annotations

from medsum_core.tasks.section_names import SECTION_NAMES
from medsum_core.tasks.task import Answer, Choice, Part, Task, Truncation

TASK = Task(
    name="section-with-header",
    instruction=(
        "Name the section of a clinical note that the dialogue below belongs to, then write that section. "
        "State only facts that are said in the dialogue, and leave out what is not said."
    ),
    parts=(Part(name="dialogue", label="Dialogue:", columns=("dialogue",)),),
    answer=Answer(
        label="Section and note:",
        columns=("section_text",),
        choice=Choice(columns=("section_header",), options=tuple(SECTION_NAMES.values()), is_section=True),
    ),
    truncate=Truncation(part="dialogue", unit="turns"),
    facts_from="dialogue",
    metrics=("accuracy", "macro_f1", "rouge"),
    floors=("copied_source", "majority"),
)
