"""`/notes`, `/check`, `/audit` and `/options`: notes with what the checks say of them, for the page and programs."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsum_core.server.answers import Context, EventStream, event, unless_gone
from medsum_core.server.audit import known_section
from medsum_core.server.fields import Fields, whole_number
from medsum_core.server.image_fields import read_images
from medsum_core.server.job import Ended, Job
from medsum_core.server.refusal import bad_request
from medsum_core.server.service import LONGEST_NAME, Order
from medsum_core.tasks.divisions import DIVISIONS
from medsum_core.tasks.section_names import SECTION_NAMES

NOTICE = "A draft for a clinician to check{against}, never a record. Not a medical device."
ACTIONS = ("edited", "signed", "exported")
FORMATS = ("text", "markdown", "json", "fhir")
ID = re.compile(r"[0-9a-f]{32}")
SHA256 = re.compile(r"[0-9a-f]{64}")
FIELDS = ("dialogue", "sections", "images", "grounded", "stream")
MOST_SPANS = 1_000
OFFSET_BOUND = 1 << 31


class NotesRoutes:
    """The four routes."""

    def __init__(self, context: Context, *, compares: bool) -> None:
        self._context = context
        self._service = context.service
        self._limits = context.limits
        self._compares = compares

    async def options(self, _: Request) -> Response:
        """GET /options: what can be asked for."""
        served, limits = self._service.served, self._limits
        task = served.renderer.task
        source = task.facts_from if task.images_part is None else "images"
        sections = [{"code": code, "name": name} for code, name in SECTION_NAMES.items()]
        return JSONResponse(
            {
                "task": task.name,
                "sections": sections if task.section_part is not None else [],
                "visit_divisions": list(DIVISIONS) if task.divide else [],
                "other_parts": list(self._service.other_parts),
                "source": task.source,
                "checks": task.facts_from is not None,
                "max_images": limits.max_images if task.images_part is not None else 0,
                "model": served.name,
                "limits": {
                    "max_dialogue_characters": limits.max_dialogue_characters,
                    "max_turns": limits.max_turns,
                    "max_note_characters": limits.max_note_characters,
                    "max_sections": limits.max_sections,
                    "max_prompt_tokens": served.budget.max_prompt_tokens,
                    "max_new_tokens": served.budget.max_new_tokens,
                },
                "grounded": served.grounded,
                "grounded_available": served.can_ground,
                "compare": self._compares,
                "notice": NOTICE.format(against=f" against the {source}" if source is not None else ""),
            }
        )

    async def notes(self, request: Request) -> Response:
        """POST /notes: a note for each section, all written at once."""
        fields = await self._context.read(request, partial(Fields, known=FIELDS))
        if others := self._service.other_parts:
            raise bad_request(
                f"this run's prompts also have {', '.join(others)}: use /v1/chat/completions with chat_template_kwargs"
            )
        sections = fields.items("sections", most=self._limits.max_sections, default=())
        names = [_name(section, f"sections[{number}]") for number, section in enumerate(sections)]
        grounded, stream = fields.flag("grounded"), fields.flag("stream")
        images = await self._service.in_reader(lambda: read_images(fields, self._limits))
        ordered = self._service.order(self._dialogue(fields), names, {}, images)
        order = await unless_gone(request, ordered)  # images take seconds, and wait for those of others
        id = uuid.uuid4().hex
        await self._context.record_asked(request, order, id=id, grounded=grounded)
        job = self._service.write(order, grounded=grounded)
        if stream:
            events = self._context.with_faults(self._events(request, order, job, id=id), named=True)
            return EventStream(events, job, count=self._service.metrics.count_refusal)
        with job:
            return JSONResponse(await unless_gone(request, self._whole(request, order, job, id=id)))

    async def _whole(self, request: Request, order: Order, job: Job, *, id: str) -> dict[str, Any]:
        ended = await job.notes()
        entries = [await self._service.note_entry(order, one) for one in ended]
        return await self._finished(request, order, ended, entries, id=id)

    async def _finished(
        self, request: Request, order: Order, ended: Sequence[Ended], entries: Sequence[dict[str, Any]], *, id: str
    ) -> dict[str, Any]:
        """The whole answer, once the log has it."""
        whole = await self._service.whole(id, order.dialogue, entries)
        sent = [(entry["section"], entry["note"]) for entry in entries]
        await self._context.record_written(request, ended, sent, id=id)
        return whole

    async def _events(self, request: Request, order: Order, job: Job, *, id: str) -> AsyncIterator[bytes]:
        turns = await self._service.turns(order.dialogue)
        yield event({"id": id, "turns": turns}, name="turns")
        written: dict[int, tuple[Ended, dict[str, Any]]] = {}
        async for one in job:
            if isinstance(one, Ended):
                entry = await self._service.note_entry(order, one)
                written[one.index] = one, entry
                yield event({"index": one.index, **entry}, name="note")
            else:
                yield event({"index": one.index, "text": one.text}, name="text")
        ended, entries = zip(*(written[index] for index in sorted(written)), strict=True)
        yield event(await self._finished(request, order, ended, entries, id=id), name="done")

    async def check(self, request: Request) -> Response:
        """POST /check: what the checks say of notes that are sent, such as edited ones."""
        fields = await self._context.read(request, partial(Fields, known=("dialogue", "notes")))
        if others := self._service.other_parts:
            raise bad_request(f"this run's prompts also have {', '.join(others)}: nothing to check against here")
        dialogue, sent = self._dialogue(fields), fields.items("notes", most=self._limits.max_sections)
        notes = [self._note(values, number) for number, values in enumerate(sent)]
        return JSONResponse(await unless_gone(request, self._checked(request, dialogue, notes)))

    async def _checked(self, request: Request, dialogue: str, notes: list[tuple[str, str]]) -> dict[str, Any]:
        await self._service.turns(dialogue)
        unwritten = {"hit_limit": False, "num_tokens": 0, "truncated": False, "left_out": 0}
        entries = [
            {"section": section, "note": note} | unwritten | await self._service.checked(note, dialogue, {})
            for section, note in notes
        ]
        id = uuid.uuid4().hex
        whole = await self._service.whole(id, dialogue, entries)
        await self._context.record(request, "checked", id=id, sections=[known_section(name) for name, _ in notes])
        return whole

    async def audit(self, request: Request) -> Response:
        """POST /audit: what the user did with the notes of an id."""
        known = ("id", "action", "section", "spans", "note_sha256", "format")
        fields = await self._context.read(request, partial(Fields, known=known))
        facts: dict[str, Any] = {}
        if fields.has("section"):
            facts["section"] = known_section(fields.text("section", longest=LONGEST_NAME))
        if fields.has("spans"):
            facts["spans"] = [_span(one) for one in fields.items("spans", most=MOST_SPANS)]
        if fields.has("note_sha256"):
            facts["note_sha256"] = _matched(fields, "note_sha256", SHA256, "a sha256 in 64 hexadecimal digits")
        if fields.has("format"):
            facts["format"] = fields.option("format", FORMATS)
        id = _matched(fields, "id", ID, "the id of an answer, 32 hexadecimal digits")
        await self._context.record(request, fields.option("action", ACTIONS), id=id, **facts)
        return Response(status_code=204)

    def _dialogue(self, fields: Fields) -> str:
        return fields.text("dialogue", longest=self._limits.max_dialogue_characters)

    def _note(self, values: object, number: int) -> tuple[str, str]:
        fields = Fields(values, known=("section", "note"), where=f"notes[{number}].")
        note = fields.text("note", longest=self._limits.max_note_characters, default="")
        return fields.text("section", longest=LONGEST_NAME, default=""), note


def _name(section: object, where: str) -> str:
    """A section's name in a list."""
    return Fields({where: section}, known=(where,)).text(where, longest=LONGEST_NAME)


def _span(value: object) -> list[int]:
    ends = [whole_number(end) for end in value] if isinstance(value, list) else []
    match ends:
        case [int(start), int(end)] if 0 <= start <= end < OFFSET_BOUND:
            return [start, end]
    raise bad_request("spans: expected pairs of offsets, [start, end)")


def _matched(fields: Fields, name: str, pattern: re.Pattern[str], what: str) -> str:
    value = fields.text(name, longest=100)
    if pattern.fullmatch(value) is None:
        raise bad_request(f"{name}: expected {what}")
    return value
