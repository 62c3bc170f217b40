"""`adapter/README.md`, the model card: base, data, scores, intended use and limits of the adapter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medsum_core.data.named.registry import named_datasets
from medsum_core.files import write_text_atomic
from medsum_core.report.comparison import Comparison
from medsum_core.report.markdown import code
from medsum_core.report.run_summary import RunSummary
from medsum_core.report.tables import PROTOCOL, fact_differences, fact_kinds, fact_table, loss_table, score_table
from medsum_core.training.audit import TargetAudit
from medsum_core.training.dataset import DataFacts

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"
DATA_TEXTS = {
    "sample": "The sample that comes with the program: dialogues and notes of fictional patients, written for it.",
    "own": """\
Files of the user's own, about which this program knows nothing: whoever passes this adapter on has to state here their
source, their licence and the consent behind them.""",
}
PRIVACY = """\
**An adapter trained on protected health information is protected health information.** A model can repeat what it was
trained on. Where the training data holds any, store, share and delete this folder, and the checkpoints beside it, under
the rules that hold for that data."""
INTENDED_USE = """\
Drafts of what it was trained to write, **for a clinician who knows the case to read, correct and sign**; and research
on such drafts. Its instruction, task `{name}`:

> {instruction}

Not for use without that review, for diagnosis, triage or treatment, for advice to patients, for languages other than
that of the training data, or for anything else than that instruction names."""
LIMITS = """\
- It can state what nobody said, leave out what matters, and mix up sides, doses and negations. The unsupported rate
  and the omission rate see only the kinds of facts that stand beside them: a rate of 0 is no proof of truth or of
  completeness.
- ROUGE measures likeness of words to one reference, not correctness. Scores on one split can't be compared with scores
  on another.
- Long texts lose whole turns or paragraphs to fit the prompt; what was said there can't be in the answer.
- Errors of speech recognition, and specialties, accents, styles of visit and groups of patients other than those of the
  training data were not tested. Biases of the base model and of the training notes remain."""


def write_model_card(
    adapter_dir: str | Path,
    *,
    summary: RunSummary,
    data: DataFacts,
    comparison: Comparison | None,
    audit: TargetAudit | None = None,
) -> None:
    """Write `README.md` into an adapter's folder, atomically, replacing PEFT's.

    It holds no file names of the user, no ids and no text, as it gets published with the weights.
    """
    sections = [
        _front_matter(summary),
        f"# A LoRA adapter for {_base_text(summary)}, task {summary.task.name}",
        "A draft writer. Everything it writes needs a clinician's review.",
        f"## Intended use\n\n{INTENDED_USE.format(name=summary.task.name, instruction=_instruction(summary))}",
        f"## Limits\n\n{LIMITS}",
        f"## Data\n\n{_data(data, audit)}",
        f"## Privacy\n\n{PRIVACY}",
        f"## Scores\n\n{_scores(summary, comparison)}",
        f"## Licence\n\n{_licence(summary)}",
        f"## How to load\n\n{_loading(summary)}",
    ]
    write_text_atomic(Path(adapter_dir) / "README.md", "\n\n".join(sections) + "\n")


def _front_matter(summary: RunSummary) -> str:
    import yaml

    pipeline = "text-generation" if summary.task.images_part is None else "image-text-to-text"
    entries: dict[str, Any] = {"library_name": "peft", "pipeline_tag": pipeline}
    hub_id = _hub_id(summary)
    if hub_id is not None:
        entries["base_model"] = hub_id
    if summary.is_gemma:
        entries["license"] = "gemma"
    else:
        entries |= {"license": "other", "license_name": "as-the-base-model-and-the-training-data"}
    entries["tags"] = ["lora", "medical"]
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---"


def _instruction(summary: RunSummary) -> str:
    return " ".join(summary.task.instruction.split())


def _hub_id(summary: RunSummary) -> str | None:
    """The base's name on the hub; None for a folder, whose path may name a person or a project."""
    if summary.embedded:
        return summary.embedded.hub_id
    is_hub_id = HUB_ID.fullmatch(summary.base_name) and not Path(summary.base_name).exists()
    return summary.base_name if is_hub_id else None


def _base_text(summary: RunSummary) -> str:
    return _hub_id(summary) or f"a local {summary.base_type} model"


def _data(data: DataFacts, audit: TargetAudit | None) -> str:
    rows = f"Trained on {data.train.num_used} of {data.train.num_rows} rows"
    if data.validation is not None:
        rows += f", validated on {data.validation.num_used} of {data.validation.num_rows}"
    if data.shared_ids:
        rows += f" (validation rows whose source text the training data also has: {len(data.shared_ids)})"
    text = f"{DATA_TEXTS.get(data.source) or named_datasets()[data.source].credit}\n\n{rows}."
    return f"{text} {audit.sentence} (`--ungrounded {audit.choice}`)." if audit and audit.sentence else text


def _scores(summary: RunSummary, comparison: Comparison | None) -> str:
    parts = [f"**{summary.embedded.label}**"] if summary.embedded else []
    parts.append(loss_table(summary))
    if comparison is None:
        return "\n\n".join(
            [*parts, "No notes were generated for this card: ROUGE, unsupported and omission rate are not known."]
        )
    setting = (
        f"{len(comparison.ids)} validation rows; base and tuned with the same precision ({summary.precision_text}), "
        f"prompt and decoding ({comparison.decoding}, at most {comparison.max_new_tokens} new tokens). {PROTOCOL}"
    )
    parts += [setting, score_table(comparison)]
    if comparison.checks_facts:
        parts.append(
            "Facts in the notes that the source text does not say, and what it states and the notes leave out:"
        )
        parts += [fact_table(comparison), fact_differences(comparison), fact_kinds(comparison)]
    if comparison.shared_ids:
        rest = comparison.without_shared()
        parts.append(
            f"The same without the {len(comparison.shared_ids)} rows whose source text is also in the training data:"
        )
        parts.append(score_table(rest) if rest.ids else "no row is left.")
    return "\n\n".join(parts)


def _licence(summary: RunSummary) -> str:
    if not summary.is_gemma:
        named = f" ({summary.embedded.licence})" if summary.embedded else ""
        return f"Use is subject to the licence of the base model{named} and to that of the training data."
    return (
        f"Gemma is provided under and subject to the [Gemma Terms of Use]({GEMMA_TERMS}), which hold for this adapter "
        "too, and with it the Gemma Prohibited Use Policy. The licence of the training data holds besides."
    )


def _loading(summary: RunSummary) -> str:
    if summary.embedded:
        return f"With the program that made it: `python infer.py --run DIR`; its base is {code(summary.base_name)}."
    base = _hub_id(summary) or "the base model's folder"
    revision = f" at revision {code(summary.base_revision)}" if summary.base_revision else ""
    return (
        f"`PeftModel.from_pretrained(base, folder)` on {code(base)}{revision}, or `python infer.py --run DIR` of the "
        "program that made it, which also renders the prompt "
        f"({summary.prompt_style}) that the adapter was trained with."
    )
