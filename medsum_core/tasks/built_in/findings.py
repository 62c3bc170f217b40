"""A draft of a report's findings from its images and the indication for the study."""

from __future__ import annotations

from medsum_core.tasks.task import IMAGES, Answer, Part, Task

TASK = Task(
    name="findings",
    instruction=(
        "Write the findings section of a radiology report on the study below. Describe what the images show, and "
        "nothing that they do not show."
    ),
    parts=(
        Part(name=IMAGES, label="", columns=("image", "images"), form="images"),
        Part(name="indication", label="Indication:", columns=("indication",)),
    ),
    answer=Answer(label="Findings:", columns=("findings",)),
    id_columns=("ID", "study_id"),
    floors=("blind",),
)
