"""A run as it is served: base, adapter, prompt and limits as `infer.py` has them, and an engine that has started."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from medsum_core.data.image_tokens import BLANK_KEY
from medsum_core.data.records import Record, divide_records
from medsum_core.errors import InputError
from medsum_core.generation.generate import check_can_go_back, decoder_and_cache
from medsum_core.generation.live import LiveEngine
from medsum_core.generation.notes import TokenBudget, grounding_in
from medsum_core.generation.requests import NoteRequest
from medsum_core.generation.search import Generation
from medsum_core.generation.writer import Writer
from medsum_core.model.forward import causal_model
from medsum_core.server.service import Served
from medsum_core.tasks.task import IMAGES, Task

if TYPE_CHECKING:
    from medsum_core.server.image_encoder import VisionTowerEncoder


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The engine, started, and what it serves. `description`: hashes and settings that decide the notes."""

    engine: LiveEngine
    served: Served
    description: dict[str, Any]

    @property
    def settings_sha256(self) -> str:
        """One hash of the description, for each line of the audit log."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()


def check_flags(writer: Writer, args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go with the run, before anything is written or loaded."""
    if args.compare and writer.renderer.task.images_part is not None:
        raise InputError("--compare: there is no such page for a task that shows images: leave it out")
    longest, room = writer.budget.max_new_tokens, max_tokens(writer.budget)
    if longest >= room:
        raise InputError(
            f"--max_new_tokens {longest}: this model has room for {room} tokens, prompt and note together: lower it"
        )


def load(writer: Writer, args: argparse.Namespace) -> Loaded:
    """The run that `--run` names. Raises InputError; takes seconds to minutes, with a notice on stderr."""
    renderer = writer.renderer
    shows_images = renderer.task.images_part is not None
    print(f"loading {args.run}: base and adapter ...", file=sys.stderr, flush=True)
    prompts = [renderer.prompt_ids(record.parts) for record in sample_records(renderer.task)]
    model = writer.load_model(prompts)
    image_encoder = _image_encoder(model, writer) if shows_images else None
    can_ground = _can_ground(model, writer)
    grounded = "grounded" in writer.description
    if grounded and not can_ground:
        raise InputError("--grounded: not possible with this run's task or model: leave it out")
    engine = _engine(model, writer, args, can_ground=can_ground)
    print("writing a first note ...", file=sys.stderr, flush=True)
    engine.start()
    first: dict[str, Any] = {"prompt": tuple(prompts[0]), "max_new_tokens": 2}
    if image_encoder is not None:
        first["images"] = image_encoder.blank(BLANK_KEY)
    for use_adapter in (True, False) if args.compare else (True,):
        _write_once(engine, NoteRequest(**first, use_adapter=use_adapter))
    description = json.loads(json.dumps({**writer.description, **writer.decoding}))
    served = Served(
        name=Path(args.run).resolve().name,
        renderer=renderer,
        budget=writer.budget,
        grounded=grounded,
        can_ground=can_ground,
        image_encoder=image_encoder,
    )
    return Loaded(engine=engine, served=served, description=description)


def _image_encoder(model: Any, writer: Writer) -> VisionTowerEncoder:
    from medsum_core.images.features import image_processor  # a run on text imports nothing that reads images
    from medsum_core.server.image_encoder import VisionTowerEncoder

    return VisionTowerEncoder(model, image_processor(**writer.base_source))


def sample_records(task: Task) -> list[Record]:
    """Records of an invented dialogue, for the notes that are written before the first request."""
    dialogue = "Doctor: What brings you in today?\nPatient: I have had a cough for three days.\nDoctor: Any fever?"
    texts = {part.name: "GENHX" if part.is_section else "-" for part in task.parts}
    texts |= {IMAGES: BLANK_KEY} if task.images_part is not None else {}
    records = [Record(id=str(n), parts=texts | {task.source: dialogue * n}, source=task.source) for n in (1, 2)]
    return divide_records(records) if task.divide else records


def _engine(model: Any, writer: Writer, args: argparse.Namespace, *, can_ground: bool) -> LiveEngine:
    budget, renderer = writer.budget, writer.renderer
    if args.compare and not hasattr(model, "disable_adapter"):
        raise InputError("--compare: this run has no adapter to switch off")
    return LiveEngine(
        model,
        decoder=writer.forward["decoder"],
        stop_token_ids=renderer.stop_token_ids,
        num_slots=writer.choice.batch_size,
        max_tokens=max_tokens(budget),
        max_waiting=args.max_waiting,
        decode=renderer.decode if can_ground else None,
        full_stops=grounding_in([], renderer).full_stops if can_ground else frozenset(),
        compare=args.compare,
        **writer.decoding,
    )


def max_tokens(budget: TokenBudget) -> int:
    """The most tokens of a prompt and its note: the budget's, within the model's context length."""
    wanted = budget.max_prompt_tokens + budget.max_new_tokens
    return wanted if budget.num_positions is None else min(wanted, budget.num_positions)


def _can_ground(model: Any, writer: Writer) -> bool:
    causal = causal_model(model)
    try:
        check_can_go_back(causal.config, decoder_and_cache(causal, writer.forward["decoder"])[1])
    except InputError:
        return False
    return writer.renderer.task.facts_from is not None


@dataclass
class _First:
    """The listener of the first note."""

    done: Event = field(default_factory=Event)
    error: BaseException | None = None

    def on_token(self, token: int) -> None:
        """Nothing to do."""

    def on_finished(self, generation: Generation) -> None:
        """It works."""
        self.done.set()

    def on_failed(self, error: BaseException) -> None:
        """It does not."""
        self.error = error
        self.done.set()


def _write_once(engine: LiveEngine, request: NoteRequest) -> None:
    """Write two tokens, so that no client waits for what is compiled or packed at first use."""
    first = _First()
    engine.submit([request], [first])
    first.done.wait()
    if first.error is not None:
        raise first.error
