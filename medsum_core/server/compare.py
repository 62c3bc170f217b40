"""Base against tuned, blinded: two notes of one dialogue in random order, a vote, and the totals with their interval.

The base is the same model with the adapter switched off. Which note is the base's is not sent before the vote; votes
are stored as JSON lines of ids and hashes.
"""

from __future__ import annotations

import math
import secrets
import uuid
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsum_core.server.answers import Context, unless_gone
from medsum_core.server.audit import AppendedLines, known_section, text_sha256
from medsum_core.server.fields import Fields
from medsum_core.server.refusal import Refusal, bad_request
from medsum_core.server.security import WHO
from medsum_core.server.service import LONGEST_NAME

VOTES_FILE = "votes.jsonl"
SIDES = ("tuned", "base")
MOST_OPEN = 1_000  # pairs without a vote that are remembered
Z_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair that was shown. `of_letter`: which side `a` and `b` are."""

    of_letter: dict[str, str]
    facts: dict[str, Any]


class Votes:
    """The pairs without a vote so far, in memory, and the votes, in a file."""

    def __init__(self, lines: AppendedLines) -> None:
        self._lines = lines
        self._open: OrderedDict[str, Pair] = OrderedDict()
        self._counts = Counter(str(record.get("vote")) for record in lines.read())

    def add(self, pair: Pair) -> str:
        """Store a pair and return its id. Beyond the limit the oldest pair is dropped."""
        id = uuid.uuid4().hex
        self._open[id] = pair
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return id

    def vote(self, id: str, letter: str, *, who: str) -> None:
        """Store the vote. Raises Refusal for an unknown pair, a second vote, or a file that can't be written."""
        pair = self._open.pop(id, None)
        if pair is None:
            raise Refusal(404, "pair_not_found", "no such pair waits for a vote")
        side = pair.of_letter.get(letter, "tie")
        try:
            self._lines.append({"pair_id": id, "vote": side, "who": who, **pair.facts})
        except OSError as error:
            self._open[id] = pair
            raise Refusal(503, "no_votes", f"the vote can't be written ({error.strerror})") from None
        self._counts[side] += 1

    def summary(self) -> dict[str, Any]:
        """The counts, and the tuned model's proportion of the votes that are not ties, with its 95 % interval."""
        tuned, base, tie = (self._counts[side] for side in (*SIDES, "tie"))
        share = tuned / (tuned + base) if tuned + base else None
        return {
            **{"votes": tuned + base + tie, "tuned": tuned, "base": base, "tie": tie},
            **{"tuned_share": share, "interval": list(wilson(tuned, tuned + base)) if tuned + base else None},
        }

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson, 1927); also valid for few votes and at 0 and 1."""
    share, z2 = count / total, Z_95 * Z_95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


class CompareRoutes:
    """The three routes."""

    def __init__(self, context: Context, votes: Votes) -> None:
        self._context = context
        self._votes = votes

    async def pair(self, request: Request) -> Response:
        """POST /compare/pair: two notes, `a` and `b`."""
        limits, service = self._context.limits, self._context.service
        fields = await self._context.read(request, partial(Fields, known=("dialogue", "section")))
        if others := service.other_parts:
            raise bad_request(f"this run's prompts also have {', '.join(others)}: there is no comparison of its notes")
        sections = [fields.text("section", longest=LONGEST_NAME)] if fields.has("section") else []
        dialogue = fields.text("dialogue", longest=limits.max_dialogue_characters)
        order = await service.order(dialogue, sections, {})
        await self._context.record_asked(request, order, id=uuid.uuid4().hex)
        with service.job([*service.requests(order), *service.requests(order, use_adapter=False)]) as job:
            notes = [one.note for one in await unless_gone(request, job.notes())]
        half = len(order.prompts)
        texts = {"tuned": "\n\n".join(notes[:half]), "base": "\n\n".join(notes[half:])}
        of_letter = dict(zip("ab", secrets.SystemRandom().sample(SIDES, 2), strict=True))
        hashes = {f"{side}_sha256": text_sha256(texts[side]) for side in SIDES}
        facts = {"sections": list(map(known_section, order.sections)), "dialogue_sha256": text_sha256(dialogue)}
        id = self._votes.add(Pair(of_letter=of_letter, facts=facts | hashes))
        return JSONResponse({"pair_id": id} | {letter: texts[side] for letter, side in of_letter.items()})

    async def vote(self, request: Request) -> Response:
        """POST /compare/vote."""
        fields = await self._context.read(request, partial(Fields, known=("pair_id", "vote")))
        letter, id = fields.option("vote", ("a", "b", "tie")), fields.text("pair_id", longest=100)
        self._votes.vote(id, letter, who=str(request.scope[WHO]))
        return Response(status_code=204)

    async def summary(self, _: Request) -> Response:
        """GET /compare/summary."""
        return JSONResponse(self._votes.summary())
