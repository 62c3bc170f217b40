"""Write notes with a tuned model: a file of dialogues to a file of notes, or one dialogue to the screen.

    python infer.py --run runs/demo --input_file dialogues.csv --output_file notes.csv
    python infer.py --run runs/demo --dialogue_file visit.txt --section GENHX

Base, prompt and lengths are those of the run, so that prompts are the same as in training. A note is a draft for a
clinician's review; facts that the dialogue does not support are marked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsum_core.config.column_flags import column_settings
from medsum_core.config.infer_arguments import parse_options
from medsum_core.config.run_folder import run_of
from medsum_core.data.columns import Columns, columns_of
from medsum_core.data.dialogue_file import read_dialogue
from medsum_core.data.named.registry import find_dataset, named_table
from medsum_core.data.records import SourceRows, read_source, source_from_table
from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.process import keep_files_private, run_as_script, set_tf32, start_script

if TYPE_CHECKING:  # torch is imported after the flags were read
    from transformers import PretrainedConfig

    from medsum_core.config.arguments import DataArguments
    from medsum_core.data.prompt import BuildRenderer, PromptRenderer
    from medsum_core.device import Device
    from medsum_core.generation.decoding_memory import DecodingChoice
    from medsum_core.generation.notes import TokenBudget
    from medsum_core.generation.search import Search
    from medsum_core.generation.writer import Writer
    from medsum_core.kernels import Kernels
    from medsum_core.model.adapter_source import AdapterSource

MEMORY_REMEDY = "lower --batch_size, --num_beams or --max_new_tokens; finished notes are kept: go on with --resume"


def main(
    argv: list[str] | None = None,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
) -> None:
    """Run the inference script; the keyword arguments replace the decoding rule or the prompt (examples/extend.md).

    `search(stop_token_ids)` returns a rule that replaces greedy and beam search. Raises the errors of
    `medsum_core.errors`, which carry the exit codes. Ctrl-C, and the other signals under `run_as_script`, raise
    StoppedBySignal where a file of notes is written; with one note to the screen they end the process.
    """
    args = parse_options(sys.argv[1:] if argv is None else argv)
    if search is not None and args.num_beams != 1:
        raise InputError("--num_beams: belongs to beam search; leave it out with a decoding rule of your own")
    from medsum_core.generation.note_rows import check_format
    from medsum_core.generation.output_file import locked_output, output_path, refuse_overwriting

    keep_files_private()
    prepare = partial(prepare_writer, args, search=search, build_renderer=build_renderer)
    columns = columns_of(_row_settings(args))
    check_format(args.output_format, columns.task)
    if args.dialogue_file is not None:
        from medsum_core.generation.screen import show_note

        records = read_dialogue(args.dialogue_file, columns=columns)
        show_note(prepare(), records, with_evidence=args.evidence)
        return
    out = output_path(args.output_file)
    try:
        from medsum_core.generation.writer import write_file

        with locked_output(out):
            refuse_overwriting(out, resume=args.resume)
            rows = _read_rows(args, columns)
            prepare = partial(prepare, image_paths=rows.image_paths)
            how: dict[str, Any] = {"output_format": args.output_format, "with_evidence": args.evidence}
            write_file(rows.records, out, prepare=prepare, **how)
    except KeyboardInterrupt:
        raise StoppedBySignal(f"notes that were finished are kept; go on with --resume, which writes {out}") from None


def prepare_writer(
    args: argparse.Namespace,
    *,
    search: Callable[[frozenset[int]], Search] | None = None,
    build_renderer: BuildRenderer | None = None,
    image_paths: Mapping[str, Path] | None = None,  # of the rows: `SourceRows.image_paths`
) -> Writer:
    """A writer for the run's base and adapter, or for a base alone. Raises InputError. Adapters are local files only.

    This device's memory decides how many notes are written at a time and whether NF4 is dequantised.
    """
    from medsum_core import kernels
    from medsum_core.data.prompt import check_prompt
    from medsum_core.device import choose_precision, find_device
    from medsum_core.generation.made_from import function_names, prompt_sha256
    from medsum_core.generation.writer import Writer
    from medsum_core.model.adapter_files import adapter_hashes
    from medsum_core.model.adapter_source import base_alone, find_adapter
    from medsum_core.model.base import load_config, load_tokenizer
    from medsum_core.model.quantised import is_quantised
    from medsum_core.model.recorded_files import base_files

    tuned = find_adapter(args.run, base=args.model_name_or_path) if args.run is not None else None
    model, data = (tuned.model, tuned.data) if tuned else base_alone(args.model_name_or_path, **_of_base_alone(args))
    name, device = model.model_name_or_path, find_device()
    source: dict[str, Any] = {"revision": model.model_revision, "offline": args.offline or model.offline}
    base_config = load_config(name, **source)
    precision = choose_precision(args.precision or model.precision, device, model_type=base_config.model_type)
    set_tf32(device, precision=precision)
    chosen_name = kernels.resolve(args.kernels, device_kind=device.kind, model_type=base_config.model_type)
    chosen = kernels.choose(chosen_name, device.kind)
    renderer = _renderer(build_renderer, data, load_tokenizer(name, **source), base_config)
    check_prompt(renderer, is_new=args.run is None)
    files = base_files(name, **source)
    if tuned is not None:
        tuned.check(files, allow_other_base=args.allow_other_base)
    held: dict[str, Any] = {"precision": precision, "load_in_4bit": model.load_in_4bit or is_quantised(base_config)}
    loading = source | held | {"device": device.torch_device, "reads_images": renderer.images is not None}
    decoding = _decoding(args, data)
    budget = _budget(data, decoding["max_new_tokens"], base_config)
    decoder = chosen.decoder
    choice = _choice(args, base_config, device, held, budget, has_own_weights=decoder is not None)
    return Writer(
        load_model=partial(_load_model, name, loading, tuned, chosen, bool(choice.dense), image_paths=image_paths),
        renderer=renderer,
        budget=budget,
        decoding=decoding,
        forward={"decoder": decoder and partial(decoder, dense=choice.dense), "search": search},
        choice=choice,
        base_source={"name": name, **source},
        description={
            "adapter": tuned and adapter_hashes(tuned.folder),
            "base": files,
            **held,
            "kernels": chosen.name,
            "prompt": prompt_sha256(renderer, budget.max_prompt_tokens),
            **({"grounded": True} if args.grounded or data.grounded else {}),
            **function_names(search=search, build_renderer=build_renderer),
        },
    )


def _budget(data: DataArguments, max_new_tokens: int, base_config: PretrainedConfig) -> TokenBudget:
    from medsum_core.generation.generate import num_positions
    from medsum_core.generation.notes import TokenBudget

    return TokenBudget(
        max_prompt_tokens=data.max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        num_positions=num_positions(base_config),
    )


def _choice(
    args: argparse.Namespace,
    base_config: PretrainedConfig,
    device: Device,
    held: Mapping[str, Any],
    budget: TokenBudget,
    *,
    has_own_weights: bool,
) -> DecodingChoice:
    from medsum_core.generation.decoding_memory import decide_for

    return decide_for(
        base_config,
        device,
        **held,
        has_own_weights=has_own_weights,
        prompt_tokens=budget.max_prompt_tokens,
        new_tokens=budget.max_new_tokens,
        num_beams=args.num_beams,
        num_decoders=2 if getattr(args, "compare", False) else 1,  # a flag of the server's
        asked=args.batch_size,
    )


def _renderer(build: BuildRenderer | None, data: DataArguments, tokenizer: Any, config: Any) -> PromptRenderer:
    from medsum_core.data.image_tokens import with_image_tokens
    from medsum_core.data.prompt import build_renderer

    return (build or build_renderer)(tokenizer, **with_image_tokens(data.prompt_settings, config, tokenizer))


def _of_base_alone(args: argparse.Namespace) -> dict[str, Any]:
    """The prompt's settings for a base alone; those of a run are saved with it."""
    variables, style = args.chat_template_kwargs, args.prompt_style or "auto"
    return {"chat_template_kwargs": variables, "prompt_style": style, "task": _row_settings(args).task}


def _decoding(args: argparse.Namespace, data: DataArguments) -> dict[str, Any]:
    """Arguments of `generate`: from the flags, or from the run where a flag was not given."""
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
    *,
    image_paths: Mapping[str, Path] | None = None,
) -> Any:
    """The model that writes the notes; an untested family is first compared with the model's own `generate`."""
    from medsum_core.generation.decoding_check import check_decoding, is_tested
    from medsum_core.model.adapter_files import load_adapter
    from medsum_core.model.base import load_base

    model: Any = load_base(name, **base)
    if tuned is not None:
        model = load_adapter(model, tuned.folder, base_name=tuned.trained_over)
    if image_paths:
        from medsum_core.images.features import show_images

        place = {"revision": base["revision"], "offline": base["offline"]}
        show_images(model, image_paths, base_name=name, keep=False, **place)
    if tuned is not None or kernels.decoder is None:
        kernels.apply(model, keep_dense=keep_dense)
    if not is_tested(model):
        check_decoding(model, prompts, decoder=kernels.decoder)
    return model


def _read_rows(args: argparse.Namespace, columns: Columns) -> SourceRows:
    if args.dataset_name is None:
        source, folder = read_source(args.input_file, columns=columns, require_note=False), Path(args.input_file).parent
    else:
        source, folder = _named_split(args, columns), find_dataset(args.dataset_name).folder
    if columns.task.images_part is not None:
        from medsum_core.images.rows import with_image_keys

        source = with_image_keys(source, folder)
    for notice in source.notices:
        print(notice, file=sys.stderr)
    return source


def _named_split(args: argparse.Namespace, columns: Columns) -> SourceRows:
    """A split of a named data set, in the run's own configuration, since another may contain its training rows."""
    settings = _row_settings(args)
    own = settings.dataset_config_name if settings.dataset_name == args.dataset_name else None
    config = args.dataset_config_name or own
    table = named_table(args.dataset_name, args.split, config_name=config, offline=args.offline)
    return source_from_table(table, columns=columns, require_note=False)


def _row_settings(args: argparse.Namespace) -> DataArguments:
    """How files are read: as in the run, unless flags are given. For an adapter without a run: the defaults."""
    run = None if args.run is None or (Path(args.run).is_dir() and run_of(args.run) is None) else args.run
    return column_settings(args, run=run)


if __name__ == "__main__":
    start_script()
    raise SystemExit(run_as_script(main, memory_remedy=MEMORY_REMEDY))
