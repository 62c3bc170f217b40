"""Decoding against transformers' `generate`: `python benchmarks/decode.py --input_file VALIDATION.csv`.

Speed: each note's length is forced to its reference's on both sides, and only those tokens count as useful; both run in
turns in one process. Speeds are from the median of the turns. `generate` takes one length for a batch, so that a batch
runs to its longest note. `--check` compares tokens with `generate` in fp32, greedy and with 2 and 4 beams, batched and
row by row. Our side decodes as `infer.py` does, with the kernels of `--kernels`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.data.prompt import PromptRenderer, build_renderer
from medsum_core.data.records import read_records
from medsum_core.errors import InputError
from medsum_core.generation.generate import Decoder, generate
from medsum_core.kernels import choose, resolve
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.process import run_as_script


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prompt and the forced length of its note (the reference's tokens with the stop token)."""

    prompt: tuple[int, ...]
    length: int


def main() -> None:
    """Load the model once, then check or measure."""
    options = parse_options()
    tokenizer = load_tokenizer(options.model_name_or_path, offline=options.offline)
    renderer = build_renderer(tokenizer)
    tasks = read_tasks(options, renderer)
    precision = "fp32" if options.check else options.precision
    model = load_base(
        options.model_name_or_path, precision=precision, load_in_4bit=options.load_in_4bit, offline=options.offline
    )
    chosen = resolve(options.kernels, device_kind=model.device.type, model_type=model.config.model_type)
    decoder = choose(chosen, model.device.type).decoder
    if options.check:
        widths, max_new_tokens = options.num_beams or (1, 2, 4), options.max_new_tokens
        check(model, tasks, renderer, decoder, widths=widths, max_new_tokens=max_new_tokens)
        return
    print(f"{len(tasks)} dialogues, {sum(task.length for task in tasks)} note tokens, {precision}, {chosen} kernels, "
          f"{torch.get_num_threads()} threads, sorted by {options.rival_order} for generate")  # fmt: skip
    for num_beams in options.num_beams or (1, 4):
        compare_speed(model, tasks, renderer, decoder, num_beams, options)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default="embedded:gemma3-270m")
    parser.add_argument("--input_file", required=True, help="dialogues with their notes, CSV or JSONL")
    parser.add_argument("--num_rows", type=int, default=100, help="the first rows of the file")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--kernels", default="auto", choices=["auto", "reference", "fast"], help="of our side")
    parser.add_argument("--load_in_4bit", action="store_true")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--num_beams", type=int, nargs="+", help="default: 1 and 4, with --check 1, 2, 4")
    parser.add_argument("--batch_size", type=int, default=128, help="our notes at a time; with beams a quarter of them")
    parser.add_argument("--rival_batch_sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="of generate")
    parser.add_argument(
        "--rival_order", default="length", choices=["file", "length"], help="how generate gets the rows"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max_length", type=int, default=1024, help="rows with longer prompts and notes are left out")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="for --check")
    parser.add_argument("--check", action="store_true", help="compare tokens instead of speed")
    return parser.parse_args()


def read_tasks(options: argparse.Namespace, renderer: PromptRenderer) -> list[Task]:
    """The first rows of the file as prompts and lengths."""
    tasks = []
    for record in read_records(options.input_file)[: options.num_rows]:
        prompt = tuple(renderer.prompt_ids(record.parts))
        length = len(renderer.note_ids(record.note))
        if len(prompt) + length <= options.max_length:
            tasks.append(Task(prompt=prompt, length=length))
    return tasks


def compare_speed(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    renderer: PromptRenderer,
    decoder: Decoder | None,
    num_beams: int,
    options: argparse.Namespace,
) -> None:
    """Print useful tokens a second of both, and the ratios, for one beam width."""
    batch_size = options.batch_size if num_beams == 1 else max(1, options.batch_size // 4)
    runs: dict[str, Callable[[], None]] = {
        f"here, batch {batch_size}": lambda: run_ours(model, tasks, renderer, decoder, num_beams, batch_size)
    }
    for size in options.rival_batch_sizes:
        runs[f"generate, batch {size}"] = lambda size=size: run_rival(
            model, tasks, renderer, num_beams, size, by_length=options.rival_order == "length"
        )
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.turns):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"    {name}: {seconds[name][-1]:.1f} s", flush=True)
    useful = sum(task.length for task in tasks)
    speeds = {name: useful / statistics.median(times) for name, times in seconds.items()}
    ours, *_ = speeds.values()
    print(f"{'greedy' if num_beams == 1 else f'beam {num_beams}'}:")
    for name, speed in speeds.items():
        print(f"  {name:22} {speed:7.1f} useful tokens/s   here / this: {ours / speed:5.2f}", flush=True)


def run_ours(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    renderer: PromptRenderer,
    decoder: Decoder | None,
    num_beams: int,
    batch_size: int,
) -> None:
    """All notes, each with its own length."""
    lengths = [task.length for task in tasks]
    found = generate(
        model,
        [task.prompt for task in tasks],
        stop_token_ids=renderer.stop_token_ids,
        max_new_tokens=lengths,
        min_new_tokens=lengths,
        num_beams=num_beams,
        batch_size=batch_size,
        decoder=decoder,
    )
    assert [len(generation.token_ids) for generation in found] == lengths


def run_rival(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    renderer: PromptRenderer,
    num_beams: int,
    batch_size: int,
    *,
    by_length: bool,
) -> None:
    """All notes by `model.generate`, batch after batch, each batch to the length of its longest note."""
    if by_length:
        tasks = sorted(tasks, key=lambda task: len(task.prompt))
    for start in range(0, len(tasks), batch_size):
        batch = tasks[start : start + batch_size]
        longest = max(task.length for task in batch)
        tokens = rival_tokens(model, [task.prompt for task in batch], renderer, num_beams, longest, forced=True)
        assert tokens.shape[1] == longest


def rival_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    renderer: PromptRenderer,
    num_beams: int,
    max_new_tokens: int,
    *,
    forced: bool = False,
) -> torch.Tensor:
    """The new tokens of one `model.generate` call, left-padded as its documentation asks."""
    width = max(len(prompt) for prompt in prompts)
    padded = [[renderer.pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    settings = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if forced else None,
        eos_token_id=list(renderer.stop_token_ids),
        pad_token_id=renderer.pad_token_id,
    )
    with torch.inference_mode():
        tokens = model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=settings,
        )
    return tokens[:, width:]


def check(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    renderer: PromptRenderer,
    decoder: Decoder | None,
    *,
    widths: Sequence[int],
    max_new_tokens: int,
) -> None:
    """Compare batched, single and `model.generate`, token for token; raise InputError at a difference."""
    prompts = [task.prompt for task in tasks]
    stops = renderer.stop_token_ids
    differing = 0
    for num_beams in widths:
        options: dict[str, Any] = {"stop_token_ids": stops, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
        batched = generate(model, prompts, batch_size=16, decoder=decoder, **options)
        for index, prompt in enumerate(prompts):
            (single,) = generate(model, [prompt], decoder=decoder, **options)
            rival = rival_tokens(model, [prompt], renderer, num_beams, max_new_tokens)[0].tolist()
            end = next((place for place, token in enumerate(rival) if token in stops), len(rival))
            if not batched[index].token_ids == single.token_ids == tuple(rival[:end]):
                differing += 1
                print(f"row {index}, beams {num_beams}: the notes differ")
        print(f"beams {num_beams}: {len(prompts)} notes compared, {differing} differ so far", flush=True)
    if differing:
        raise InputError(f"{differing} notes differ")


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
