"""What can be told from a base's name alone: whether it is a model of the hub, which has revisions, or not."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_PREFIX = "embedded:"


def revision_problems(model_name_or_path: str, model_revision: str | None) -> list[str]:
    """Why the value of `--model_revision` has no effect: folders and embedded models have no revisions.

    For flags only: a run of an earlier version may have recorded such a value, and stays readable.
    """
    if model_revision is None:
        return []
    is_embedded = model_name_or_path.startswith(EMBEDDED_PREFIX)
    if not is_embedded and not Path(model_name_or_path).is_dir():
        return []
    kind = "an embedded model" if is_embedded else "a folder"
    return [
        f"--model_revision {model_revision}: {model_name_or_path} is {kind}, which has no revisions; leave "
        "--model_revision out, or name a model of the hub with --model_name_or_path"
    ]
