"""A short answer to a question about a radiological image, in the form of VQA-RAD."""

from __future__ import annotations

from medsum_core.tasks.task import IMAGES, SHORT_ANSWER, Answer, Part, Task

TASK = Task(
    name="vqa-rad",
    instruction="Answer the question about the image in a word or a short phrase: yes or no where that answers it.",
    parts=(
        Part(name=IMAGES, label="", columns=("image", "image_name"), form="images"),
        Part(name="question", label="Question:", columns=("question",), form="line"),
    ),
    answer=Answer(label="Answer:", columns=("answer",)),
    id_columns=("qid", "ID"),
    metrics=(SHORT_ANSWER, "rouge"),
    floors=("blind",),
)
