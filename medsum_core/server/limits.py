"""Limits on the memory and time that one client may use."""

from __future__ import annotations

from dataclasses import dataclass

from medsum_core.tasks.task import Task

BODY_WITH_IMAGES = 8 << 20  # holds 6 MiB of images, as base64


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits; what a prompt and a note may have in tokens is the run's own (`notes.TokenBudget`).

    An hour's visit has some 60,000 characters and 600 turns; checking a note against 100,000 takes seconds.
    """

    max_body_bytes: int = 1 << 20
    max_images: int = 4  # a request
    max_image_pixels: int = 32_000_000  # each; a mammogram has 25 million
    body_seconds: float = 10.0  # for a whole request body to arrive
    header_seconds: float = 10.0  # for a request to begin on a new connection, and on one that is kept
    max_dialogue_characters: int = 100_000
    max_turns: int = 2_000
    max_note_characters: int = 10_000  # of one section, as it comes back for a check
    max_sections: int = 20
    max_requests: int = 64  # at a time, those that wait included
    max_connections: int = 256
    stop_seconds: float = 30.0  # for what runs when the server is asked to end


def limits_for(task: Task, *, stop_seconds: float) -> Limits:
    """The limits of a server for a task: bodies may be larger where they hold images."""
    if task.images_part is None:
        return Limits(stop_seconds=stop_seconds)
    return Limits(stop_seconds=stop_seconds, max_body_bytes=BODY_WITH_IMAGES)
