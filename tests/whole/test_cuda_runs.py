"""Whole commands, evaluation and decoding on a GPU; skipped without one.

python -m pytest -q tests/whole/test_cuda_runs.py

Gradients, reproducibility and resuming are in test_cuda.py.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_models import STOPS, reference, small_model, some_prompts
from image_files import image_flags, make_image_inputs
from image_pair import Pair
from live_notes import LONGEST_NOTE, Heard, Passes, running
from notes_command import read, write
from on_gpu import CUDA, as_in_a_run, needs_gpu, needs_two_gpus, needs_varlen
from peft import PeftModel
from sharded_pairs import FSDP
from small_language import STOPS as STOPS_OF_LANGUAGE
from support import tiny_model
from tiny_run import WINDOW, exit_code, flags, metrics
from transformers import AutoModelForCausalLM
from windows import flat, make_example, make_run, make_window, plain_peft, reference_losses, relative, tuned

import train_loop
from medsum_core.config.validation import key_path
from medsum_core.device import TENSORS_POOL, find_device
from medsum_core.generation.generate import generate
from medsum_core.generation.requests import NoteRequest
from medsum_core.kernels import choose
from medsum_core.merge.__main__ import main as merge
from medsum_core.model.lora import LoraSettings
from medsum_core.training.validation import evaluate_loss

pytestmark = needs_gpu

ROOT = Path(__file__).resolve().parents[2]
PATHS = ["reference", "fast"]  # triton and graphs evaluate with the fast kernels
DECODERS = [*PATHS, "graphs"]
RUNS = {
    "automatic settings": "--kernels reference --precision auto",
    "DoRA, recomputed": "--kernels reference --precision auto --use_dora true --gradient_checkpointing on",
    "dequantised once": "--kernels fast --precision auto --dequantize on",
    "graphs": "--kernels graphs --precision auto --attention sdpa --dequantize on",
    "as on a T4": "--kernels reference --precision fp16 --attention per_document --dequantize off",
}


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with as_in_a_run():
        yield


# ---- train, infer, merge ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run over an NF4 base, its kernels, and the blind sheet of its base and tuned notes."""

    folder: Path
    kernels: str
    sheet: Path

    def notes(self, side: str) -> dict[str, str]:
        """The report's `base` or `tuned` notes, by their rows' ids."""
        sides = {row["id"]: row for row in read(key_path(self.sheet))}
        rows = read(self.sheet)
        return {row["id"]: next(row[n] for n in ("note_a", "note_b") if sides[row["id"]][n] == side) for row in rows}


@pytest.fixture(scope="module", params=RUNS)
def trained(request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, more = tmp_path_factory.mktemp("run") / "run", RUNS[request.param].split()
    sheet = folder.parent / "sheet.csv"
    more += ["--report_rows", "3", "--eval_generate", "2", "--examples_file", str(sheet), "--learning_rate", "1e-2"]
    with as_in_a_run():
        assert exit_code(flags(inputs, folder, *more)) == 0
    return Trained(folder=folder, kernels=more[1], sheet=sheet)


def test_a_run_trains_and_infer_writes_the_tuned_notes_of_its_report(
    trained: Trained, inputs: Path, tmp_path: Path
) -> None:
    lines = metrics(trained.folder)
    updates = [line for line in lines if "loss" in line]
    assert [line["step"] for line in updates] == [1, 2, 3]
    assert all(math.isfinite(line[name]) for line in updates for name in ("loss", "grad_norm"))
    assert lines[-1]["eval_loss"] < lines[0]["eval_loss"] and "eval_rouge1" in lines[-1]
    rows = write(trained.folder, inputs / "valid.csv", tmp_path / "notes.csv", "--kernels", trained.kernels)
    tuned_notes = trained.notes("tuned")
    assert {row["id"]: row["note"] for row in rows} == tuned_notes != trained.notes("base")


def test_a_merged_model_has_the_logits_of_base_and_adapter_in_plain_transformers(
    trained: Trained, inputs: Path, tmp_path: Path
) -> None:
    merge(["--run", str(trained.folder), "--output_dir", str(tmp_path / "merged"), "--num_prompts", "2", "--offline"])
    merged, base = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(CUDA).eval()
        for folder in (tmp_path / "merged", inputs / "model")
    )
    ids = torch.tensor([[2, *range(40, 80)]], device=CUDA)
    with torch.no_grad():
        found, untuned = merged(ids).logits, base(ids).logits
        expected = PeftModel.from_pretrained(base, trained.folder / "adapter").eval()(ids).logits
    assert relative(found, expected) < 2e-2 < relative(untuned, expected)  # bf16 weights


def test_out_of_memory_is_exit_code_5_and_the_run_resumes_from_its_checkpoint(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, step = [], train_loop.train_step

    def without_memory_from_the_second_on(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1e-6, CUDA)
        return step(*args, **options)

    saved = ("--save_strategy", "steps", "--save_steps", "1", "--resume_from_checkpoint", "auto")
    argv = flags(inputs, tmp_path / "run", "--eval_strategy", "no", *saved)
    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "train_step", without_memory_from_the_second_on)
        try:
            assert exit_code(argv) == 5
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    message = capsys.readouterr().err.rpartition("\nerror: ")[2]
    assert message.startswith("out of memory (") and f"Still good is {kept}, the adapter as of update 1" in message
    assert exit_code(argv) == 0
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]


# ---- several GPUs ----------------------------------------------------------------------------------------------------

DENSE = "--load_in_4bit false"
SHARED = {"replicas": ({}, DENSE, 1e-4), "sharded": (FSDP, DENSE, 1e-4)}
SHARED["sharded NF4"] = (FSDP, "--load_in_4bit true", 1e-2)  # quantised by the CPU; on one GPU by the GPU


@needs_two_gpus
@pytest.mark.parametrize("how", SHARED)
def test_two_gpus_have_the_losses_of_one(inputs: Path, tmp_path: Path, how: str) -> None:
    environment, more, bound = SHARED[how]
    options = [*more.split(), *["--lora_dropout", "0", "--kernels", "reference", "--pack_tokens", "96"]]
    assert exit_code(flags(inputs, tmp_path / "one", *options)) == 0
    half = ("--gradient_accumulation_steps", str(WINDOW // 2))  # rows of each process: the global windows are equal
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "train_loop.py"), *flags(inputs, tmp_path / "two", *options, *half)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = (
        [
            line[name]
            for line in metrics(tmp_path / folder)
            for name in ("loss", "grad_norm", "eval_loss")
            if name in line
        ]
        for folder in ("two", "one")
    )
    assert found == pytest.approx(expected, rel=bound)


# ---- evaluation ------------------------------------------------------------------------------------------------------

EVALUATIONS = [
    ("sdpa", torch.float32, 1e-5),
    ("per_document", torch.float16, 5e-3),
    pytest.param("varlen", torch.bfloat16, 2e-2, marks=needs_varlen),
]


@pytest.mark.parametrize(("attention", "dtype", "bound"), EVALUATIONS)
@pytest.mark.parametrize("kernels", PATHS)
def test_evaluation_losses_equal_those_over_full_logits(
    kernels: str, attention: str, dtype: torch.dtype, bound: float
) -> None:
    window = make_window(8)
    model = tuned(tiny_model("gemma3_text", dtype=dtype), kernels=kernels, device=CUDA)
    exact = plain_peft(tiny_model("gemma3_text").to(CUDA), model)
    run = make_run(model, pack_tokens=96, kernels=kernels, attention=attention, device=CUDA)
    where: dict[str, Any] = {"accelerator": run.accelerator, "kernels": run.kernels, "attention": attention}
    found = evaluate_loss(model, window, **where, **run.collate_settings)
    assert (found.loss, found.stop_loss) == pytest.approx(reference_losses(exact, window), rel=bound)
    assert found.num_targets == sum(row.num_targets for row in window)


# ---- between two windows ---------------------------------------------------------------------------------------------


def test_an_evaluation_and_notes_between_two_windows_change_no_bit_of_graphs() -> None:
    """They use memory that the recordings have left, and Triton's functions and the adapter without graphs."""
    found, windows = [], [make_window(7), make_window(16, longest=120), make_window(7)]
    for between in (False, True):
        model = tuned(tiny_model("gemma3_text"), LoraSettings(dropout=0.3), kernels="graphs", device=CUDA)
        run = make_run(model, device=CUDA, kernels="graphs", attention="sdpa", pack_tokens=1024)
        where: dict[str, Any] = {"accelerator": run.accelerator, "kernels": run.kernels, "attention": "sdpa"}
        torch.manual_seed(3)
        for window in windows:
            assert not train_loop.train_step(run, window, learning_rate=0.0).skipped
            found.append(flat(run.optimizer.gradients))  # type: ignore[attr-defined]
            if between:
                assert math.isfinite(evaluate_loss(model, window, **where, **run.collate_settings).loss)
                limits: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 8}
                assert generate(model, some_prompts(0, 4), decoder=run.kernels.decoder, **limits)
    assert all(torch.equal(one, other) for one, other in zip(found[:3], found[3:], strict=True))
    assert relative(found[2], found[0]) > 0.1  # with other masks


def test_memory_that_graphs_keep_is_free_when_they_are_gone() -> None:
    """Notes between two windows must not count on it; those of the report must."""
    run = make_run(
        tuned(tiny_model("gemma"), kernels="graphs", device=CUDA),
        device=CUDA,
        kernels="graphs",
        attention="sdpa",
        pack_tokens=8192,
    )
    train_loop.train_step(run, [make_example(4000, 30, seed=seed) for seed in range(2)], learning_rate=0.0)
    free, segments = find_device().free_bytes, torch.cuda.memory_snapshot(include_traces=False)
    kept = sum(one["total_size"] for one in segments if tuple(one["segment_pool_id"]) != TENSORS_POOL)
    run.accumulate = None
    assert kept > 100 << 20 and find_device().free_bytes - free > 0.9 * kept


def test_what_cuda_cannot_record_is_named() -> None:
    """In a process of its own, since a failed recording may leave torch's allocator unusable."""
    script = (
        "import torch; from medsum_core.kernels.gpu.graphs import CudaGraphs as G; x = torch.ones(1, device='cuda')"
    )
    command = [sys.executable, "-c", f"{script}; G()(x.item)"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and "InputError: --kernels graphs: CUDA can't record this model's steps" in done.stderr


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kernels", DECODERS)
def test_notes_without_repeated_n_grams_equal_those_of_transformers(kernels: str, num_beams: int) -> None:
    model, prompts = small_model("gemma3_text", 1), some_prompts(1, 4)
    decoder, limits = choose(kernels, CUDA.type).decoder, {"max_new_tokens": 12, "num_beams": num_beams}
    for size in (1, 2):
        asked = {"stop_token_ids": STOPS, "no_repeat_ngram_size": size, "decoder": decoder}
        expected = [reference(model.cpu(), prompt, no_repeat_in_note=size, **limits) for prompt in prompts]
        notes = generate(model.to(CUDA), prompts, **asked, **limits)
        assert [note.token_ids for note in notes] == [note.token_ids for note in expected]


def gap(model: Any, prompt: list[int], one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Where two notes diverge: the difference of the logits of their next tokens, as a share of the logits' range."""
    if one == other:
        return 0.0
    pairs = enumerate(zip(one, other, strict=False))
    common = next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
    with torch.no_grad():
        logits_V = model(torch.tensor([[*prompt, *one[:common]]], device=CUDA)).logits[0, -1]
    logits_of_both = [
        logits_V[note[common]] if common < len(note) else logits_V[list(STOPS)].max() for note in (one, other)
    ]
    return float((logits_of_both[0] - logits_of_both[1]).abs() / (logits_V.max() - logits_V.min()))


@pytest.mark.parametrize(
    ("dtype", "tie"), [(torch.float16, 2e-3), pytest.param(torch.bfloat16, 2e-2, marks=needs_varlen)]
)
@pytest.mark.parametrize("kernels", DECODERS)
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama"])
def test_16_bit_notes_equal_those_of_transformers_except_for_ties(
    kind: str, kernels: str, dtype: torch.dtype, tie: float
) -> None:
    gaps = []
    for seed in range(3):
        model, prompts = small_model(kind, seed, dtype=dtype).to(CUDA), some_prompts(seed, 4)
        exact = copy.deepcopy(model).float()
        decoder = choose(kernels, CUDA.type).decoder
        notes = generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=12, batch_size=4, decoder=decoder)
        for prompt, note in zip(prompts, notes, strict=True):
            gaps.append(gap(exact, prompt, note.token_ids, reference(model, prompt, max_new_tokens=12).token_ids))
    assert max(gaps) <= tie and gaps.count(0.0) >= len(gaps) / 2


@pytest.mark.parametrize("kernels", DECODERS)
def test_the_live_engine_writes_the_notes_of_transformers(kernels: str) -> None:
    """With three slots: some requests wait, and some arrive while others are written."""
    model, prompts = small_model("gemma3_text", 2), some_prompts(2, 9)
    lengths = [LONGEST_NOTE - number for number in range(len(prompts))]
    limits = list(zip(prompts, lengths, strict=True))
    expected = [reference(model, p, stops=STOPS_OF_LANGUAGE, max_new_tokens=n).token_ids for p, n in limits]
    asked = [NoteRequest(prompt=tuple(p), max_new_tokens=n) for p, n in limits]
    heard, passes = [Heard() for _ in asked], Passes(choose(kernels, CUDA.type).decoder)
    with running(model.to(CUDA), passes) as engine:

        def come() -> None:
            if len(passes.prompt_lengths) == 4:
                engine.submit(asked[5:], heard[5:])

        passes.before = come
        engine.submit(asked[:5], heard[:5])
        assert [tuple(one.wait().tokens) for one in heard] == expected


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "per_document"])
def test_features_of_images_give_the_gradient_of_transformers_over_pixels(tmp_path: Path, attention: str) -> None:
    pair = Pair(tmp_path, CUDA)
    ours, theirs = pair.tuned()
    run = make_run(ours, pack_tokens=64, kernels="reference", attention=attention, device=CUDA)
    stats = train_loop.train_step(run, pair.rows, learning_rate=0.0)
    loss, expected = pair.reference_gradient(theirs)
    assert stats.loss == pytest.approx(loss, rel=1e-5)
    assert relative(run.optimizer.gradients, expected) <= 1e-5  # type: ignore[attr-defined]


def test_an_image_run_trains_and_infer_writes_the_tuned_answers_of_its_report(tmp_path: Path) -> None:
    inputs, sheet = make_image_inputs(tmp_path), tmp_path / "sheet.csv"
    more = ("--precision", "auto", "--report_rows", "4", "--examples_file", str(sheet))
    assert exit_code(image_flags(inputs, tmp_path / "run", *more)) == 0
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]
    kernels = ("--kernels", "reference", "--offline")
    rows = write(tmp_path / "run", inputs / "valid.csv", tmp_path / "answers.csv", *kernels)
    found = Trained(folder=tmp_path / "run", kernels="reference", sheet=sheet).notes("tuned")
    assert {row["id"]: row["note"] for row in rows} == found
