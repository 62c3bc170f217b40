"""An answer to a medical question, without a text to take it from (MedQuAD). Its facts can't be checked."""

from __future__ import annotations

from medsum_core.tasks.task import Answer, Part, Task

TASK = Task(
    name="medquad",
    instruction="Answer the medical question below as a health library would.",
    parts=(Part(name="question", label="Question:", columns=("question",), form="line"),),
    answer=Answer(label="Answer:", columns=("answer",)),
)
