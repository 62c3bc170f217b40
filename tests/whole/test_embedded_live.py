"""The live engine on the demo's model: twenty dialogues, of which some are cancelled and submitted again."""

from __future__ import annotations

from typing import Any

from live_notes import Heard
from support import needs_package

from medsum_core.config.parser import bundled_path
from medsum_core.data.prompt import build_renderer
from medsum_core.data.records import read_records
from medsum_core.generation.generate import generate
from medsum_core.generation.live import LiveEngine
from medsum_core.generation.requests import NoteRequest
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.embedded import EMBEDDED_NAME

NUM_DIALOGUES, LONGEST_NOTE = 20, 8


@needs_package(EMBEDDED_NAME)
def test_twenty_dialogues_get_the_notes_of_generate() -> None:
    renderer = build_renderer(load_tokenizer(EMBEDDED_NAME, offline=True))
    records = read_records(bundled_path("bundled:demo_train.csv"))
    prompts = sorted((renderer.prompt_ids(record.parts) for record in records), key=len)[:NUM_DIALOGUES]
    model: Any = load_base(EMBEDDED_NAME, precision="fp32", offline=True)
    options: dict[str, Any] = {"stop_token_ids": renderer.stop_token_ids, "decoder": packed_decoder}
    expected = generate(model, prompts, max_new_tokens=LONGEST_NOTE, **options)
    assert len({note.token_ids for note in expected}) > 5

    heard: list[Heard] = []
    cancelled: list[Heard] = []

    class Cancels(Heard):
        """At its second token every fourth request cancels the next one, which is submitted again."""

        def on_token(self, token: int) -> None:
            super().on_token(token)
            index = heard.index(self)
            if index % 4 == 0 and len(self.tokens) == 2:
                engine.cancel(numbers[index + 1])
                cancelled.append(heard[index + 1])
                heard[index + 1] = Heard()
                engine.submit([requests[index + 1]], [heard[index + 1]])

    bounds = {"num_slots": 4, "max_tokens": len(prompts[-1]) + LONGEST_NOTE, "max_new_tokens": LONGEST_NOTE}
    engine = LiveEngine(model, **options, **bounds, max_waiting=NUM_DIALOGUES)
    engine.start()
    requests = [NoteRequest(prompt=tuple(prompt), max_new_tokens=LONGEST_NOTE) for prompt in prompts]
    heard = [Cancels() for _ in prompts]
    numbers = engine.submit(requests, heard)
    for each in heard:
        each.wait()
    engine.close(seconds=60)
    assert [each.generation and each.generation.token_ids for each in heard] == [note.token_ids for note in expected]
    assert len(cancelled) == 5 and all(each.num_ends == 0 for each in cancelled)
    assert any(each.tokens for each in cancelled)  # at least one had begun
