"""Yes, no or maybe to a question about an abstract, then the conclusion in words (PubMedQA)."""

from __future__ import annotations

from medsum_core.tasks.task import Answer, Choice, Part, Task, Truncation

TASK = Task(
    name="pubmedqa",
    instruction=(
        "Answer the question from the abstract below: first yes, no or maybe on a line of its own, then the reason "
        "in a few sentences."
    ),
    parts=(
        Part(name="question", label="Question:", columns=("question",), form="line"),
        Part(name="context", label="Abstract:", columns=("context", "CONTEXTS")),
    ),
    answer=Answer(
        label="Answer:",
        columns=("long_answer",),
        choice=Choice(columns=("final_decision",), options=("yes", "no", "maybe"), by_likelihood=True),
    ),
    truncate=Truncation(part="context", unit="paragraphs"),
    facts_from="context",
    metrics=("accuracy", "macro_f1", "rouge"),
    floors=("majority", "without_source"),
)
