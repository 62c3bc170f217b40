"""Documents for people: links and their anchors lead somewhere, and each flag is one that a command has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from medsum_core.config.parser import SECTIONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "examples").glob("*.md"), *ROOT.glob("[bmt]*/**/README.md")]
FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]+)")
DEFINED = re.compile(r"""(?:add_argument\(\s*"--|\.flag\(\s*")([a-z0-9_]+)""")
FOREIGN = {  # flags of accelerate and torchrun, pip, vLLM, llama.cpp, systemd and the trackers
    "num_processes", "num_machines", "machine_rank", "main_process_ip", "nproc_per_node", "use_fsdp", "fsdp_version",
    "fsdp_reshard_after_forward", "index-url", "no-deps", "api-key", "data-parallel-size", "override-generation-config",
    "jinja", "chat-template-file", "now", "append", "logdir", "project",
}  # fmt: skip


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", document.read_text("utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", document.read_text("utf-8"))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_each_flag_in_a_document_is_one_that_a_command_has() -> None:
    known = {"preset", "config", "help"} | {field.name for section in SECTIONS.values() for field in fields(section)}
    known |= {f"no_{name}" for name in known}
    for path in [ROOT / "infer.py", *(ROOT / "medsum_core").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        known |= set(DEFINED.findall(path.read_text("utf-8")))
    used = {name for document in DOCUMENTS for name in FLAG.findall(document.read_text("utf-8"))}
    assert sorted(used - known - FOREIGN) == []
    assert sorted(FOREIGN - used) == []  # so that the list stays one of flags that are used
