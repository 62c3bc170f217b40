"""The server's application over an engine without a model: each section's note is given, or one that says its name."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fake_engine import FakeEngine
from image_models import SIZE, image_config, image_tokenizer
from starlette.applications import Starlette
from support import tiny_tokenizer

from medsum_core.data.image_tokens import image_number, image_tokens
from medsum_core.data.prompt import build_renderer
from medsum_core.generation.notes import TokenBudget
from medsum_core.generation.requests import NoteRequest
from medsum_core.server.app import app
from medsum_core.server.audit import AUDIT_FILE, AppendedLines, AuditLog
from medsum_core.server.compare import VOTES_FILE, Votes
from medsum_core.server.image_encoder import decoded
from medsum_core.server.limits import Limits
from medsum_core.server.security import LOOPBACK, Access
from medsum_core.server.service import Served, Service
from medsum_core.server.tokens import Tokens, read_tokens
from medsum_core.tasks.find import find_task

MODEL = "tiny-run"
TOKEN = "a-token-of-a-test-0123456789"
TESTING_HOSTS = LOOPBACK | {"testserver"}
# What this tokenizer knows by heart costs few tokens; other text costs a token a byte.
DIALOGUE = (
    "Doctor: What brings you in today?\nPatient: I have had a cough for three days.\nDoctor: Any fever?\nPatient: No."
)
NOTE = "The patient is a 52-year-old male with a cough for three days. He takes lisinopril 10 mg daily."


@dataclass(frozen=True, kw_only=True)
class FakeServer:
    """The application, what is behind it, and the folder of its audit log and votes."""

    app: Starlette
    engine: FakeEngine
    service: Service
    folder: Path

    @property
    def audit(self) -> str:
        """The audit log as it is on the disk."""
        return (self.folder / AUDIT_FILE).read_text()


def tokens_of(*lines: str) -> Tokens:
    """The tokens of a file with these lines."""
    path = Path(tempfile.mkdtemp()) / "tokens"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return read_tokens(str(path))


class NoTower:
    """Reads images as a server does; their features are zeros."""

    def features(self, files: Sequence[bytes], keys: Sequence[str], *, limits: Limits) -> dict[int, torch.Tensor]:
        for place, data in enumerate(files):
            decoded(data, place, limits)
        return {image_number(key): torch.zeros(SIZE, 8) for key in keys}


def fake_server(
    notes: Mapping[str, str] | str = NOTE,
    *,
    base_note: str = "A note of the base.",
    task: str = "section",
    folder: Path | None = None,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
    compare: bool = True,
    max_prompt_tokens: int = 20_000,
    max_new_tokens: int = 1_000,
    **engine: Any,
) -> FakeServer:
    """A server whose notes are `notes`: one text, or by the section's name as the prompt has it ("Plan").

    Where the mapping lacks a section its note names it. `engine`: of `FakeEngine`.
    """
    shown = find_task(task).images_part is not None
    tokenizer = image_tokenizer() if shown else tiny_tokenizer()
    images = image_tokens(image_config(tokenizer), tokenizer) if shown else None
    renderer = build_renderer(tokenizer, task=find_task(task), images=images)

    def answer(request: NoteRequest) -> list[int]:
        words = [token for token in request.prompt if token >= 0]
        prompt = renderer.tokenizer.decode(words, clean_up_tokenization_spaces=False)
        found = re.search(r"\n(?:Section|Division): (.*)\n", prompt)
        section = found[1] if found else ""
        text = notes if isinstance(notes, str) else notes.get(section, f"The section is {section}.")
        return renderer.text_ids(text if request.use_adapter else base_note)

    folder = folder or Path(tempfile.mkdtemp())
    fake = FakeEngine(answer, **engine)
    budget = TokenBudget(max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, num_positions=None)
    served = Served(
        name=MODEL,
        renderer=renderer,
        budget=budget,
        can_ground=renderer.task.facts_from is not None,
        image_encoder=NoTower() if shown else None,
    )
    service = Service(fake, served, limits=limits or Limits())
    lines = AppendedLines(folder / AUDIT_FILE, flag="--audit_file")
    audit = AuditLog(lines, model=MODEL, settings_sha256="0" * 64)
    votes = Votes(AppendedLines(folder / VOTES_FILE, flag="--compare")) if compare else None
    access = Access(hosts=TESTING_HOSTS, tokens=tokens)
    application = app(service, access=access, audit=audit, votes=votes)
    return FakeServer(app=application, engine=fake, service=service, folder=folder)
