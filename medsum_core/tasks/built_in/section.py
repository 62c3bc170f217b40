"""One section of a note from a dialogue and the section's header (MTS-Dialog)."""

from __future__ import annotations

from medsum_core.tasks.task import Answer, Part, Task, Truncation

TASK = Task(
    name="section",
    instruction=(
        "Write one section of a clinical note from the dialogue below. "
        "State only facts that are said in the dialogue, and leave out what is not said."
    ),
    parts=(
        Part(name="section_header", label="Section:", columns=("section_header",), form="line", is_section=True),
        Part(name="dialogue", label="Dialogue:", columns=("dialogue",)),
    ),
    answer=Answer(label="Note:", columns=("section_text",)),
    truncate=Truncation(part="dialogue", unit="turns"),
    facts_from="dialogue",
    floors=("copied_source",),
)
