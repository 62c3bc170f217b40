"""Write notes with a tuned model: a file of dialogues to a file of notes, or one dialogue to the screen.

    python infer.py --run runs/demo --input_file dialogues.csv --output_file notes.csv
    python infer.py --run runs/demo --dialogue_file visit.txt --section GENHX

Base, prompt and lengths come from the run, so that decoding sees what training saw. A note is a draft for a clinician's
review; facts that the dialogue does not say are marked.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.config.infer_arguments import parse_options
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import Record, normalise_dialogue, read_records
from medsum_core.errors import InputError, StoppedBySignal, run_as_script
from medsum_core.files import read_plain_file
from medsum_core.process import keep_compiled_code_private, keep_files_private, send_nothing_unasked

if TYPE_CHECKING:  # torch is imported after the flags were read
    from medsum_core.data.prompt import BuildRenderer
    from medsum_core.generation.search import Search

TEST1_NOTICE = "note: the challenge of test1 did not give the header; this prompt does, so scores are not its board's"
MEMORY_REMEDY = (
    "a lower --batch_size, --num_beams or --max_new_tokens needs less; finished notes are kept: go on with --resume"
)
RED, PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A model that is ready to write, and the budget of its prompts."""

    model: Any
    renderer: Any
    max_prompt_tokens: int
    decoding: dict[str, Any]  # arguments of `generate` that decide its notes
    forward: dict[str, Any]  # those that are functions: decoder and search
    description: dict[str, Any]  # what else decides its notes

    @property
    def max_new_tokens(self) -> int:
        """The longest note."""
        return int(self.decoding["max_new_tokens"])


def main(
    argv: list[str] | None = None,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> None:
    """The inference script, with another decoding rule or prompt where one is given (examples/extend.md).

    `search(stop_token_ids)` gives a rule in the place of greedy search and beams. Raises the errors of
    `medsum_core.errors`, which carry the exit codes.
    """
    args = parse_options(sys.argv[1:] if argv is None else argv)
    if search is not None and args.num_beams != 1:
        raise InputError("--num_beams: belongs to beam search; leave it out with a decoding rule of your own")
    keep_files_private()
    load = partial(load_writer, args, search=search, build_renderer=build_renderer)
    if args.dialogue_file is not None:
        dialogue = _read_dialogue(args.dialogue_file)
        write_one(load(), dialogue, args)
        return
    out = _checked_output(args)
    write_file(_read_rows(args), out, args, load=load)


def load_writer(
    args: argparse.Namespace,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> Writer:
    """Base and adapter as the run has them, or a base alone. Raises InputError; no hub is asked for an adapter."""
    from medsum_core import kernels
    from medsum_core.config.arguments import DataArguments, ModelArguments
    from medsum_core.config.run_folder import ADAPTER_FOLDER, read_run_config
    from medsum_core.data.prompt import build_renderer as own_renderer
    from medsum_core.device import choose_precision, find_device
    from medsum_core.files import file_sha256
    from medsum_core.model.adapter_files import WEIGHTS_NAME, adapter_base_name, load_adapter
    from medsum_core.model.base import load_base, load_config, load_tokenizer

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
    chosen = kernels.resolve(args.kernels, device_kind=device.kind, model_type=base_config.model_type)
    chosen_kernels = kernels.choose(chosen, device.kind)
    renderer = (build_renderer or own_renderer)(load_tokenizer(name, **source), style=data.prompt_style)
    loaded: Any = load_base(
        name, precision=precision, load_in_4bit=model.load_in_4bit, device=device.torch_device, **source
    )
    adapter_sha256 = None
    if args.run is not None:
        adapter = Path(args.run) / ADAPTER_FOLDER
        loaded = load_adapter(loaded, adapter, base_name=name)
        chosen_kernels.apply(loaded, keep_dense=model.dequantize == "on")
        adapter_sha256 = file_sha256(adapter / WEIGHTS_NAME)
    no_repeat = args.no_repeat_ngram_size
    return Writer(
        model=loaded,
        renderer=renderer,
        max_prompt_tokens=data.max_length - data.max_new_tokens,
        decoding={
            "max_new_tokens": args.max_new_tokens or data.max_new_tokens,
            "no_repeat_ngram_size": data.no_repeat_ngram_size if no_repeat is None else no_repeat,
            "num_beams": args.num_beams,
            "length_penalty": args.length_penalty,
        },
        forward={"decoder": chosen_kernels.decoder, "search": search},
        description={
            "adapter": adapter_sha256,
            "model": name,
            "precision": precision,
            **({} if search is None else {"search": getattr(search, "__qualname__", repr(search))}),
        },
    )


def write_file(records: Sequence[Any], out: Path, args: argparse.Namespace, *, load: Callable[[], Writer]) -> None:
    """Notes for all records; each is kept as it is finished, so that an interruption loses none."""
    from tqdm import tqdm

    from medsum_core.generation.generate import generate
    from medsum_core.generation.note_files import PartFile, part_path, part_settings, read_finished, write_notes
    from medsum_core.generation.notes import generated_note

    finished = read_finished(out) if out.exists() else {}
    writer = load()
    settings = part_settings(records, **writer.description, **writer.decoding)
    prompts = _prompts(writer, records)
    part = PartFile(part_path(out), settings)
    kept = finished | part.done
    todo = [record for record in records if record.id not in kept]
    signal.signal(signal.SIGTERM, _interrupt)
    with tqdm(total=len(records), initial=len(records) - len(todo), desc="notes", unit="note") as bar:

        def keep(index: int, generation: Any) -> None:
            part.add(generated_note(todo[index].id, generation, writer.renderer))
            bar.update()

        try:
            generate(
                writer.model,
                [prompts[record.id] for record in todo],
                stop_token_ids=writer.renderer.stop_token_ids,
                batch_size=args.batch_size,
                on_finished=keep,
                **writer.decoding,
                **writer.forward,
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
    from medsum_core.generation.generate import generate
    from medsum_core.grounding.check import unsupported_spans
    from medsum_core.grounding.evidence import evidence

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
        list(_prompts(writer, [Record(id="1", section_header=args.section, dialogue=dialogue, note="")]).values()),
        stop_token_ids=writer.renderer.stop_token_ids,
        on_token=show if args.num_beams == 1 and writer.forward["search"] is None else None,
        **writer.decoding,
        **writer.forward,
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


def _prompts(writer: Writer, records: Sequence[Record]) -> dict[str, list[int]]:
    """Prompts by id, truncated as in training; says which were. Raises InputError where no turn of a dialogue fits."""
    from medsum_core.data.truncation import prompt_within

    budget, prompts = writer.max_prompt_tokens, {}
    truncated, unfit = [], []
    for record in records:
        prompt = prompt_within(record, writer.renderer, max_prompt_tokens=budget)
        prompts[record.id] = prompt.ids
        if not prompt.has_dialogue or len(prompt.ids) > budget:
            unfit.append(record.id)
        elif prompt.num_turns_dropped:
            truncated.append(record.id)
    if unfit:
        raise InputError(
            f"no turn of {len(unfit)} dialogues (ids {show_ids(unfit)}) fits a prompt of {budget} tokens: split "
            "their turns, or train with a greater --max_length"
        )
    if truncated:
        print(f"{len(truncated)} dialogues lost turns to fit the prompt: ids {show_ids(truncated)}", file=sys.stderr)
    return prompts


def _marked(note: str, spans: Sequence[tuple[int, int]]) -> str:
    """The note with its unsupported facts in red on a terminal, in brackets elsewhere."""
    before, after = (RED, PLAIN) if sys.stdout.isatty() else ("[[", "]]")
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [note[end:start], before, note[start:stop], after]
        end = stop
    return "".join([*pieces, note[end:]])


def _read_rows(args: argparse.Namespace) -> list[Any]:
    from medsum_core.data.download import mts_dialog_file

    path = args.input_file or mts_dialog_file(args.split, offline=args.offline)
    if args.split == "test1":
        print(TEST1_NOTICE, file=sys.stderr)
    return read_records(path, require_note=False)


def _checked_output(args: argparse.Namespace) -> Path:
    """Where the notes go. Raises InputError for what would be overwritten or can't be written."""
    from medsum_core.generation.note_files import part_path

    out = Path(args.output_file)
    if out.suffix.lower() != ".csv":
        raise InputError(f"--output_file {out}: the name must end in .csv")
    if not out.parent.is_dir():
        raise InputError(f"--output_file {out}: there is no folder {out.parent}")
    if out.exists() and not args.resume:
        raise InputError(f"--output_file {out}: exists already; name another, or keep its rows with --resume")
    if part_path(out).exists() and not args.resume:
        raise InputError(f"{part_path(out)} holds finished notes: go on with --resume, or delete it to start anew")
    return out


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _read_dialogue(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else read_plain_file(source)
        text = data.decode("utf-8-sig")  # whatever the locale
    except OSError as error:
        raise InputError(f"--dialogue_file {source}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--dialogue_file {source}: not UTF-8 text") from error
    if not text.strip():
        raise InputError(f"--dialogue_file {source}: the dialogue is empty")
    return normalise_dialogue(text)


if __name__ == "__main__":
    send_nothing_unasked()
    keep_compiled_code_private()
    raise SystemExit(run_as_script(main, memory_remedy=MEMORY_REMEDY))
