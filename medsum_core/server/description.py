"""The description of the interface, OpenAPI 3.1: a static file, completed with the inputs of one run's task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medsum_core.server.fields import SETTINGS_OF_OTHERS
from medsum_core.server.openai_api import WITHOUT_EFFECT
from medsum_core.server.service import Service
from medsum_core.tasks.divisions import DIVISIONS

OPENAPI = Path(__file__).with_name("openapi.json")


def described(service: Service, *, needs_token: bool) -> dict[str, Any]:
    """The description for a run: its name, its sections, its images, and the parts of its prompt."""
    description: dict[str, Any] = json.loads(OPENAPI.read_text("utf-8"))
    if not needs_token:
        del description["security"]
    schemas = description["components"]["schemas"]
    chat, notes, pair = (schemas[name] for name in ("ChatRequest", "NotesRequest", "PairRequest"))
    chat["properties"]["model"] = {"const": service.served.name}
    chat["properties"] |= {name: {"type": "null"} for name in SETTINGS_OF_OTHERS}
    chat["properties"] |= {name: {"enum": [value, None]} for name, value in WITHOUT_EFFECT.items()}
    chat["properties"]["task"] = {"const": service.served.renderer.task.name}
    field = service.section_field
    short = "division" if field == "division" else "section"
    section = chat["properties"]["section"]
    if field == "division":
        section = {"enum": list(DIVISIONS)}
    text = schemas["TextPart"]["properties"]["text"]
    parts = {name: {**text, "description": f"The prompt's {name}."} for name in service.other_parts}
    template = {"properties": parts | ({short: section} if field else {}), "required": list(parts)}
    chat["properties"]["chat_template_kwargs"] |= {**template, "additionalProperties": False}
    chat["required"] += ["chat_template_kwargs"] if parts else []
    in_template = {"properties": {"chat_template_kwargs": {"required": [short]}}, "required": ["chat_template_kwargs"]}
    if field is None:
        del chat["properties"]["section"], pair["properties"]["section"]
        notes["properties"]["sections"]["maxItems"] = 0
        pair["required"].remove("section")
    elif field == "division":
        chat["properties"]["section"] = pair["properties"]["section"] = section
        notes["properties"]["sections"]["items"] = section
        pair["required"].remove("section")
        chat["not"] = {"allOf": [{"required": ["section"]}, in_template]}
    else:
        notes["properties"]["sections"]["minItems"] = 1
        notes["required"].append("sections")
        chat["oneOf"] = [{"required": ["section"]}, in_template]
    if service.served.image_encoder is None:
        _without_images(schemas)
    else:
        notes["required"].append("images")
    return description


def _without_images(schemas: dict[str, Any]) -> None:
    """A message is a text, or one part of text."""
    del schemas["NotesRequest"]["properties"]["images"], schemas["ImagePart"]
    part = {"type": "array", "prefixItems": [{"$ref": "#/components/schemas/TextPart"}], "items": False, "minItems": 1}
    message = schemas["ChatRequest"]["properties"]["messages"]["items"]
    message["properties"]["content"] = {"anyOf": [schemas["TextPart"]["properties"]["text"], part]}
