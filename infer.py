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
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.config.infer_arguments import parse_options
from medsum_core.data.records import Record, normalise_dialogue, read_records
from medsum_core.errors import InputError, StoppedBySignal, run_as_script
from medsum_core.files import read_plain_file
from medsum_core.process import keep_compiled_code_private, keep_files_private, send_nothing_unasked

if TYPE_CHECKING:  # torch is imported after the flags were read
    from medsum_core.config.arguments import DataArguments, ModelArguments
    from medsum_core.data.prompt import BuildRenderer, PromptRenderer
    from medsum_core.generation.notes import FittedRows, TokenBudget
    from medsum_core.generation.part_file import PartFile
    from medsum_core.generation.search import Search
    from medsum_core.kernels import Kernels

TEST1_NOTICE = "note: the challenge of test1 did not give the header; this prompt does, so scores are not its board's"
MEMORY_REMEDY = "lower --batch_size, --num_beams or --max_new_tokens; finished notes are kept: go on with --resume"
RED, PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """All that decides the notes, checked; only the weights are not loaded yet."""

    load_model: Callable[[Sequence[Sequence[int]]], Any]  # (prompts); takes seconds to minutes
    renderer: PromptRenderer
    budget: TokenBudget
    decoding: dict[str, Any]  # arguments of `generate` that decide its notes
    forward: dict[str, Any]  # those that are functions: decoder and search
    description: dict[str, Any]  # what else decides its notes


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
    from medsum_core.generation.output_file import locked_output, output_path, refuse_overwriting

    keep_files_private()
    prepare = partial(prepare_writer, args, search=search, build_renderer=build_renderer)
    if args.dialogue_file is not None:
        dialogue = _read_dialogue(args.dialogue_file)
        write_one(prepare(), dialogue, args)
        return
    out = output_path(args.output_file)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with locked_output(out):
            refuse_overwriting(out, resume=args.resume)
            write_file(_read_rows(args), out, args, prepare=prepare)
    except KeyboardInterrupt:
        raise StoppedBySignal(f"{out} is not written; notes that were finished are kept, go on with --resume") from None


def prepare_writer(
    args: argparse.Namespace,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> Writer:
    """Base and adapter as the run has them, or a base alone. Raises InputError; no hub is asked for an adapter."""
    from medsum_core import kernels
    from medsum_core.data.prompt import build_renderer as own_renderer
    from medsum_core.device import choose_precision, find_device
    from medsum_core.generation.generate import num_positions
    from medsum_core.generation.made_from import function_names, prompt_sha256
    from medsum_core.generation.notes import TokenBudget
    from medsum_core.model.adapter_files import adapter_hashes
    from medsum_core.model.base import load_config, load_tokenizer
    from medsum_core.model.recorded_files import base_files, check_run

    model, data, adapter = _settings(args)
    name, device = model.model_name_or_path, find_device()
    source: dict[str, Any] = {"revision": model.model_revision, "offline": args.offline or model.offline}
    base_config = load_config(name, **source)
    precision = choose_precision(args.precision or model.precision, device, model_type=base_config.model_type)
    chosen = kernels.resolve(args.kernels, device_kind=device.kind, model_type=base_config.model_type)
    chosen_kernels = kernels.choose(chosen, device.kind)
    renderer = (build_renderer or own_renderer)(load_tokenizer(name, **source), style=data.prompt_style)
    files = base_files(name, **source)
    if args.run is not None:
        check_run(args.run, files, base_name=name, allow_other_base=args.allow_other_base)
    base: dict[str, Any] = {"precision": precision, "load_in_4bit": model.load_in_4bit, "device": device.torch_device}
    no_repeat = args.no_repeat_ngram_size
    decoding = {
        "max_new_tokens": args.max_new_tokens or data.max_new_tokens,
        "no_repeat_ngram_size": data.no_repeat_ngram_size if no_repeat is None else no_repeat,
        "num_beams": args.num_beams,
        "length_penalty": args.length_penalty,
    }
    budget = TokenBudget(
        max_prompt_tokens=data.max_prompt_tokens,
        max_new_tokens=decoding["max_new_tokens"],
        num_positions=num_positions(base_config),
    )
    return Writer(
        load_model=partial(_load_model, name, base | source, adapter, chosen_kernels, model.dequantize == "on"),
        renderer=renderer,
        budget=budget,
        decoding=decoding,
        forward={"decoder": chosen_kernels.decoder, "search": search},
        description={
            "adapter": None if adapter is None else adapter_hashes(adapter),
            "base": files,
            "precision": precision,
            "load_in_4bit": model.load_in_4bit,
            "kernels": chosen,
            "prompt": prompt_sha256(renderer, budget.max_prompt_tokens),
            **function_names(search=search, build_renderer=build_renderer),
        },
    )


def _settings(args: argparse.Namespace) -> tuple[ModelArguments, DataArguments, Path | None]:
    """Base and data settings of the run and the folder of its adapter, or a base alone with the defaults."""
    from medsum_core.config.arguments import DataArguments, ModelArguments
    from medsum_core.config.run_folder import ADAPTER_FOLDER, read_run_config
    from medsum_core.model.adapter_files import adapter_base_name

    if args.run is None:
        return ModelArguments(model_name_or_path=args.model_name_or_path, load_in_4bit=False), DataArguments(), None
    config, adapter = read_run_config(args.run), Path(args.run) / ADAPTER_FOLDER
    if adapter_base_name(adapter) != config.model.model_name_or_path:
        raise InputError(f"--run {args.run}: its adapter is for another base than {config.model.model_name_or_path}")
    return config.model, config.data, adapter


def _load_model(
    name: str,
    base: dict[str, Any],
    adapter: Path | None,
    kernels: Kernels,
    keep_dense: bool,
    prompts: Sequence[Sequence[int]],
) -> Any:
    """The model that writes the notes; one of an untested family only if it begins two of them as its own code does."""
    from medsum_core.generation.decoding_check import check_decoding, is_tested
    from medsum_core.model.adapter_files import load_adapter
    from medsum_core.model.base import load_base

    model: Any = load_base(name, **base)
    if adapter is not None:
        model = load_adapter(model, adapter, base_name=name)
        kernels.apply(model, keep_dense=keep_dense)
    if not is_tested(model):
        check_decoding(model, prompts, decoder=kernels.decoder)
    return model


def write_file(
    records: Sequence[Record], out: Path, args: argparse.Namespace, *, prepare: Callable[[], Writer]
) -> None:
    """Notes for all records; each is kept as it is finished, so that an interruption loses none."""
    from medsum_core.generation.made_from import MadeFrom, row_sha256
    from medsum_core.generation.note_files import write_notes
    from medsum_core.generation.output_file import earlier_notes
    from medsum_core.generation.part_file import PartFile, part_path, saving_notes

    rows = {row_sha256(record): record for record in records}
    earlier = earlier_notes(out)
    if earlier is not None:
        earlier.check_rows(rows)
    writer = prepare()
    made_from = MadeFrom(settings={**writer.description, **writer.decoding}, rows=tuple(rows))
    if earlier is not None:
        earlier.check_settings(made_from.settings)
    fitted = _fitted(rows, writer)
    with closing(PartFile(part_path(out), made_from, {} if earlier is None else earlier.notes)) as part:
        _write_missing(writer, rows, fitted, part, batch_size=args.batch_size)
    with saving_notes(out):
        write_notes(
            out,
            rows,
            part.notes,
            made_from,
            set_aside=fitted.set_aside,
            output_format=args.output_format,
            with_evidence=args.evidence,
        )
        part.path.unlink()
    cut = sum(note.hit_limit for note in part.notes.values())
    print(
        f"{len(fitted.prompts)} notes in {out}; {cut} ran into the limit of {writer.budget.max_new_tokens} tokens",
        file=sys.stderr,
    )


def _write_missing(
    writer: Writer, rows: Mapping[str, Record], fitted: FittedRows, part: PartFile, *, batch_size: int
) -> None:
    """The notes that `part` lacks, each appended as it is finished. Raises StoppedBySignal when interrupted."""
    from tqdm import tqdm

    from medsum_core.generation.generate import generate
    from medsum_core.generation.notes import generated_note

    todo = [row for row in fitted.prompts if row not in part.notes]
    if not todo:
        return
    with tqdm(total=len(fitted.prompts), initial=len(fitted.prompts) - len(todo), desc="notes", unit="note") as bar:

        def keep(index: int, generation: Any) -> None:
            row = todo[index]
            part.add(row, generated_note(rows[row].id, generation, writer.renderer))
            bar.update()

        try:
            prompts = [fitted.prompts[row] for row in todo]
            generate(
                writer.load_model(prompts),
                prompts,
                stop_token_ids=writer.renderer.stop_token_ids,
                batch_size=batch_size,
                on_finished=keep,
                **writer.decoding,
                **writer.forward,
            )
        except KeyboardInterrupt:
            raise StoppedBySignal(f"{len(part.notes)} notes are kept in {part.path}; go on with --resume") from None


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

    record = Record(id="1", section_header=args.section, dialogue=dialogue, note="")
    prompts = list(_fitted({"": record}, writer).prompts.values())
    (generation,) = generate(
        writer.load_model(prompts),
        prompts,
        stop_token_ids=writer.renderer.stop_token_ids,
        on_token=show if args.num_beams == 1 and writer.forward["search"] is None else None,
        **writer.decoding,
        **writer.forward,
    )
    note = writer.renderer.decode(list(generation.token_ids))
    print(note[len(shown) :])
    if generation.hit_limit:
        print(f"(cut at the limit of {writer.budget.max_new_tokens} tokens)", file=sys.stderr)
    spans = unsupported_spans(note, dialogue)
    if spans:
        print(f"\nNot said in the dialogue ({len(spans)}):\n{_marked(note, spans)}")
    for support in evidence(note, dialogue) if args.evidence else ():
        turns = ", ".join(str(turn + 1) for turn in support.turns) or "none"
        flag = "  <- little support" if support.low_support else ""
        print(f"sentence at {support.start}-{support.end}: turns {turns} (score {support.score:.2f}){flag}")


def _fitted(rows: Mapping[str, Record], writer: Writer) -> FittedRows:
    """Prompts, truncated as in training; says what was truncated or set aside. Raises InputError if no row is left."""
    from medsum_core.generation.notes import fit_rows

    fitted = fit_rows(rows, writer.renderer, writer.budget)
    if not fitted.prompts:
        raise InputError("no row is left to write a note for:\n" + "\n".join(fitted.lines(rows)))
    for line in fitted.lines(rows):
        print(line, file=sys.stderr)
    return fitted


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
