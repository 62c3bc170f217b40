"""Write notes with a tuned model: a file of dialogues to a file of notes, or one dialogue to the screen.

    python infer.py --run runs/demo --input_file dialogues.csv --output_file notes.csv
    python infer.py --run runs/demo --dialogue_file visit.txt --section GENHX

Base, prompt and lengths come from the run, so that decoding sees what training saw. A note is a draft for a clinician's
review; facts that the dialogue does not say are marked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.config.column_flags import column_settings
from medsum_core.config.infer_arguments import parse_options
from medsum_core.config.run_folder import run_of
from medsum_core.data.columns import columns_of
from medsum_core.data.dialogue_file import read_dialogue
from medsum_core.data.records import Record, read_records, read_source
from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.process import keep_files_private, run_as_script, start_script

if TYPE_CHECKING:  # torch is imported after the flags were read
    from medsum_core.config.arguments import DataArguments
    from medsum_core.data.prompt import BuildRenderer, PromptRenderer
    from medsum_core.generation.notes import FittedRows, TokenBudget
    from medsum_core.generation.part_file import PartFile
    from medsum_core.generation.search import Search
    from medsum_core.kernels import Kernels
    from medsum_core.model.adapter_source import AdapterSource

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

    def options(self, dialogues: Sequence[str]) -> dict[str, Any]:
        """Arguments of `generate` for prompts of these dialogues."""
        from medsum_core.generation.notes import grounding_in

        grounding = grounding_in(dialogues, self.renderer) if "grounded" in self.description else None
        return {**self.decoding, **self.forward, "stop_token_ids": self.renderer.stop_token_ids, "grounding": grounding}


def main(
    argv: list[str] | None = None,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> None:
    """The inference script, with another decoding rule or prompt where one is given (examples/extend.md).

    `search(stop_token_ids)` gives a rule in the place of greedy search and beams. Raises the errors of
    `medsum_core.errors`, which carry the exit codes. Ctrl-C, and the other signals under `run_as_script`, raise
    StoppedBySignal where a file of notes is written; one note to the screen has nothing to resume, and ends by them.
    """
    args = parse_options(sys.argv[1:] if argv is None else argv)
    if search is not None and args.num_beams != 1:
        raise InputError("--num_beams: belongs to beam search; leave it out with a decoding rule of your own")
    from medsum_core.generation.output_file import locked_output, output_path, refuse_overwriting

    keep_files_private()
    prepare = partial(prepare_writer, args, search=search, build_renderer=build_renderer)
    if args.dialogue_file is not None:
        args.section = args.section or _row_settings(args).section
        if args.section is None:
            raise InputError("--section: say which section of a note to write; the run has none of its own")
        dialogue = read_dialogue(args.dialogue_file)
        write_one(prepare(), dialogue, args)
        return
    out = output_path(args.output_file)
    try:
        with locked_output(out):
            refuse_overwriting(out, resume=args.resume)
            write_file(_read_rows(args), out, args, prepare=prepare)
    except KeyboardInterrupt:
        raise StoppedBySignal(f"notes that were finished are kept; go on with --resume, which writes {out}") from None


def prepare_writer(
    args: argparse.Namespace,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> Writer:
    """Base and adapter as the run has them, or a base alone. Raises InputError; no hub is asked for an adapter."""
    from medsum_core import kernels
    from medsum_core.data.prompt import build_renderer as own_renderer
    from medsum_core.data.prompt import refuse_open_thinking
    from medsum_core.device import choose_precision, find_device
    from medsum_core.generation.generate import num_positions
    from medsum_core.generation.made_from import function_names, prompt_sha256
    from medsum_core.generation.notes import TokenBudget
    from medsum_core.model.adapter_files import adapter_hashes
    from medsum_core.model.adapter_source import base_alone, find_adapter
    from medsum_core.model.base import load_config, load_tokenizer
    from medsum_core.model.quantised import is_quantised
    from medsum_core.model.recorded_files import base_files

    tuned = find_adapter(args.run, base=args.model_name_or_path) if args.run is not None else None
    model, data = (tuned.model, tuned.data) if tuned else base_alone(args.model_name_or_path, args.chat_template_kwargs)
    name, device = model.model_name_or_path, find_device()
    source: dict[str, Any] = {"revision": model.model_revision, "offline": args.offline or model.offline}
    base_config = load_config(name, **source)
    precision = choose_precision(args.precision or model.precision, device, model_type=base_config.model_type)
    chosen = kernels.resolve(args.kernels, device_kind=device.kind, model_type=base_config.model_type)
    chosen_kernels = kernels.choose(chosen, device.kind)
    renderer = (build_renderer or own_renderer)(load_tokenizer(name, **source), **data.prompt_settings)
    if args.run is None:
        refuse_open_thinking(renderer)
    files = base_files(name, **source)
    if tuned is not None:
        tuned.check(files, allow_other_base=args.allow_other_base)
    held = {"precision": precision, "load_in_4bit": model.load_in_4bit or is_quantised(base_config)}
    loading = source | held | {"device": device.torch_device}
    decoding = _decoding(args, data)
    budget = TokenBudget(
        max_prompt_tokens=data.max_prompt_tokens,
        max_new_tokens=decoding["max_new_tokens"],
        num_positions=num_positions(base_config),
    )
    return Writer(
        load_model=partial(_load_model, name, loading, tuned, chosen_kernels, model.dequantize == "on"),
        renderer=renderer,
        budget=budget,
        decoding=decoding,
        forward={"decoder": chosen_kernels.decoder, "search": search},
        description={
            "adapter": tuned and adapter_hashes(tuned.folder),
            "base": files,
            **held,
            "kernels": chosen,
            "prompt": prompt_sha256(renderer, budget.max_prompt_tokens),
            **({"grounded": True} if args.grounded else {}),
            **function_names(search=search, build_renderer=build_renderer),
        },
    )


def _decoding(args: argparse.Namespace, data: DataArguments) -> dict[str, Any]:
    """Arguments of `generate`: the flags', and the run's where a flag was not given."""
    no_repeat = args.no_repeat_ngram_size
    return {
        "max_new_tokens": args.max_new_tokens or data.max_new_tokens,
        "no_repeat_ngram_size": data.no_repeat_ngram_size if no_repeat is None else no_repeat,
        "num_beams": args.num_beams,
        "length_penalty": args.length_penalty,
    }


def _load_model(
    name: str,
    base: dict[str, Any],
    tuned: AdapterSource | None,
    kernels: Kernels,
    keep_dense: bool,
    prompts: Sequence[Sequence[int]],
) -> Any:
    """The model that writes the notes; one of an untested family only if it begins two of them as its own code does."""
    from medsum_core.generation.decoding_check import check_decoding, is_tested
    from medsum_core.model.adapter_files import load_adapter
    from medsum_core.model.base import load_base

    model: Any = load_base(name, **base)
    if tuned is not None:
        model = load_adapter(model, tuned.folder, base_name=tuned.trained_over)
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
    with saving_notes(out):
        part = PartFile(part_path(out), made_from, {} if earlier is None else earlier.notes)
    with closing(part):
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
    from medsum_core.generation.part_file import saving_notes

    todo = [row for row in fitted.prompts if row not in part.notes]
    if not todo:
        return
    with tqdm(total=len(fitted.prompts), initial=len(fitted.prompts) - len(todo), desc="notes", unit="note") as bar:

        def keep(index: int, generation: Any) -> None:
            row = todo[index]
            note = generated_note(rows[row].id, generation, writer.renderer)
            with saving_notes(part.path):
                part.add(row, note)
            bar.update()

        try:
            prompts = [fitted.prompts[row] for row in todo]
            generate(
                writer.load_model(prompts),
                prompts,
                batch_size=batch_size,
                on_finished=keep,
                **writer.options([rows[row].dialogue for row in todo]),
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
        on_token=show if args.num_beams == 1 and writer.forward["search"] is None and not args.grounded else None,
        **writer.options([dialogue]),
    )
    note = writer.renderer.decode(list(generation.token_ids))
    print(note[len(shown) :])
    if generation.hit_limit:
        print(f"(cut at the limit of {writer.budget.max_new_tokens} tokens)", file=sys.stderr)
    if generation.left_out:
        print(f"(left out {generation.left_out} times what the dialogue does not support)", file=sys.stderr)
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

    if args.split == "test1":
        print(TEST1_NOTICE, file=sys.stderr)
    if args.split is not None:
        return read_records(mts_dialog_file(args.split, offline=args.offline), require_note=False)
    source = read_source(args.input_file, columns=columns_of(_row_settings(args)), require_note=False)
    for notice in source.notices:
        print(notice, file=sys.stderr)
    return source.records


def _row_settings(args: argparse.Namespace) -> DataArguments:
    """How files are read: as the run's were, unless flags say otherwise. An adapter without a run has the defaults."""
    run = None if args.run is None or (Path(args.run).is_dir() and run_of(args.run) is None) else args.run
    return column_settings(args, run=run)


if __name__ == "__main__":
    start_script()
    raise SystemExit(run_as_script(main, memory_remedy=MEMORY_REMEDY))
