"""Build the prompt's token ids. Training and decoding use the same function.

A prompt is a concatenation of pieces, each tokenized on its own; for a section of a note:

    fixed | " " + section name | fixed | dialogue | fixed        then the note and its stop token

The fixed pieces come from the task (instruction, labels) and the chat template: they are tokenized once, with control
tokens. The other parts come from the user's data: they are tokenized as plain text, so that "<end_of_turn>" in a
dialogue is thirteen characters and never a control token. Pieces join at newlines or before a space, where the tested
tokenizers (Gemma, GPT-2 style) split anyway; with another tokenizer, training and decoding still use identical ids.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from medsum_core.data.chat_template import (
    FLAG,
    PromptFault,
    check_template_kwargs,
    day_fault,
    open_thinking,
    render,
    template_text,
    thinking_names,
)
from medsum_core.data.image_tokens import AROUND, ImageTokens, split_keys
from medsum_core.errors import InputError, raise_all
from medsum_core.tasks.built_in.section import TASK as SECTION
from medsum_core.tasks.section_names import section_name
from medsum_core.tasks.task import Part, Task

PROMPT_STYLES = ("auto", "chat", "plain")

NEWLINE = "\n"
_NOTE_SLOT = "NOTESLOT"


@dataclass(frozen=True, kw_only=True)
class PromptRenderer:
    """Turns the parts of a record and its answer into token ids. Made by `build_renderer`, once per run.

    `fixed_ids`: the fixed pieces before each part of the task, and after the last. `stop_token_id`: the first token
    after the note, which is trained on. `stop_token_ids` end decoding: `stop_token_id` and `<eos>`. `pad_token_id` may
    be one of them: padding is recognised by length, never by id. `cut_names`: names of added tokens that are not marked
    as special, so that the tokenizer would produce them from any text; data is cut inside of these names to prevent it.
    `fixed_texts`: the text of each of `fixed_ids`. `day_fault`: set where the prompt depends on the date.
    """

    tokenizer: PreTrainedTokenizerBase
    task: Task
    style: str
    fixed_ids: tuple[tuple[int, ...], ...]
    stop_token_id: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    cut_names: tuple[str, ...] = ()
    fixed_texts: tuple[str, ...] = ()
    day_fault: PromptFault | None = None
    images: ImageTokens | None = None  # how images are represented, where the task has some

    @property
    def all_fixed_ids(self) -> list[int]:
        """The fixed pieces, joined: every control token of a prompt is among them."""
        return [token for piece in self.fixed_ids for token in piece]

    def prompt_ids(self, parts: Mapping[str, str]) -> list[int]:
        """The prompt's ids, from the template's BOS (if it writes one) to the token before the answer.

        `parts`: texts by the names of the task's parts. Raises InputError for an empty part of form "line".
        """
        ids = list(self.fixed_ids[0])
        for part, after in zip(self.task.parts, self.fixed_ids[1:], strict=True):
            ids += self._part_ids(part, parts[part.name])
            ids += after
        return ids

    def _part_ids(self, part: Part, text: str) -> list[int]:
        if part.form == "images":
            assert self.images is not None
            return self.images.ids(split_keys(text))
        if part.form == "block":
            return self.text_ids(text.strip())
        line = " ".join((section_name(text) if part.is_section else text).split())
        if line:
            return self.text_ids(f" {line}")
        if part.is_section:
            raise InputError("a section header is empty: give an MTS code (GENHX) or a name (Family history)")
        raise InputError(f"the part {part.name!r} of a row is empty")

    def note_ids(self, note: str) -> list[int]:
        """The ids of the stripped note, then `stop_token_id`."""
        return [*self.text_ids(note.strip()), self.stop_token_id]

    def note_offsets(self, note: str) -> list[tuple[int, int]]:
        """The characters `[start, end)` in `note` of each of `note_ids` except the stop token.

        Raises InputError for a tokenizer without offsets (one without a Rust backend).
        """
        if not self.tokenizer.is_fast:
            raise InputError("this model's tokenizer has no character offsets: facts can't be left out of the loss")
        before, offsets = len(note) - len(note.lstrip()), []
        for piece in self._pieces(note.strip()):
            encoding = self._encode(piece, return_offsets_mapping=True)
            offsets += [(start + before, end + before) for start, end in encoding["offset_mapping"]]
            before += len(piece)
        return offsets

    def text_ids(self, text: str) -> list[int]:
        """Ids of text from the user's data: without BOS; names of control tokens in it are tokenized as plain text."""
        return [token for piece in self._pieces(text) for token in self._encode(piece)["input_ids"]]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """The note of the ids: all text before the first stop token, stripped."""
        length = next((i for i, token in enumerate(ids) if token in self.stop_token_ids), len(ids))
        text = self.tokenizer.decode(list(ids[:length]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def _pieces(self, text: str) -> list[str]:
        """The text, cut after the first character of each of `cut_names`."""
        if not any(name in text for name in self.cut_names):
            return [text]
        inside = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in self.cut_names)
        return re.split("|".join(inside), text)

    def _encode(self, text: str, **options: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


class BuildRenderer(Protocol):
    """Another prompt: pass one to `train_loop.main` and to `infer.main`."""

    def __call__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        style: str,
        template_kwargs: Mapping[str, Any] | None = None,
        task: Task = SECTION,
        images: ImageTokens | None = None,
    ) -> PromptRenderer:
        """The renderer for a tokenizer; `style` is `--prompt_style`.

        `template_kwargs`, `task`: from `--chat_template_kwargs` and `--task`. `images`: how the model represents
        images, passed only for tasks that have some. A function that is never used with one of these may lack it.
        """
        ...


def build_renderer(
    tokenizer: PreTrainedTokenizerBase,
    *,
    style: str = "auto",
    task: Task = SECTION,
    instruction: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    images: ImageTokens | None = None,
) -> PromptRenderer:
    """The renderer for a tokenizer. `auto` is `chat` where it has a chat template, and `plain` where it has none.

    chat: the model's own turns; the note ends with the token that its template writes after an assistant's message.
    plain: BOS (if it has one), instruction and dialogue as text; the note ends with `<eos>`: a pretrained base was
    never trained on turn tokens. `instruction`: what the prompt begins with, in place of the task's.
    `template_kwargs`: variables for the chat template. `images`: needed for a task with images (`image_tokens`).
    Raises InputError where the tokenizer or its template can't be used this way.
    """
    variables = template_kwargs or {}
    task = task if instruction is None else replace(task, instruction=instruction)
    if style not in PROMPT_STYLES:
        raise InputError(f"--prompt_style {style}: choose one of {', '.join(PROMPT_STYLES)}")
    if style == "auto":
        style = "chat" if tokenizer.chat_template else "plain"
    if style == "chat" and not template_text(tokenizer):
        raise InputError("--prompt_style chat: this model's tokenizer has no chat template; use plain (or auto)")
    if style == "plain" and variables:
        raise InputError(f"{FLAG}: a plain prompt uses no chat template; leave it out")
    pieces = _chat_pieces(tokenizer, task, variables) if style == "chat" else _plain_pieces(tokenizer, task)
    if task.images_part is not None:
        if images is None:
            raise InputError(
                f"the task {task.name} shows images: pass build_renderer `images`, how the model represents them"
            )
        before, after, *others = pieces  # images come first
        pieces = [f"{before}{AROUND}{images.start}", f"{images.end}{AROUND}{after}", *others]
    stop_ids = _stop_ids(tokenizer, task, style=style, template_kwargs=variables)
    pad_id = tokenizer.pad_token_id
    renderer = PromptRenderer(
        tokenizer=tokenizer,
        task=task,
        style=style,
        fixed_ids=tuple(_fixed_ids(tokenizer, piece) for piece in pieces),
        stop_token_id=stop_ids[0],
        stop_token_ids=stop_ids,
        pad_token_id=stop_ids[0] if pad_id is None else int(pad_id),
        cut_names=tuple(sorted(thinking_names("".join(pieces)) | _unmarked_names(tokenizer, "".join(pieces)))),
        fixed_texts=tuple(pieces),
        day_fault=day_fault(tokenizer, _messages(task), variables) if style == "chat" else None,
        images=images,
    )
    _refuse_forgeable(renderer, "".join(pieces))
    return renderer


def prompt_faults(renderer: PromptRenderer) -> list[PromptFault]:
    """Why no new run may use this prompt: it depends on the date, or it ends inside a thinking block, where a note
    would be learnt, and parsed, as thoughts. Empty for a suitable prompt."""
    tail = renderer.tokenizer.decode(list(renderer.fixed_ids[-1]), clean_up_tokenization_spaces=False)
    faults = [] if renderer.day_fault is None else [renderer.day_fault]
    if name := open_thinking(str(tail)):
        faults.append(
            PromptFault(
                what=f"this model's prompt ends inside a block of thinking ({name}), where a note would be read as "
                "thoughts",
                remedy=f"give {FLAG} '{{\"enable_thinking\": false}}', or the name that its template reads instead, or "
                "--prompt_style plain",
            )
        )
    return faults


def _print_error(line: str) -> None:
    print(line, file=sys.stderr)


def check_prompt(renderer: PromptRenderer, *, is_new: bool = True, warn: Callable[[str], None] = _print_error) -> None:
    """Raise InputError with all of `prompt_faults`; for a run that has started (not `is_new`), only `warn` of them."""
    faults = prompt_faults(renderer)
    raise_all(list(map(str, faults)) if is_new else [])
    for fault in faults:
        warn(fault.notice)


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of every token that the tokenizer marks as special."""
    return {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _slot(task: Task, part: Part) -> str:
    """The placeholder of a part while the chat template is rendered; mixed case reveals templates that change case.

    By number, since one placeholder must not contain another: parts may be named `history` and `past_history`.
    """
    return f"Slot{task.parts.index(part)}Text"


def _content(task: Task) -> str:
    """The user's message of a task, with a slot for each part."""
    images = "".join(_slot(task, part) for part in task.parts if part.form == "images")
    others = [part for part in task.parts if part.form != "images"]
    parts = (f"{part.label}{' ' if part.form == 'line' else NEWLINE}{_slot(task, part)}" for part in others)
    return "\n\n".join([images + task.instruction, *parts])


def _messages(task: Task) -> list[dict[str, str]]:
    return [{"role": "user", "content": _content(task)}]


def _plain_pieces(tokenizer: PreTrainedTokenizerBase, task: Task) -> list[str]:
    return _split_at_slots(f"{tokenizer.bos_token or ''}{_content(task)}\n\n{task.answer.label}\n", task)


def _chat_pieces(tokenizer: PreTrainedTokenizerBase, task: Task, template_kwargs: Mapping[str, Any]) -> list[str]:
    messages = _messages(task)
    check_template_kwargs(tokenizer, messages, template_kwargs)
    rendered = render(tokenizer, messages, template_kwargs=template_kwargs, add_generation_prompt=True)
    return _split_at_slots(rendered, task)


def _split_at_slots(text: str, task: Task) -> list[str]:
    """The text before each part, and after the last; the space before a part on a line is tokenized with the part."""
    pieces = []
    for part in task.parts:
        name = _slot(task, part)
        before, slot, text = text.partition(f" {name}" if part.form == "line" else name)
        if not slot or name in text:
            raise InputError(
                "this model's chat template changes or repeats the user's message: use --prompt_style plain"
            )
        pieces.append(before)
    return [*pieces, text]


def _stop_ids(
    tokenizer: PreTrainedTokenizerBase, task: Task, *, style: str, template_kwargs: Mapping[str, Any]
) -> tuple[int, ...]:
    """The ids that end decoding; the first one is trained on (end of turn for chat, `<eos>` for plain)."""
    turn_end, eos = _turn_end(tokenizer, task, template_kwargs), tokenizer.eos_token
    if style == "chat" and turn_end is None:
        raise InputError("this model's chat template writes no control token after a message: use --prompt_style plain")
    if style == "plain" and eos is None:
        raise InputError("this model's tokenizer names no end-of-text token, so a plain note could never be ended")
    names = (turn_end, eos) if style == "chat" else (eos, turn_end)
    return tuple(dict.fromkeys(_named_id(tokenizer, name) for name in names if name is not None))


def _turn_end(tokenizer: PreTrainedTokenizerBase, task: Task, template_kwargs: Mapping[str, Any]) -> str | None:
    """The control token that the chat template writes right after an assistant's message; None where it writes none."""
    messages = [*_messages(task), {"role": "assistant", "content": _NOTE_SLOT}]
    try:
        rendered = render(tokenizer, messages, template_kwargs=template_kwargs) if tokenizer.chat_template else ""
    except InputError:  # `_chat_pieces` reports it where the template is needed
        return None
    ids = _fixed_ids(tokenizer, rendered.rpartition(_NOTE_SLOT)[2].lstrip())
    return str(tokenizer.convert_ids_to_tokens(ids[0])) if ids and ids[0] in control_token_ids(tokenizer) else None


def _unmarked_names(tokenizer: PreTrainedTokenizerBase, text: str) -> set[str]:
    """Added tokens in a template's text that are not marked as special (DeepSeek's turns), if they can be cut."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if not token.special)
    return {name for name in added if len(name.strip()) > 1 and name in text}


def _named_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a control token looked up by its name: a name that is not in the vocabulary maps to `<unk>`."""
    token_id: Any = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or (token_id == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise InputError(
            f"{token!r} should end a note, but this model's tokenizer has no such token: use another model"
        )
    return int(token_id)


def _fixed_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"])


def _refuse_forgeable(renderer: PromptRenderer, fixed_text: str) -> None:
    """Raise InputError if the name of a control token in a dialogue would be tokenized as that control token.

    Control tokens are those marked as special, those that end decoding, and all added tokens that the template writes
    except white space, for which Gemma has added tokens too.
    """
    tokenizer = renderer.tokenizer
    added = tokenizer.added_tokens_decoder
    turn_marks = {index for index, token in added.items() if token.content.strip() and token.content in fixed_text}
    guarded = control_token_ids(tokenizer) | set(renderer.stop_token_ids) | turn_marks
    names = {index: str(tokenizer.convert_ids_to_tokens(index)) for index in sorted(guarded)}
    forged = guarded.intersection(renderer.text_ids(" ".join(names.values())))
    if forged:
        shown = ", ".join(names[index] for index in sorted(forged)[:5])
        raise InputError(
            f"this model's tokenizer lets a dialogue forge its control tokens ({shown}): use another model"
        )
