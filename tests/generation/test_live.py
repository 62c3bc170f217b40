"""The live engine writes the note that `generate` writes for each prompt alone, whatever other requests come and go."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from decoding_models import KINDS, small_model, some_prompts
from families import FAMILIES
from live_notes import LONGEST_NOTE, LONGEST_PROMPT, Heard, Passes, is_idle, running, wait_until
from recorded_operations import record
from small_language import STOPS, grounding, refused_numbers
from transformers import AutoModelForCausalLM
from windows import tuned as tuned_model

from medsum_core.errors import InputError
from medsum_core.generation import generate as generate_module
from medsum_core.generation.generate import generate, own_modules
from medsum_core.generation.live import LiveEngine
from medsum_core.generation.own_cache import one_by_one
from medsum_core.generation.requests import NoteRequest
from medsum_core.generation.search import Generation
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.model.lora import LoraSettings

NUM_SCHEDULES = 8  # of each family, kernels and number of beams; these are 27, so 216 in all
GRAPHED = partial(packed_decoder, record=lambda: record)
PATHS = [*((kind, decoder) for kind in KINDS for decoder in (own_modules, packed_decoder)), ("qwen2", own_modules)]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and the note that `generate` writes for its prompt alone."""

    request: NoteRequest
    expected: Generation

    @property
    def is_told(self) -> bool:
        """Whether a greedy engine streams its tokens."""
        return self.request.verifier is None


def ask(model: Any, seed: int, *, refuses: bool = False, use_adapter: bool = True, **options: Any) -> Asked:
    """A prompt of any length and a limit for its note, by chance."""
    [prompt], longest = some_prompts(seed, 1, longest=LONGEST_PROMPT), random.Random(seed).randint(1, LONGEST_NOTE)
    verifier = refused_numbers(seed, share=0.7) if refuses else None
    rules = grounding([verifier]) if verifier else None
    with nullcontext() if use_adapter else model.disable_adapter():
        [expected] = generate(model, [prompt], stop_token_ids=STOPS, max_new_tokens=longest, grounding=rules, **options)
    limits: dict[str, Any] = {"max_new_tokens": longest, "verifier": verifier, "use_adapter": use_adapter}
    return Asked(request=NoteRequest(prompt=tuple(prompt), **limits), expected=expected)


class Schedule:
    """Requests that come and are cancelled in forward passes, by chance; a new one also where nothing is left to do."""

    def __init__(self, engine: LiveEngine, passes: Passes, choices: list[Asked], seed: int) -> None:
        self._engine, self._chance = engine, random.Random(seed)
        self._todo = [self._chance.choice(choices) for _ in range(self._chance.randint(4, 12))]
        self._came: list[tuple[int, Asked, Heard]] = []
        self._cancelled: dict[int, tuple[int, Generation | None]] = {}  # what had been heard by then
        passes.before = self._come_and_go
        while self._todo:
            self._submit(self._chance.randint(1, 3))
            wait_until(lambda: is_idle(engine))

    def _submit(self, number: int) -> None:
        asked, self._todo = self._todo[:number], self._todo[number:]
        heard = [Heard() for _ in asked]
        self._came += zip(self._engine.submit([each.request for each in asked], heard), asked, heard, strict=True)

    def _come_and_go(self) -> None:
        if self._chance.random() < 0.4:
            self._submit(self._chance.randint(1, 3))
        if self._came and self._chance.random() < 0.15:
            number, _, heard = self._chance.choice(self._came)
            self._cancelled.setdefault(number, (len(heard.tokens), heard.generation))
            self._engine.cancel(number)

    def check(self, *, num_beams: int) -> tuple[int, int]:
        """How many notes were written, and how many were cancelled after their first token."""
        num_cut = 0
        for number, asked, heard in self._came:
            num_tokens, generation = self._cancelled.get(number, (len(heard.tokens), heard.generation))
            assert heard.error is None and len(heard.tokens) == num_tokens and heard.generation is generation
            is_told = asked.is_told and num_beams == 1
            assert tuple(heard.tokens) == (asked.expected.token_ids[:num_tokens] if is_told else ())
            if generation is None:
                assert number in self._cancelled
                num_cut += num_tokens > 0
                continue
            assert heard.num_ends == 1 and (num_tokens == len(generation.token_ids) or not is_told)
            assert generation.score == pytest.approx(asked.expected.score, abs=1e-4, nan_ok=True)
            names = ("token_ids", "hit_limit", "left_out")
            assert all(getattr(generation, name) == getattr(asked.expected, name) for name in names)
        return sum(heard.num_ends for _, _, heard in self._came), num_cut


@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize(("kind", "decoder"), PATHS)
def test_a_note_equals_that_of_its_prompt_alone(kind: str, decoder: Any, num_beams: int) -> None:
    """A third of the requests are grounded; afterwards the cache has not moved and all slots are free."""
    model, passes, options = small_model(kind), Passes(decoder), {"num_beams": num_beams, "length_penalty": 0.6}
    choices = [ask(model, seed, refuses=seed % 3 == 0, decoder=decoder, **options) for seed in range(12)]
    num_written = num_cut = 0
    with running(model, passes, **options) as engine:
        addresses = passes.addresses()
        for seed in range(NUM_SCHEDULES):
            written, cut = Schedule(engine, passes, choices, seed).check(num_beams=num_beams)
            num_written, num_cut = num_written + written, num_cut + cut
        assert passes.addresses() == addresses and len(passes.caches) == 1
        assert engine.stats().num_running == engine.stats().num_waiting == 0
    assert num_written > 30 and (num_cut > 2 or num_beams > 1)


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize(
    ("kernels", "decoder"), [("reference", own_modules), ("fast", packed_decoder), ("fast", GRAPHED)]
)
def test_notes_of_base_and_tuned_model_at_the_same_time(kernels: str, decoder: Any, num_beams: int) -> None:
    model: Any = tuned_model(small_model("gemma"), LoraSettings(r=4, dropout=0.1, alpha=60), kernels=kernels)
    passes, options = Passes(decoder), {"num_beams": num_beams}
    tuned, base = (
        [ask(model, seed, use_adapter=use_adapter, decoder=decoder, **options) for seed in range(8)]
        for use_adapter in (True, False)
    )
    assert [asked.expected.token_ids for asked in tuned] != [asked.expected.token_ids for asked in base]
    with running(model, passes, compare=True, **options) as engine:
        addresses = passes.addresses()
        for seed in range(5):
            Schedule(engine, passes, [*tuned, *base], seed).check(num_beams=num_beams)
        assert passes.addresses() == addresses and len(passes.caches) == 2
        assert engine.stats().num_slots == 6
    assert not any(module.disable_adapters for module in model.modules() if hasattr(module, "lora_A"))
    with pytest.raises(ValueError, match="adapter"), running(small_model("gemma"), compare=True):
        pass


@pytest.mark.parametrize("num_beams", [1, 2])
def test_notes_of_a_model_with_its_own_cache(num_beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps more than keys and values, so that nothing can be taken back: no grounded notes."""
    torch.manual_seed(0)
    [family] = [family for family in FAMILIES if family.name == "lfm2"]
    model = AutoModelForCausalLM.from_config(family.config()).eval()
    passes, options = Passes(one_by_one), {"num_beams": num_beams}
    choices = [ask(model, seed, **options) for seed in range(8)]
    monkeypatch.setattr(generate_module, "one_by_one", passes.decoder)
    with running(model, **options) as engine:
        for seed in range(6):
            Schedule(engine, passes, choices, seed).check(num_beams=num_beams)
        refused = NoteRequest(prompt=(2,), max_new_tokens=2, verifier=refused_numbers(0))
        with pytest.raises(InputError, match="lfm2 keeps more than keys and values"):
            engine.submit([refused], [Heard()])


def test_no_repeat_ngram_size_with_other_notes_at_the_same_time() -> None:
    model, passes = small_model("llama"), Passes(packed_decoder)
    plain = [ask(model, seed, decoder=packed_decoder) for seed in range(8)]
    ruled = [ask(model, seed, decoder=packed_decoder, no_repeat_ngram_size=2) for seed in range(8)]
    assert plain != ruled
    with running(model, passes, no_repeat_ngram_size=2) as engine:
        for seed in range(4):
            Schedule(engine, passes, ruled, seed).check(num_beams=1)
