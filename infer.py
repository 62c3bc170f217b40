"""Write notes with a tuned model: a file of dialogues to a file of notes, or one dialogue to the screen.

    python infer.py --run runs/demo --input_file dialogues.csv --output_file notes.csv
    python infer.py --run runs/demo --dialogue_file visit.txt --section GENHX

Base, prompt and lengths come from the run, so that decoding sees what training saw. A note is a draft for a clinician's
review; facts that the dialogue does not say are marked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from medsum_core.errors import InputError, StoppedBySignal, raise_all, run_as_script

TEST1_NOTICE = "note: the challenge of test1 did not give the header; this prompt does, so scores are not its board's"
RED, PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A model that is ready to write, and the budget of its prompts."""

    model: Any
    renderer: Any
    max_prompt_tokens: int
    max_new_tokens: int
    description: dict[str, Any]  # what decides its notes


def main(argv: list[str] | None = None) -> None:
    """The inference script. Raises the errors of `medsum_core.errors`, which carry the exit codes."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    os.umask(0o077)
    if args.dialogue_file is not None:
        dialogue = _read_dialogue(args.dialogue_file)
        write_one(load_writer(args), dialogue, args)
        return
    records = _read_rows(args)
    write_file(records, args)


def load_writer(args: argparse.Namespace) -> Writer:
    """Base and adapter as the run has them, or a base alone. Raises InputError; no hub is asked for an adapter."""
    from medsum_core.adapter import adapter_base_name, load_adapter
    from medsum_core.arguments import DataArguments, ModelArguments
    from medsum_core.device import choose_precision, find_device
    from medsum_core.model import load_base, load_config, load_tokenizer
    from medsum_core.prompt import build_renderer
    from medsum_core.run_folder import ADAPTER_FOLDER, read_run_config

    model, data = ModelArguments(model_name_or_path=args.model_name_or_path or "", load_in_4bit=False), DataArguments()
    if args.run is not None:
        config = read_run_config(args.run)
        model, data = config.model, config.data
        if adapter_base_name(Path(args.run) / ADAPTER_FOLDER) != model.model_name_or_path:
            raise InputError(f"--run {args.run}: its adapter is for another base than {model.model_name_or_path}")
    name, device = model.model_name_or_path, find_device()
    source: dict[str, Any] = {"revision": model.model_revision, "offline": args.offline or model.offline}
    base_config = load_config(name, **source)
    precision = choose_precision(args.precision or model.precision, device, model_type=base_config.model_type)
    renderer = build_renderer(load_tokenizer(name, **source), style=data.prompt_style)
    loaded: Any = load_base(
        name, precision=precision, load_in_4bit=model.load_in_4bit, device=device.torch_device, **source
    )
    if args.run is not None:
        loaded = load_adapter(
            loaded, Path(args.run) / ADAPTER_FOLDER, base_name=name, keep_dense=model.dequantize == "on"
        )
    max_new_tokens = args.max_new_tokens or data.max_new_tokens
    return Writer(
        model=loaded,
        renderer=renderer,
        max_prompt_tokens=data.max_length - data.max_new_tokens,
        max_new_tokens=max_new_tokens,
        description={"run": args.run, "model": name, "precision": precision, "max_new_tokens": max_new_tokens},
    )


def write_file(records: Sequence[Any], args: argparse.Namespace) -> None:
    """Notes for all records; each is kept as it is finished, so that an interruption loses none."""
    from tqdm import tqdm

    from medsum_core.generation import generate
    from medsum_core.note_files import PartFile, WrittenNote, part_settings, read_finished, write_notes

    out = Path(args.output_file)
    if out.exists() and not args.resume:
        raise InputError(f"--output_file {out}: exists already; name another, or keep its rows with --resume")
    finished = read_finished(out) if out.exists() else {}
    writer = load_writer(args)
    decoding = {"num_beams": args.num_beams, "length_penalty": args.length_penalty}
    settings = part_settings(records, **writer.description, **decoding)
    part = PartFile(Path(f"{out}.part.jsonl"), settings, resume=args.resume)
    kept = finished | part.done
    todo = [record for record in records if record.id not in kept]
    prompts = [_prompt(writer, record.dialogue, record.section_header) for record in todo]
    with tqdm(total=len(records), initial=len(records) - len(todo), desc="notes", unit="note") as bar:

        def keep(index: int, generation: Any) -> None:
            note = writer.renderer.decode(list(generation.token_ids))
            num_tokens = len(generation.token_ids)
            part.add(WrittenNote(id=todo[index].id, note=note, num_tokens=num_tokens, hit_limit=generation.hit_limit))
            bar.update()

        try:
            generate(
                writer.model,
                prompts,
                stop_token_ids=writer.renderer.stop_token_ids,
                max_new_tokens=writer.max_new_tokens,
                batch_size=args.batch_size,
                on_finished=keep,
                **decoding,
            )
        except KeyboardInterrupt:
            part.close()
            raise StoppedBySignal(f"{len(part.done)} notes are kept in {part.path}; go on with --resume") from None
    notes = finished | part.done
    write_notes(out, records, notes, output_format=args.output_format, with_evidence=args.evidence)
    part.remove()
    cut = sum(notes[record.id].hit_limit for record in records)
    print(f"{len(records)} notes in {out}; {cut} ran into the limit of {writer.max_new_tokens} tokens", file=sys.stderr)


def write_one(writer: Writer, dialogue: str, args: argparse.Namespace) -> None:
    """One note to the screen, token by token; then what of it the dialogue does not say, and the evidence if asked."""
    from medsum_core.generation import generate
    from medsum_core.grounding import evidence, unsupported_spans

    ids: list[int] = []
    shown = ""

    def show(_: int, token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = writer.renderer.decode(ids)
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            print(text[len(shown) :], end="", flush=True)
            shown = text

    (generation,) = generate(
        writer.model,
        [_prompt(writer, dialogue, args.section)],
        stop_token_ids=writer.renderer.stop_token_ids,
        max_new_tokens=writer.max_new_tokens,
        num_beams=args.num_beams,
        length_penalty=args.length_penalty,
        on_token=show if args.num_beams == 1 else None,
    )
    note = writer.renderer.decode(list(generation.token_ids))
    print(note[len(shown) :])
    if generation.hit_limit:
        print(f"(cut at the limit of {writer.max_new_tokens} tokens)", file=sys.stderr)
    spans = unsupported_spans(note, dialogue)
    if spans:
        print(f"\nNot said in the dialogue ({len(spans)}):\n{_marked(note, spans)}")
    for support in evidence(note, dialogue) if args.evidence else ():
        turns = ", ".join(str(turn + 1) for turn in support.turns) or "none"
        flag = "  <- little support" if support.low_support else ""
        print(f"sentence at {support.start}-{support.end}: turns {turns} (score {support.score:.2f}){flag}")


def _prompt(writer: Writer, dialogue: str, section: str) -> list[int]:
    from medsum_core.batching import shorten_dialogue

    short, _ = shorten_dialogue(dialogue, section, writer.renderer, max_prompt_tokens=writer.max_prompt_tokens)
    prompt: list[int] = writer.renderer.prompt_ids(short, section)
    return prompt


def _marked(note: str, spans: Sequence[tuple[int, int]]) -> str:
    """The note with its unsupported facts in red on a terminal, in brackets elsewhere."""
    before, after = (RED, PLAIN) if sys.stdout.isatty() else ("[[", "]]")
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [note[end:start], before, note[start:stop], after]
        end = stop
    return "".join([*pieces, note[end:]])


def _read_rows(args: argparse.Namespace) -> list[Any]:
    from medsum_core.hub_data import mts_dialog_file
    from medsum_core.records import read_records

    path = args.input_file or mts_dialog_file(args.split, offline=args.offline)
    if args.split == "test1":
        print(TEST1_NOTICE, file=sys.stderr)
    return read_records(path, require_note=False)


def _read_dialogue(source: str) -> str:
    from medsum_core.records import normalise_dialogue

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--dialogue_file {source}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--dialogue_file {source}: not UTF-8 text") from error
    if not text.strip():
        raise InputError(f"--dialogue_file {source}: the dialogue is empty")
    return normalise_dialogue(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(description="write notes with a tuned model", allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="run folder: base, adapter, prompt and lengths")
    source.add_argument("--model_name_or_path", metavar="NAME", help="a base alone: hub id, folder, embedded:...")
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--input_file", metavar="FILE", help="CSV or JSONL with dialogue, section_header and, if any, ID")
    rows.add_argument("--dataset_name", choices=["mts-dialog"], help="the official files, with --split")
    rows.add_argument("--dialogue_file", metavar="FILE|-", help="one dialogue as text, to the screen; with --section")
    parser.add_argument("--split", choices=["valid", "test1", "test2"], help="of --dataset_name")
    parser.add_argument("--section", metavar="NAME", help="section of --dialogue_file: MTS code or full name")
    parser.add_argument("--output_file", metavar="FILE", help="notes of --input_file or --dataset_name")
    parser.add_argument("--output_format", choices=["csv", "mediqa"], default="csv", help="mediqa: submission file")
    parser.add_argument("--resume", action="store_true", help="keep rows that are finished already")
    parser.add_argument("--evidence", action="store_true", help="for each sentence the turns that support it best")
    parser.add_argument("--num_beams", type=int, default=1, help="1: greedy")
    parser.add_argument("--length_penalty", type=float, default=1.0, help="of beam search, as in transformers")
    parser.add_argument("--max_new_tokens", type=int, help="longest note (the run's reserve if not given)")
    parser.add_argument("--batch_size", type=int, default=16, help="notes being written at a time")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], help="the run's if not given")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    args = parser.parse_args(argv)
    problems = {
        "--section names the section of --dialogue_file: give both": (args.section is None)
        != (args.dialogue_file is None),
        "--split names the part of --dataset_name: give both": (args.split is None) != (args.dataset_name is None),
        "--output_file is where the notes of a file go: give it": args.dialogue_file is None and not args.output_file,
        "--num_beams, --batch_size and --max_new_tokens must be at least 1": min(
            args.num_beams, args.batch_size, args.max_new_tokens or 1
        )
        < 1,
    }
    raise_all([text for text, is_wrong in problems.items() if is_wrong])
    return args


if __name__ == "__main__":
    raise SystemExit(run_as_script(main))
