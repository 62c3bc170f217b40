"""Decoding with recorded and repeated steps writes the notes of decoding without; a stand-in records a CPU's operations.

Wrong notes also show inputs that are replaced instead of written to: the stand-in repeats the first step's tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from decoding_models import KINDS, STOPS, reference, small_model, some_prompts
from meta_device import META, WaitRecorder, meta_patches, meta_run, recording
from recorded_operations import Borrowed, Operations, record
from small_language import STOPS as LANGUAGE_STOPS
from small_language import grounding, refused_numbers
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from windows import tuned

from medsum_core.generation.banned_tokens import BanRules
from medsum_core.generation.batch import Batch
from medsum_core.generation.beam import BeamRules
from medsum_core.generation.generate import any_algorithm, built_in_rule, generate
from medsum_core.generation.kv_cache import KVCache
from medsum_core.generation.search import Generation, Note
from medsum_core.kernels import choose
from medsum_core.kernels.decoding import packed_weights
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.kernels.gpu import graphed_steps, graphs
from medsum_core.model.forward import causal_model
from medsum_core.model.lora import LoraSettings

OPTIONS: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 14, "min_new_tokens": 4}
LAUNCHES_OUTSIDE = 30  # the head's and those that write the inputs


class Recorder:
    """Counts what the stand-in records and repeats."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = self.num_made = 0

    def __call__(self, function: Callable[[], Any]) -> Callable[[], None]:
        self.num_recorded += 1
        repeat = record(function)

        def replay() -> None:
            self.num_replayed += 1
            repeat()

        return replay

    def made(self) -> Recorder:
        self.num_made += 1
        return self

    def decoder(self, causal: Any, **settings: Any) -> Any:
        return packed_decoder(causal, record=self.made, **settings)


@pytest.fixture(autouse=True)
def _few_keys_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed_steps, "ROUNDED_KEYS", 16)


def check_same(found: list[Generation], plain: list[Generation]) -> None:
    assert [note.token_ids for note in found] == [note.token_ids for note in plain]
    scores = ([note.score for note in notes] for notes in (found, plain))
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_notes_are_those_without_graphs(kind: str, num_beams: int) -> None:
    """More prompts than slots: notes join and leave. The windows of Gemma 2 and 3 are shorter than the notes."""
    recorder, model, prompts = Recorder(), small_model(kind), some_prompts(1, 12)
    options: dict[str, Any] = {**OPTIONS, "num_beams": num_beams, "batch_size": 5}
    found = generate(model, prompts, **options, decoder=recorder.decoder)
    check_same(found, generate(model, prompts, **options, decoder=packed_decoder))
    assert 2 < recorder.num_recorded <= 12 and recorder.num_replayed > 20


def test_kernels_graphs_decodes_by_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, model, prompts = Recorder(), small_model("llama"), some_prompts(1, 3)
    monkeypatch.setattr(graphs, "CudaGraphs", recorder.made)
    found = generate(model, prompts, **OPTIONS, decoder=choose("graphs", "cuda").decoder)
    check_same(found, generate(model, prompts, **OPTIONS))
    assert recorder.num_replayed > 2 * recorder.num_recorded > 0


def test_a_tuned_models_own_layers_are_recorded_where_dense_weights_do_not_fit() -> None:
    recorder, prompts = Recorder(), some_prompts(2, 6)
    model: Any = tuned(small_model("llama"), LoraSettings(r=4, dropout=0.1, alpha=60), kernels="fast")
    found = generate(model, prompts, **OPTIONS, batch_size=4, decoder=partial(recorder.decoder, dense=False))
    check_same(found, generate(model, prompts, **OPTIONS, batch_size=4))
    assert recorder.num_replayed > 2 * recorder.num_recorded > 0


@pytest.mark.parametrize("num_beams", [1, 3])
def test_notes_that_go_back_are_those_without_graphs(num_beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some go back to their beginning, where all beams write to one column."""
    lengths, go_back = [], KVCache.go_back

    def watched(self: KVCache, slot: int, num_prompt_tokens: int, beams_KT: Any) -> None:
        lengths.append(len(beams_KT[0]))
        go_back(self, slot, num_prompt_tokens, beams_KT)

    recorder, model, prompts = Recorder(), small_model("gemma3_text"), some_prompts(3, 12)
    options: dict[str, Any] = {"stop_token_ids": LANGUAGE_STOPS, "max_new_tokens": 24, "num_beams": num_beams}
    rules = grounding([refused_numbers(index, share=0.8) for index in range(12)])
    plain = generate(model, prompts, **options, grounding=rules, decoder=packed_decoder)
    monkeypatch.setattr(KVCache, "go_back", watched)
    check_same(generate(model, prompts, **options, grounding=rules, decoder=recorder.decoder), plain)
    assert min(lengths) == 0 < max(lengths) and recorder.num_replayed > 2 * recorder.num_recorded > 0


@pytest.mark.parametrize(("kind", "num_beams"), [("gemma2", 1), ("gemma2", 3), ("gemma3_text", 1)])
def test_notes_start_in_slots_that_rows_of_no_note_wrote_to(kind: str, num_beams: int) -> None:
    """They are those of transformers' `generate`, and the cache holds no NaN.

    3 notes are 4 rows, 5 and 6 are 8. The note with the long prompt, in slot 3, ends while the short ones go on: the
    row's last position would leave it no key of theirs within the window.
    """
    recorder, model, prompts = Recorder(), small_model(kind), some_prompts(4, 7, longest=9)
    nn.init.normal_(model.get_input_embeddings().weight)  # the keys of token 0 would be 0
    prompts[3] = [2, *range(10, 60)]
    limits = [(3, 3) if index == 3 else (8, 12) for index in range(7)]
    stops, device = frozenset(STOPS), torch.device("cpu")
    room: dict[str, Any] = {"num_slots": 8, "max_new_tokens": 12, "device": device, "on_token": None}
    rule = built_in_rule(BeamRules(num_beams=num_beams), stops, **room)
    cache = KVCache(8, num_beams, 51 + 12 * num_beams, device=device)
    waiting = [
        Note(index=index, prompt=tuple(prompt), min_new=limits[index][0], max_new=limits[index][1])
        for index, prompt in enumerate(prompts)
    ]
    found, used = {}, []
    with torch.no_grad(), any_algorithm(), recorder.decoder(model) as forward:
        bans = BanRules(stop_token_ids=stops, no_repeat_ngram_size=0)
        batch = Batch(forward, rule, bans, cache, num_slots=8, grounded=None)
        for num_new in (3, 0, 0, 1, 0, 0, 0, 2, 0, 1, *[0] * 12):
            batch.join(deque(waiting.pop(0) for _ in range(num_new)))
            if batch.active or batch.starting:
                found |= {note.index: generation for note, generation in batch.step()}
                used.append(int((cache.keys[1][:, 0] != 0).any(2).any(1).sum()))
    assert used[:9] == [3, 4, 4, 4, 4, 4, 4, 5, 8] and len(found) == 7
    assert all(tensor.isfinite().all() for tensor in (*cache.keys.values(), *cache.values.values()))
    for index, (least, most) in enumerate(limits):
        limit: dict[str, Any] = {"min_new_tokens": least, "max_new_tokens": most}
        assert found[index].token_ids == reference(model, prompts[index], num_beams=num_beams, **limit).token_ids


@pytest.mark.parametrize("dense", [True, False])
def test_all_that_a_replay_reads_lives_as_long_as_the_graph(dense: bool) -> None:
    borrowed = Borrowed()
    model: Any = tuned(small_model("gemma3_text"), LoraSettings(r=4), kernels="fast")
    generate(
        model,
        some_prompts(1, 6),
        **OPTIONS,
        batch_size=4,
        decoder=partial(packed_decoder, dense=dense, record=lambda: borrowed),
    )
    assert len(borrowed.num_tensors) == 2 and min(borrowed.num_tensors) > 20


def test_graphs_belong_to_a_cache() -> None:
    """A decoder that is given another cache writes to that one, and its graphs are in other memory."""
    recorder, model = Recorder(), small_model("llama")
    with torch.no_grad(), recorder.decoder(model) as forward, packed_decoder(model) as plain:
        for start in (5, 9):
            found = []
            for compute in (forward, plain):
                cache, prompt = KVCache(2, 1, 16, device=torch.device("cpu")), torch.arange(start, start + 4)
                compute(cache, cache.begin_step([], [], [4], one_column=[]), prompt, prompt - start, 1, None)
                step = cache.begin_step([4], [4], [], one_column=[False])
                found.append(compute(cache, step, torch.tensor([start]), torch.tensor([4]), 1, None))
                assert cache.keys[1][0, 4].abs().max() > 0
            assert torch.equal(found[0].tokens_Mk, found[1].tokens_Mk)
    assert recorder.num_recorded == recorder.num_replayed == recorder.num_made == 2


class MetaRecorder:
    """Keeps what a recorded function issues on the meta device; a replay issues nothing."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.operations: list[Any] = []

    def __call__(self, function: Callable[[], Any]) -> Callable[[], None]:
        function()
        with recording(WaitRecorder()) as recorder, Operations() as operations:
            function()
        self.waits += recorder.found
        self.operations = [tree_map(_shown, (str(call[0]), call[1], call[2])) for call in operations.calls]
        return lambda: None


def _shown(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype)
    return leaf


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_all_steps_of_a_graph_issue_the_same_operations_and_wait_for_none(
    kind: str, dense: bool, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other numbers of notes, other positions, beams that share a column; a replayed step issues little else."""
    monkeypatch.setattr(packed_weights, "fits", lambda num_bytes, device: True)
    recorders, outside = [], []
    with meta_patches(), torch.no_grad():
        causal = causal_model(meta_run(kind, load_in_4bit=True).model).eval()
        for num_rows, place in ((8, 50), (5, 61)):
            recorders.append(recorder := MetaRecorder())
            cache = KVCache(16, num_beams, 100, device=META)
            with packed_decoder(causal, dense=dense, record=lambda recorder=recorder: recorder) as forward:
                for _ in range(2):
                    places = [place - row for row in range(num_rows)]
                    step = cache.begin_step(places, places, [], one_column=[row == 2 for row in range(num_rows)])
                    tokens_T = torch.zeros(num_rows * num_beams, dtype=torch.int64, device=META)
                    with recording(WaitRecorder()) as watched:
                        forward(cache, step, tokens_T, tokens_T, 2 * num_beams, None)
            outside.append((len(watched.launches), watched.found))
    assert len(recorders[0].operations) > 100 and recorders[0].operations == recorders[1].operations
    assert recorders[0].waits == recorders[1].waits == []
    assert outside[0] == outside[1] and outside[0][0] <= LAUNCHES_OUTSIDE and outside[0][1] == []
