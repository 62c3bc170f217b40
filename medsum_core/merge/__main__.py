"""Merge a run's adapter into its 16-bit base; the result is kept only if it gives the same outputs.

    python -m medsum_core.merge --run DIR --output_dir OUT [--num_prompts N --input_file F.csv]

A run on an NF4 base is merged into the unquantised base; if the base's own files are in 4 bits, `--base` names its
16-bit version. The comparison and its bounds are in `parity.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from medsum_core.merge.arguments import REASON_4BIT, parse_options
from medsum_core.process import run_as_script, start_script, value_or_exit

if __name__ == "__main__":
    start_script()  # before the libraries are imported
    options = value_or_exit(lambda: parse_options(None))  # --help and a wrong flag: before the slow imports

from transformers import PreTrainedModel

from medsum_core.config.arguments import DataArguments
from medsum_core.config.run_folder import FolderLock
from medsum_core.data.columns import columns_of
from medsum_core.data.image_tokens import with_image_tokens
from medsum_core.data.prompt import PromptRenderer, build_renderer, check_prompt
from medsum_core.data.question_only import question_only
from medsum_core.data.records import Record, read_records
from medsum_core.data.served_template import arguments_of, refuse_unequal, served_template
from medsum_core.data.truncation import prompt_within
from medsum_core.device import find_device
from medsum_core.errors import InputError
from medsum_core.merge.fold import fold, lock_path, save_if_equal
from medsum_core.merge.parity import note_logits
from medsum_core.model.adapter_files import load_adapter
from medsum_core.model.adapter_source import find_adapter
from medsum_core.model.base import load_base, load_config, load_tokenizer
from medsum_core.model.local_files import CHAT_TEMPLATE, SENTENCEPIECE, text_files
from medsum_core.model.quantised import check_same_model, is_quantised
from medsum_core.model.recorded_files import base_files

ONLY_SENTENCEPIECE = ("gemma", "gemma2")  # llama.cpp's converter accepts no other vocabulary of these
MEMORY_REMEDY = "on a CPU (CUDA_VISIBLE_DEVICES= in the environment) the merge needs no GPU; nothing was written"


def main(argv: Sequence[str] | argparse.Namespace | None = None) -> None:
    """The command line, or what `parse_options` made of it.

    Raises InputError for input that can't be merged, ParityError for a merge that failed: nothing is written then.
    """
    args = argv if isinstance(argv, argparse.Namespace) else parse_options(argv)
    output = Path(args.output_dir)
    if output.name in ("", ".."):
        raise InputError(f"--output_dir {output}: names no new folder; name one, such as merged")
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        if lock_path(output).exists():  # of one at work, or of one that was killed when all but this was done
            with FolderLock() as lock:
                lock.take(output, lock_file=lock_path(output))
        raise InputError(f"--output_dir {output}: exists and is not an empty folder; name another")
    source = find_adapter(args.run, base=args.model_name_or_path)
    records = _records(args.input_file, source.data)[: args.num_prompts]
    name, data = source.model.model_name_or_path, source.data
    place: dict[str, Any] = {
        "revision": source.model.model_revision,
        "offline": args.offline or source.model.offline,
    }
    _check_bits(name, is_quantised(load_config(name, **place)), args.base)
    source.check(base_files(name, **place), allow_other_base=args.allow_other_base)
    tokenizer = load_tokenizer(name, **place)
    renderer = build_renderer(
        tokenizer, **with_image_tokens(data.prompt_settings, load_config(name, **place), tokenizer)
    )
    check_prompt(renderer, is_new=False)
    template = _template(renderer, records)
    # A merge does not change the vision tower, so text alone is compared.
    renderer = question_only(renderer) if data.shows_images else renderer
    prompts = [prompt_within(one, renderer, max_prompt_tokens=data.max_prompt_tokens).ids for one in records]
    base = _dense_base(name, args.base, place)
    model = load_adapter(base, source.folder, base_name=source.trained_over)
    expected = note_logits(model, prompts, renderer)
    merged = fold(model)
    parity = save_if_equal(
        merged,
        expected,
        output,
        renderer=renderer,
        max_new_tokens=data.max_new_tokens,
        no_repeat_ngram_size=data.no_repeat_ngram_size,
        chat_template=template,
        text_files=_text_files(name, args.base, place),
    )
    print(parity.line())
    if source.model.load_in_4bit or args.base is not None:
        print("the run trained over this base in 4 bits; the merged model holds it, and was compared with it, in bf16")
    if merged.config.model_type in ONLY_SENTENCEPIECE and not (output / SENTENCEPIECE).exists():
        print(f"the base has no {SENTENCEPIECE}: llama.cpp's converter needs that of the original model in the folder")
    print(f"merged model in {output}")


def _records(input_file: str | None, data: DataArguments) -> list[Record]:
    """The rows of the file, or of the sample; for a task with other parts the sample's texts are used for these."""
    columns = columns_of(data)
    if input_file is not None:
        return read_records(input_file, columns=columns, require_note=False)
    sample = files("medsum_core") / "data" / "sample" / "demo_valid.csv"
    records = read_records(str(sample), require_note=False)
    texts = [{"line": record.section_header, "block": record.source_text} for record in records]
    made = [{part.name: text.get(part.form, "") for part in columns.task.parts} for text in texts]
    return [
        replace(record, parts=parts, source=columns.task.source) for record, parts in zip(records, made, strict=True)
    ]


def _template(renderer: PromptRenderer, records: Sequence[Record]) -> str | None:
    """The chat template that writes this run's prompt; None, with a line on stderr, where that is not possible."""
    try:
        template = served_template(renderer)
        refuse_unequal(template, renderer, [record.parts for record in records])
    except InputError as error:
        print(f"no {CHAT_TEMPLATE} of this run's prompt, the base's own is left: {error}", file=sys.stderr)
        return None
    arguments = "".join(f", {name}=..." for name in arguments_of(renderer.task))
    print(f"{CHAT_TEMPLATE} writes this run's prompt: of a user's message ({renderer.task.source}){arguments}")
    return template


def _check_bits(name: str, is_quantised: bool, dense: str | None) -> None:
    if is_quantised and dense is None:
        raise InputError(
            f"{name}: this base is itself quantised; {REASON_4BIT}. Name the same model in 16 bits with --base"
        )
    if dense is not None and not is_quantised:
        raise InputError(
            f"--base {dense}: the run's own base {name} is in 16 bits, so it is merged into that; if it was moved, "
            "--model_name_or_path names its place"
        )


def _dense_base(name: str, dense: str | None, place: dict[str, Any]) -> PreTrainedModel:
    """The base to merge into, in bf16: the run's own, or `dense` after checking that it is the same model."""
    device = find_device().torch_device
    if dense is None:
        return load_base(name, precision="bf16", device=device, **place)
    if is_quantised(load_config(dense, offline=place["offline"])):
        raise InputError(f"--base {dense}: is in 4 bits as well; {REASON_4BIT}")
    base = load_base(dense, precision="bf16", device=device, offline=place["offline"])
    check_same_model(base, load_base(name, precision="bf16", **place), names=(dense, name))
    return base


def _text_files(name: str, dense: str | None, place: dict[str, Any]) -> dict[str, Path]:
    """Tokenizer and processor files of the run's base, and `tokenizer.model` if only `dense` has one."""
    found = text_files(name, **place)
    others = {} if dense is None else text_files(dense, offline=place["offline"])
    return {file: path for file, path in others.items() if file == SENTENCEPIECE} | found


if __name__ == "__main__":
    raise SystemExit(run_as_script(lambda: main(options), memory_remedy=MEMORY_REMEDY))
