"""Show rows token by token, with the tokens that are trained on, and check each row against LAWS.

    python -m medsum_core.preview --train_file F --num_examples 3

Prompt tokens are separated by bars, tokens that are trained on are in «guillemets» (green on a terminal). Only a
tokenizer is loaded, no weights. This command prints the rows' text to the screen and writes it nowhere else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from medsum_core.process import run_as_script, start_script

if __name__ == "__main__":
    start_script()  # before the libraries are imported

from medsum_core.config.arguments import OFFLINE_HELP
from medsum_core.config.base_name import revision_problems
from medsum_core.config.column_flags import add_column_flags, column_settings
from medsum_core.config.home_folder import PathParser
from medsum_core.config.validation import template_kwargs_problems
from medsum_core.data.columns import columns_of
from medsum_core.data.disclosure import escape, show_id
from medsum_core.data.image_tokens import with_image_tokens
from medsum_core.data.masking import IGNORE_INDEX, Example, build_examples
from medsum_core.data.prompt import (
    PROMPT_STYLES,
    PromptRenderer,
    build_renderer,
    check_prompt,
    control_token_ids,
)
from medsum_core.data.records import Record, read_source
from medsum_core.data.truncation import prompt_within
from medsum_core.errors import InputError, raise_all

LAWS = (
    "the prompt is the one that decoding builds",
    "BOS is where the model's template writes it and nowhere else",
    "no text from outside made a control token",
    "nothing but the note and its stop token is trained on, each token predicted from the one before it",
    "the last target is the stop token, and no other target is",
    "the targets decode to exactly the note",
)
_GREEN, _DIM, _RESET = "\x1b[30;42m", "\x1b[2m", "\x1b[0m"
_BRIGHT_GREEN = "\x1b[30;102m"  # alternates with green, to separate adjacent tokens
_ROWS_AROUND_THE_BORDER = 3


def broken_laws(example: Example, record: Record, renderer: PromptRenderer, *, max_prompt_tokens: int) -> list[str]:
    """The `LAWS` that a row breaks; empty unless its note has characters that the vocabulary lacks.

    `max_prompt_tokens`: the limit in decoding, `max_length - max_new_tokens`. A row that is `beyond_reserve` has
    a shorter prompt than in decoding and is exempt from the first law.
    """
    prompt = prompt_within(record, renderer, max_prompt_tokens=max_prompt_tokens)
    fixed = renderer.all_fixed_ids
    bos = renderer.tokenizer.bos_token_id
    ids, targets, border = example.input_ids, example.targets, example.num_prompt_tokens
    trained_on = [target for target in targets if target != IGNORE_INDEX]
    controls = control_token_ids(renderer.tokenizer)
    holds = (
        example.beyond_reserve or list(example.prompt_ids) == prompt.ids,
        ids.count(bos) == fixed.count(bos) + example.note_ids.count(bos) and not (bos == ids[0] == ids[1]),
        sum(token in controls for token in ids[:border]) == sum(token in controls for token in fixed)
        and not controls.intersection(example.note_ids[:-1]),
        targets == (*[IGNORE_INDEX] * (border - 1), *ids[border:], IGNORE_INDEX),
        trained_on.count(renderer.stop_token_id) == 1 and trained_on[-1] == renderer.stop_token_id,
        renderer.decode(trained_on) == record.answer.strip(),
    )
    return [law for law, is_met in zip(LAWS, holds, strict=True) if not is_met]


def show_example(example: Example, record: Record, renderer: PromptRenderer, *, colour: bool) -> str:
    """The row as text: a headline, its tokens in order, and the positions around the first and the last target."""
    headline = (
        f"row id {show_id(example.id)}, {_about(record)}{example.num_tokens} tokens, of which "
        f"{example.num_prompt_tokens} prompt and {example.num_targets} trained on (note and stop token); "
        f"{example.num_turns_dropped} turns dropped"
    )
    return f"{headline}\n\n{_tokens(example, renderer, colour=colour)}\n\n{_border(example, renderer)}\n"


def _about(record: Record) -> str:
    section = record.section_header or record.parts.get("division", "")
    return f"section {escape(section)}: " if section else ""


def main(argv: Sequence[str] | None = None, *, out: TextIO | None = None) -> None:
    """Print the first rows of a file. Raises InputError for input that training would refuse, or if a law is broken."""
    out = out or sys.stdout
    values = _parse(argv)
    counts = {name: getattr(values, name) for name in ("num_examples", "max_new_tokens")}
    problems = [f"--{name} {count}: at least 1" for name, count in counts.items() if count < 1]
    problems += revision_problems(values.model_name_or_path, values.model_revision)
    raise_all(problems + template_kwargs_problems(values.chat_template_kwargs))
    data = column_settings(values, run=values.run)
    source = read_source(values.train_file, columns=columns_of(data))
    if data.shows_images:
        from medsum_core.images.rows import with_image_keys

        source = with_image_keys(source, values.train_file.parent)
    for notice in source.notices:
        print(notice, file=out)
    records = [record for record in source.records if not record.fault][: values.num_examples]
    # Takes seconds: only after the file is known to be good.
    from medsum_core.model.base import load_config, load_tokenizer

    tokenizer = load_tokenizer(values.model_name_or_path, revision=values.model_revision, offline=values.offline)
    of_prompt = {"prompt_style": values.prompt_style, "chat_template_kwargs": values.chat_template_kwargs}
    settings = replace(data, **of_prompt).prompt_settings
    if data.shows_images:
        place = {"revision": values.model_revision, "offline": values.offline}
        settings = with_image_tokens(settings, load_config(values.model_name_or_path, **place), tokenizer)
    renderer = build_renderer(tokenizer, **settings)
    check_prompt(renderer)
    examples, report = build_examples(
        records, renderer, max_length=values.max_length, max_new_tokens=values.max_new_tokens
    )
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    by_id = {record.id: record for record in records}
    broken: list[str] = []
    for example in examples:
        record = by_id[example.id]
        budget = values.max_length - values.max_new_tokens
        laws = broken_laws(example, record, renderer, max_prompt_tokens=budget)
        broken += [f"row id {show_id(example.id)} breaks a law: {law}" for law in laws]
        print(show_example(example, record, renderer, colour=colour), file=out)
    for line in report.lines():
        print(line, file=out)
    if broken:
        raise InputError("\n".join([*broken, "this model's tokenizer can't be trained with on such rows"]))
    print(f"checked on {len(examples)} rows, with a {renderer.style} prompt:", file=out)
    for law in LAWS:
        print(f"  holds: {law}", file=out)


def _tokens(example: Example, renderer: PromptRenderer, *, colour: bool) -> str:
    trained_on = (False, *(target != IGNORE_INDEX for target in example.targets[:-1]))
    pieces = [_token_text(renderer, token) for token in example.input_ids]
    if not colour:
        marked = (f"«{piece}»" if trained else f"{piece}|" for piece, trained in zip(pieces, trained_on, strict=True))
        return "".join(marked)
    greens = (_GREEN, _BRIGHT_GREEN)
    return "".join(
        f"{greens[position % 2]}{piece}{_RESET}" if trained else f"{piece}{_DIM}|{_RESET}"
        for position, (piece, trained) in enumerate(zip(pieces, trained_on, strict=True))
    )


def _border(example: Example, renderer: PromptRenderer) -> str:
    """Input and target token at the positions where the note begins and ends."""
    lines = [f"{'position':>8}  {'reads':<32}should predict"]
    start, end, around = example.num_prompt_tokens - 1, example.num_tokens, _ROWS_AROUND_THE_BORDER
    shown = sorted({*range(max(0, start - around), min(end, start + around)), *range(max(start, end - around), end)})
    for before, position in zip([shown[0] - 1, *shown], shown, strict=False):
        if position != before + 1:
            lines.append(f"{'...':>8}")
        target = example.targets[position]
        predicted = "-" if target == IGNORE_INDEX else f"{target} {_token_text(renderer, target)!r}"
        reads = f"{example.input_ids[position]} {_token_text(renderer, example.input_ids[position])!r}"
        lines.append(f"{position:>8}  {reads:<32}{predicted}")
    return "\n".join(lines)


def _token_text(renderer: PromptRenderer, token: int) -> str:
    """A token's text, control characters escaped; for a part of a character, the vocabulary's entry."""
    if token < 0:
        return "<image>"
    text = renderer.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\ufffd" in text:
        text = str(renderer.tokenizer.convert_ids_to_tokens(token))
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in str(text))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = PathParser(
        prog="python -m medsum_core.preview", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--train_file", type=Path, required=True, metavar="FILE", help="the rows: CSV, TSV, JSONL or JSON"
    )
    parser.add_argument("--num_examples", type=int, default=3, metavar="N", help="rows to show (default: %(default)s)")
    parser.add_argument(
        "--model_name_or_path", default="embedded:gemma3-270m", metavar="NAME", help="model whose tokenizer is used"
    )
    parser.add_argument("--model_revision", metavar="REV", help="branch, tag or commit of a hub model")
    parser.add_argument("--offline", action="store_true", help=OFFLINE_HELP)
    parser.add_argument("--prompt_style", choices=PROMPT_STYLES, default="auto", help="as in train_loop.py")
    parser.add_argument("--chat_template_kwargs", metavar="JSON", help="as in train_loop.py")
    parser.add_argument(
        "--max_length", type=int, default=1024, metavar="N", help="of prompt and note, in tokens (1024)"
    )
    parser.add_argument(
        "--max_new_tokens", type=int, default=256, metavar="N", help="room for the note, in tokens (256)"
    )
    parser.add_argument("--run", metavar="DIR", help="a run folder: its columns and section, unless others are given")
    add_column_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_as_script(main))
