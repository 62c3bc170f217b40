"""Decoding by free memory: the estimate against real tensors, and the choices for made-up devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from devices import cpu, gpu
from notes_command import write
from support import tiny_config, tiny_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from windows import make_example, make_run, tuned

import infer
from benchmarks.random_models import gemma_config
from medsum_core.config.infer_arguments import parse_options
from medsum_core.config.run_folder import read_run_config
from medsum_core.device import GIB
from medsum_core.errors import InputError
from medsum_core.generation.decoding_memory import (
    BATCHES,
    CPU_BATCH,
    DecodingShape,
    cache_bytes,
    choose_decoding,
    decide_for,
    decoding_bytes,
    decoding_size,
    weight_bytes,
)
from medsum_core.generation.generate import generate, own_modules
from medsum_core.generation.note_files import made_from_path
from medsum_core.generation.part_file import part_path
from medsum_core.kernels import choose
from medsum_core.kernels.decoding import decoder_layers
from medsum_core.model.base import empty_model, load_base
from medsum_core.report import decoding as report_decoding

CONFIG_2B = gemma_config(tiny=False)
SIZE_2B = decoding_size(empty_model(CONFIG_2B, precision="bf16"))
SHAPE = DecodingShape(
    itemsize=2, load_in_4bit=True, has_own_weights=False, prompt_tokens=768, new_tokens=256, num_beams=1
)
PROMPTS = [list(make_example(length, 1, seed=length).prompt_ids) for length in (9, 4, 6)]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama"])
def test_the_cache_and_the_weights_are_as_large_as_estimated(kind: str, num_beams: int) -> None:
    model, caches = tiny_model(kind), []

    @contextmanager
    def seen(causal: Any) -> Iterator[Any]:
        with own_modules(causal) as forward:

            def step(cache: Any, *rest: Any) -> Any:
                found = forward(cache, *rest)
                caches.append(cache)
                return found

            yield step

    generate(model, PROMPTS, stop_token_ids=(1,), max_new_tokens=5, num_beams=num_beams, decoder=seen)
    tensors = [*caches[0].keys.values(), *caches[0].values.values(), caches[0].position_SC, caches[0].visible_SKC]
    shape = replace(SHAPE, itemsize=4, prompt_tokens=9, new_tokens=5, num_beams=num_beams, load_in_4bit=False)
    size = decoding_size(empty_model(tiny_config(kind), precision="fp32"))
    assert sum(tensor.nbytes for tensor in tensors) == 3 * cache_bytes(size, shape)
    assert sum(parameter.nbytes for parameter in model.parameters()) == weight_bytes(size, shape, dense=False)


def test_weights_take_the_estimated_bytes_in_nf4_and_dense() -> None:
    packed, dense = weight_bytes(SIZE_2B, SHAPE, dense=False), weight_bytes(SIZE_2B, SHAPE, dense=True)
    assert dense == 2 * 2_506_172_416  # the published size of gemma-2b, instead of NF4
    assert packed == pytest.approx(dense - (2 - 0.5 - 1 / 64) * SIZE_2B.projections + 2 * 2048 * 16_384, rel=1e-3)
    fast = replace(SHAPE, has_own_weights=True)
    scales_in_fp32 = SIZE_2B.projections * (4 / 64 - 1 / 64 - 4 / (64 * 256))
    assert weight_bytes(SIZE_2B, fast, dense=False) - packed == pytest.approx(scales_in_fp32, abs=1)
    plain = replace(fast, load_in_4bit=False)
    beside = 2 * SIZE_2B.projections
    assert weight_bytes(SIZE_2B, plain, dense=True) == dense + beside
    of_two = replace(plain, num_decoders=2)
    assert weight_bytes(SIZE_2B, of_two, dense=True) == dense + 2 * beside
    assert weight_bytes(SIZE_2B, replace(of_two, is_loaded=True), dense=True) == 2 * beside


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [
        (3.2, (16, False)),  # a small card that also drives a screen
        (5.8, (128, False)),  # 6 GB
        (7.6, (64, True)),  # 8 GB
        (14.7, (128, True)),  # T4
        (139, (128, True)),
        (1, (1, False)),  # nothing fits: decoding will fail with a remedy
    ],
)
def test_batch_size_and_dequantising_by_free_memory(free_gib: float, expected: tuple[int, bool]) -> None:
    device = gpu(free_gib=free_gib)
    choice = choose_decoding(SIZE_2B, SHAPE, device)
    assert (choice.batch_size, choice.dense) == expected
    of_a_note = 1023 * 18 * 2 * 256 * 2 + 256_000 * 2  # keys and values of its tokens, and a row of logits
    assert choice.batch_size == 1 or choice.batch_size * of_a_note < 0.9 * device.free_bytes
    larger = next((number for number in reversed(BATCHES) if number > choice.batch_size), None)
    if larger is not None:
        needed = decoding_bytes(SIZE_2B, SHAPE, batch_size=larger, dense=expected[1])
        assert needed > 0.9 * device.free_bytes
    assert choose_decoding(SIZE_2B, SHAPE, device, asked=5).batch_size == 5


def test_longer_or_wider_searches_get_fewer_notes_at_a_time() -> None:
    def notes(free_gib: float, **changed: Any) -> int:
        return choose_decoding(SIZE_2B, replace(SHAPE, **changed), gpu(free_gib=free_gib)).batch_size

    assert notes(8) == 64
    assert (notes(8, num_beams=4), notes(8, prompt_tokens=4096)) == (32, 16)
    choices = [choose_decoding(SIZE_2B, SHAPE, gpu(free_gib=tenth / 10)) for tenth in range(10, 200)]
    for dense in (False, True):
        batches = [choice.batch_size for choice in choices if choice.dense is dense]
        assert batches == sorted(batches) and min(batches) >= (CPU_BATCH if dense else 1)


def test_a_cpu_keeps_its_batch_size_and_dequantises_the_base_where_it_fits() -> None:
    config, shape = tiny_config(), {"prompt_tokens": 9, "new_tokens": 5, "num_beams": 1}
    decide = partial(decide_for, config, precision="fp32", asked=None, **shape)
    assert decide(cpu(free_gib=8), load_in_4bit=False, has_own_weights=False).to_json() == {
        "batch_size": 16,
        "dequantize": "off",
    }
    assert (
        decide(cpu(free_gib=8), load_in_4bit=True, has_own_weights=True).dense is None
    )  # packed weights look for themselves
    for free_gib, dense in ((8, True), (0.01, False)):
        choice = decide(cpu(free_gib=free_gib), load_in_4bit=True, has_own_weights=False)
        assert (choice.batch_size, choice.dense) == (CPU_BATCH, dense)


def test_a_cpu_without_16_bit_units_dequantises_only_where_an_fp32_copy_fits() -> None:
    """Products in bf16 are 10 times slower there, so NF4 is dequantised to fp32."""
    how: dict[str, Any] = {"load_in_4bit": True, "has_own_weights": False, "prompt_tokens": 768, "new_tokens": 256}
    decide = partial(decide_for, CONFIG_2B, precision="bf16", asked=None, num_beams=1, **how)
    copy_gib = 4 * 2_506_172_416 / GIB
    for free_gib in (9.0, 9.0 + copy_gib):
        slow = cpu(free_gib=free_gib)
        assert decide(slow).dense is (free_gib > copy_gib)
        assert decide(replace(slow, has_bf16_units=True)).dense


def test_a_base_without_linear_layers_is_counted_too() -> None:
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4)
    size = decoding_size(empty_model(config, precision="fp32"))
    assert (size.projections, size.widest, size.key_values) == (0, 64, 2 * 2 * 64)
    assert size.other_weights == sum(p.numel() for p in GPT2LMHeadModel(config).parameters())


def test_the_choice_is_printed_once_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    shape: dict[str, Any] = {"prompt_tokens": 9, "new_tokens": 5, "num_beams": 1}
    decide_for(
        tiny_config(), gpu(free_gib=8), precision="bf16", asked=None, load_in_4bit=True, has_own_weights=False, **shape
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "decoding: 128 notes at a time, weights dense: about 0.0 of 8.0 GiB"
    )


@pytest.mark.parametrize(("free_gib", "expected"), [(8, (128, True)), (0.004, (1, False))])
def test_decoding_choices_depend_on_the_device_and_not_on_the_runs_training(
    run: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, expected: tuple[int, bool]
) -> None:
    settings = read_run_config(run)
    in_4bit = replace(settings, model=replace(settings.model, load_in_4bit=True, dequantize="off"))
    tf32: list[str] = []
    monkeypatch.setattr("medsum_core.device.find_device", lambda: gpu(free_gib=free_gib))
    monkeypatch.setattr("medsum_core.model.adapter_source.read_run_config", lambda *_: in_4bit)
    monkeypatch.setattr(infer, "set_tf32", lambda device, *, precision: tf32.append(precision))
    writer = infer.prepare_writer(parse_options(["--run", str(run), "--dialogue_file", "-", "--section", "CC"]))
    assert (writer.choice.batch_size, writer.choice.dense) == expected
    load_model: Any = writer.load_model
    assert load_model.args[4] is expected[1] and writer.options([])["batch_size"] == expected[0]
    assert tf32 == [settings.model.precision]


def test_batch_size_is_auto_or_a_number() -> None:
    flags = ["--run", "r", "--dialogue_file", "-", "--section", "CC"]
    assert parse_options([*flags, "--batch_size", "auto"]).batch_size is parse_options(flags).batch_size is None
    assert parse_options([*flags, "--batch_size", "7"]).batch_size == 7
    for wrong in ("0", "-1", "many"):
        with pytest.raises(InputError, match="--batch_size"):
            parse_options([*flags, "--batch_size", wrong])


def test_the_choice_is_recorded_and_another_one_may_resume_the_notes(
    run: Path, dialogues: Path, tmp_path: Path
) -> None:
    """The remedy for too little memory is a lower --batch_size with --resume."""
    out = tmp_path / "notes.csv"
    rows = write(run, dialogues, out, "--batch_size", "3")
    record = json.loads(made_from_path(out).read_text())["made_from"]
    assert record["memory"] == {"batch_size": 3, "dequantize": "auto"}
    lines: list[Any] = [{"made_from": record}]
    for sha, row in zip(record["rows"][:2], rows, strict=False):
        note = {"id": row["id"], "note": row["note"], "num_tokens": int(row["num_tokens"]), "hit_limit": False}
        lines.append({"row": sha, **note})
    del record["memory"]  # as of a version that did not write it
    part_path(out).write_text("".join(json.dumps(line) + "\n" for line in lines))
    out.unlink()
    made_from_path(out).unlink()
    again = write(run, dialogues, out, "--resume", "--batch_size", "1")
    assert [row["note"] for row in again] == [row["note"] for row in rows]
    assert json.loads(made_from_path(out).read_text())["made_from"]["memory"]["batch_size"] == 1


@pytest.mark.parametrize("fails", [False, True])
def test_decoding_suspends_deterministic_algorithms_and_restores_them(fails: bool) -> None:
    seen = []

    @contextmanager
    def decoder(causal: Any) -> Iterator[Any]:
        with own_modules(causal) as forward:

            def step(*arguments: Any) -> Any:
                seen.append(torch.are_deterministic_algorithms_enabled())
                if fails:
                    raise MemoryError
                return forward(*arguments)

            yield step

    torch.use_deterministic_algorithms(True)
    try:
        generate(tiny_model(), PROMPTS[:1], stop_token_ids=(1,), max_new_tokens=2, decoder=decoder)
    except MemoryError:
        assert fails
    finally:
        restored = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
    assert restored and set(seen) == {False}


@pytest.mark.parametrize("dense", [True, False])
def test_the_fast_decoder_follows_the_choice(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tuned(tiny_model())
    stack = decoder_layers.DecoderStack(model.get_base_model(), dense=dense)
    assert [layer._out._base is not None for layer in stack._layers] == [dense, dense]
    how: dict[str, Any] = {"stop_token_ids": (1,), "max_new_tokens": 4}
    expected = generate(model, PROMPTS, **how, decoder=choose("fast").decoder)
    monkeypatch.setattr(decoder_layers, "fits", lambda num_bytes, device: pytest.fail("it was decided already"))
    found = generate(model, PROMPTS, **how, decoder=partial(decoder_layers.packed_decoder, dense=dense))
    assert [note.token_ids for note in found] == [note.token_ids for note in expected]


@pytest.mark.parametrize(("free_gib", "dense"), [(8, True), (0.001, False)])
def test_the_report_may_dequantise_a_base_that_training_kept_in_nf4(
    base: Path, free_gib: float, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: Any = load_base(str(base), precision="fp32", load_in_4bit=True)
    run = make_run(tuned(packed, kernels="reference"), kernels="reference")
    settings = SimpleNamespace(precision="fp32", load_in_4bit=True, dequantize="off")
    data = SimpleNamespace(max_prompt_tokens=64, max_new_tokens=8)
    run.config = SimpleNamespace(model=settings, data=data)  # type: ignore[assignment]
    how: dict[str, Any] = {"stop_token_ids": (1,), "max_new_tokens": 4}
    expected = generate(run.model, PROMPTS, **how)
    run.accumulate = SimpleNamespace(graphs="recorded")  # type: ignore[assignment]  # whose memory notes can use

    def found(rank: int) -> Any:
        assert run.accumulate is None
        return cpu(free_gib=free_gib)

    monkeypatch.setattr(report_decoding, "find_device", found)
    plan: Any = SimpleNamespace(base_config=tiny_config())
    choice, decoder = report_decoding.prepare_decoding(plan, run)
    assert (choice.batch_size, choice.dense, decoder) == (CPU_BATCH, dense, None)
    kinds = {type(layer) for name, layer in run.model.named_modules() if name.endswith("base_layer")}
    assert kinds == {nn.Linear if dense else Linear4bit}
    assert [note.token_ids for note in generate(run.model, PROMPTS, **how)] == [note.token_ids for note in expected]
