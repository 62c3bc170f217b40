"""From dialogues to notes and checks: prompts as in training, notes from the engine, checks in other threads."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from medsum_core.data.image_tokens import SEPARATOR
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record, divide_records, normalise_dialogue
from medsum_core.errors import InputError
from medsum_core.generation.notes import TokenBudget, fit_rows, grounding_in
from medsum_core.generation.requests import NoteRequest
from medsum_core.grounding.kinds import CHECKED_KINDS
from medsum_core.server.job import Ended, Engine, Job
from medsum_core.server.limits import Limits
from medsum_core.server.metrics import Metrics
from medsum_core.server.refusal import Refusal, bad_request, too_large
from medsum_core.server.review import check_of_note, check_of_set, turns_of, with_plain_newlines
from medsum_core.tasks.divisions import DIVISIONS
from medsum_core.tasks.task import IMAGES

if TYPE_CHECKING:
    from torch import Tensor

CHECKING_THREADS = 2
LONGEST_NAME = 100  # characters of a section's name
Value = TypeVar("Value")


class ImageEncoder(Protocol):
    """What makes features of images; `image_encoder.VisionTowerEncoder` is one."""

    def features(self, files: Sequence[bytes], keys: Sequence[str], *, limits: Limits) -> Mapping[int, Tensor]:
        """The features of each image by the number of its key. Raises Refusal for one that can't be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served. `grounded`: every note is written so; `can_ground`: one can be.

    `image_encoder`: there where the task shows images.
    """

    name: str
    renderer: PromptRenderer
    budget: TokenBudget
    grounded: bool = False
    can_ground: bool = True
    image_encoder: ImageEncoder | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """The notes that one request asks for, a record and a section's name each, with the dialogue as it was sent."""

    dialogue: str
    sections: tuple[str, ...]
    records: tuple[Record, ...]
    prompts: tuple[tuple[int, ...], ...]
    truncated: tuple[bool, ...]  # the dialogue lost turns to fit the prompt
    images: Mapping[int, Tensor] = field(default_factory=dict, repr=False)  # features, by number
    images_sha256: tuple[str, ...] = ()

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(map(len, self.prompts))


class Service:
    """Writes and checks notes. Its methods are for the event loop; what takes long runs in threads."""

    def __init__(self, engine: Engine, served: Served, *, limits: Limits) -> None:
        self.engine = engine
        self.served = served
        self.limits = limits
        self.metrics = Metrics(engine)
        self._threads = ThreadPoolExecutor(CHECKING_THREADS, thread_name_prefix="check")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")

    @property
    def section_field(self) -> str | None:
        """The part of a prompt that a request's sections fill; None where the task has none."""
        task = self.served.renderer.task
        return "division" if task.divide else task.section_part.name if task.section_part else None

    @property
    def other_parts(self) -> tuple[str, ...]:
        """The parts of a prompt beside the text and the section, such as a question."""
        task = self.served.renderer.task
        return tuple(part.name for part in task.parts if part.name not in (task.source, self.section_field, IMAGES))

    async def order(
        self, dialogue: str, sections: Sequence[str], parts: Mapping[str, str], images: Sequence[bytes] = ()
    ) -> Order:
        """The prompts for a dialogue. `parts`: texts for all of `other_parts`; `images`: files of images.

        Without sections a visit has its four divisions. Raises Refusal for a section that is missing or unknown, for
        a dialogue with too many turns, or of which no turn fits the prompt, and for images that the task shows none of,
        needs, or that can't be read.
        """
        names = self._section_names(sections)
        self._check_images(images)
        await self.turns(dialogue)
        return await self.in_thread(lambda: self._order(dialogue, names, parts, images))

    def write(self, order: Order, *, max_new_tokens: int | None = None, grounded: bool = False) -> Job:
        """Begin to write; use it in a `with` block. Raises Refusal."""
        return self.job(self.requests(order, max_new_tokens=max_new_tokens, grounded=grounded))

    def requests(
        self, order: Order, *, max_new_tokens: int | None = None, grounded: bool = False, use_adapter: bool = True
    ) -> list[NoteRequest]:
        """What the engine is asked for an order: grounded too where the server writes every note so. Raises Refusal."""
        grounded = grounded or self.served.grounded
        if grounded and not self.served.can_ground:
            raise bad_request("grounded: not possible with this run's task or model", code="not_grounded")
        verifiers = grounding_in(order.records, self.served.renderer).verifiers if grounded else None
        longest = min(max_new_tokens or self.served.budget.max_new_tokens, self.served.budget.max_new_tokens)
        return [
            NoteRequest(
                prompt=prompt,
                max_new_tokens=longest,
                verifier=verifiers[index] if verifiers else None,
                use_adapter=use_adapter,
                images=order.images,
            )
            for index, prompt in enumerate(order.prompts)
        ]

    def job(self, requests: Sequence[NoteRequest]) -> Job:
        """The requests at the engine. Raises Refusal."""
        decode = self.served.renderer.decode
        return Job(self.engine, requests, decode=decode, on_first=self.metrics.first_token.observe)

    async def note_entry(self, order: Order, ended: Ended) -> dict[str, Any]:
        """A note that was written, and what the checks say of it."""
        task, generation = self.served.renderer.task, ended.generation
        section, note = order.sections[ended.index], ended.note
        if task.names_section:
            section, note = task.answer.split(note)
        about = {
            "section": section,
            "note": note,
            "hit_limit": generation.hit_limit,
            "num_tokens": len(generation.token_ids),
            "truncated": order.truncated[ended.index],
            "left_out": generation.left_out,
        }
        return about | await self.checked(note, order.dialogue, order.records[ended.index].parts)

    async def checked(self, note: str, dialogue: str, parts: Mapping[str, str]) -> dict[str, Any]:
        """`check_of_note` in a thread. `parts`: of the prompt, with the dialogue as its source part, as it was sent."""
        task = self.served.renderer.task
        text = dialogue if task.facts_from in (None, task.source) else parts[str(task.facts_from)]

        def check() -> dict[str, Any]:
            began = time.perf_counter()
            result = check_of_note(note, with_plain_newlines(text), task)
            self.metrics.checking.observe(time.perf_counter() - began)
            return result

        return await self.in_thread(check)

    async def whole(self, id: str, dialogue: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The answer of /notes and /check from the entries of its notes."""
        texts, plain = [str(entry["note"]) for entry in entries], with_plain_newlines(dialogue)
        of_set = await self.in_thread(lambda: check_of_set(texts, plain, self.served.renderer.task))
        about = {"id": id, "model": self.served.name, "turns": await self.turns(dialogue), "notes": list(entries)}
        return about | of_set | {"checked_kinds": CHECKED_KINDS}

    async def turns(self, dialogue: str) -> list[dict[str, Any]]:
        """The turns of a dialogue as offsets into it. Raises Refusal (413) for too many."""
        turns = await self.in_thread(lambda: turns_of(with_plain_newlines(dialogue)))
        if len(turns) > self.limits.max_turns:
            raise too_large(f"the source text has more than {self.limits.max_turns} turns")
        return turns

    async def in_thread(self, function: Callable[[], Value]) -> Value:
        """What the function returns, computed beside the event loop."""
        return await _in(self._threads, function)

    async def in_reader(self, function: Callable[[], Value]) -> Value:
        """`in_thread` for reading a body, which holds Python's lock for 0.1 s when it has images: one at a time.

        It does not wait for checks, which take seconds.
        """
        return await _in(self._reader, function)

    def close(self) -> None:
        """Begin no more checks. One that runs is left alone: it may take minutes, and nobody awaits its answer."""
        for threads in (self._threads, self._reader):
            threads.shutdown(wait=False, cancel_futures=True)

    def _section_names(self, sections: Sequence[str]) -> tuple[str, ...]:
        task = self.served.renderer.task
        if task.divide:
            if not set(sections) <= set(DIVISIONS):
                raise bad_request(f"sections: a visit has the divisions {', '.join(DIVISIONS)}")
            return tuple(sections) or DIVISIONS
        if self.section_field is None:
            if sections:
                raise bad_request(f"sections: the task {task.name} has none; leave them out")
            return ("",)
        if not sections:
            raise bad_request("sections: say which to write, by an MTS-Dialog code (GENHX) or a name")
        return tuple(sections)

    def _check_images(self, images: Sequence[bytes]) -> None:
        task, reads_images = self.served.renderer.task, self.served.image_encoder is not None
        if images and not reads_images:
            raise bad_request(f"images: the task {task.name} shows none, this run reads text alone: leave them out")
        if reads_images and not images:
            raise bad_request(f"images: the task {task.name} is about images: send one at least, as a data URL")

    def _order(
        self, dialogue: str, sections: tuple[str, ...], parts: Mapping[str, str], images: Sequence[bytes]
    ) -> Order:
        renderer, budget, image_encoder = self.served.renderer, self.served.budget, self.served.image_encoder
        # By chance and not by their bytes, so that no client can choose the number of another's image.
        image_keys = [secrets.token_hex(32) for _ in images]
        if images:
            parts = {**parts, IMAGES: SEPARATOR.join(image_keys)}
        records = self._records(normalise_dialogue(dialogue), sections, parts)
        try:
            fitted = fit_rows({str(n): record for n, record in enumerate(records)}, renderer, budget)
        except InputError as error:
            raise bad_request(str(error)) from None
        if fitted.set_aside:
            raise Refusal(413, "too_large", next(iter(fitted.set_aside.values())))
        keys = [str(n) for n in range(len(records))]
        return Order(
            dialogue=dialogue,
            sections=sections,
            records=tuple(records),
            prompts=tuple(tuple(fitted.prompts[key]) for key in keys),
            truncated=tuple(key in fitted.truncated for key in keys),
            images=image_encoder.features(images, image_keys, limits=self.limits) if image_encoder is not None else {},
            images_sha256=tuple(hashlib.sha256(data).hexdigest() for data in images),
        )

    def _records(self, text: str, sections: tuple[str, ...], parts: Mapping[str, str]) -> list[Record]:
        task, field = self.served.renderer.task, self.section_field
        if not text:
            raise bad_request("the source text is empty")
        whole = Record(id="1", parts={**parts, task.source: text}, source=task.source)
        if task.divide:
            divisions = dict(zip(DIVISIONS, divide_records([whole]), strict=True))
            return [divisions[name] for name in sections]
        if field is None:
            return [whole]
        return [Record(id="1", parts={**whole.parts, field: name}, source=task.source) for name in sections]


async def _in(threads: ThreadPoolExecutor, function: Callable[[], Value]) -> Value:
    work = [function]
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: work.pop()())
    finally:
        work.clear()  # the queue keeps what was cancelled until a thread is free: not its images too
