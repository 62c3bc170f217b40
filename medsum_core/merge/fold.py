"""Merge an adapter into its 16-bit base and save the result only if it gives the outputs of base and adapter.

It is never merged into 4 bits: quantising the sum again would change the model by far more than the merge does.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.checkpoint.fingerprints import tokenizer_fingerprint
from medsum_core.config.run_folder import FolderLock
from medsum_core.data.prompt import PromptRenderer
from medsum_core.errors import InputError
from medsum_core.files import sweep, system_errors
from medsum_core.merge.arguments import REASON_4BIT
from medsum_core.merge.both_spellings import put_chat_template, spell_config, spell_tokenizer_config
from medsum_core.merge.parity import NoteLogits, Parity, ParityError, compare_logits
from medsum_core.merge.sentencepiece_file import sentencepiece_bytes
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.local_files import SENTENCEPIECE, TOKENIZER_JSON
from medsum_core.quiet_libraries import quiet_libraries

CONFIG_NAME = "config.json"  # of the model: without it transformers loads no folder


def fold(model: PeftModel) -> PreTrainedModel:
    """PEFT's W + s B A: summed in fp32, rounded once to the base's dtype. Changes the base, removes the adapter.

    Raises InputError for weights in 4 bits.
    """
    if any(hasattr(parameter, "quant_state") for parameter in model.parameters()):
        raise InputError(REASON_4BIT)
    # safe_merge would round s B A to bf16 before the sum, and the sum again.
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=False)
    return merged.eval()


def lock_path(output: Path) -> Path:
    """The file that is locked while `output` is written."""
    return output.with_name(f".{output.name}.lock")


def save_if_equal(
    merged: PreTrainedModel,
    expected: Sequence[NoteLogits],
    output: Path,
    *,
    renderer: PromptRenderer,
    max_new_tokens: int,
    text_files: Mapping[str, Path],
    no_repeat_ngram_size: int = 0,
    chat_template: str | None = None,
) -> Parity:
    """Save to a temporary folder, load the model from it, compare its logits with `expected`, then rename the folder.

    The folder holds bf16 safetensors, the base's own `text_files` of tokenizer and processors, and a generation
    configuration with this project's stop tokens; transformers 4.57 reads it too (`both_spellings.py`). `chat_template`
    replaces the base's own (see `data/served_template.py`). Only its owner can read the folder: weights can memorise
    training data. Leaves `merged` on the CPU. Raises ParityError beyond the bounds of `parity.py` or for a tokenizer
    other than `renderer`'s, InputError if writing fails; in each case no file remains.
    """
    device, draft, lock = merged.device, None, FolderLock()
    nn.Module.to(merged, "cpu")  # a small GPU has no room for this model and the one that is loaded to compare
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.take(output, lock_file=lock_path(output))
        sweep(output.parent, re.compile(rf"\.{re.escape(output.name)}\.[a-z0-9_]{{8}}\.part"))  # as mkdtemp names them
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
        lengths = {"max_new_tokens": max_new_tokens, "no_repeat_ngram_size": no_repeat_ngram_size}
        _save(merged, draft, renderer=renderer, lengths=lengths)
        _save_text_files(draft, renderer, text_files, chat_template=chat_template)
        parity = compare_logits(load_base(str(draft), precision="bf16", offline=True, device=device), expected)
        if not parity.holds:
            raise ParityError(f"{parity.line()}; the merged model is not what base and adapter are, so it was removed")
        _rename_or_move(draft, output)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--output_dir {output}: can't be written ({reason})") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        lock.release()
    return parity


def _rename_or_move(draft: Path, output: Path) -> None:
    """Rename the folder to its target; if an empty folder can't be replaced, such as a mount point, move the files in.

    The configuration is moved last, so that no program loads an incomplete folder.
    """
    try:
        with suppress(FileNotFoundError):
            output.rmdir()  # the user may have made an empty folder
        return os.rename(draft, output)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EACCES, errno.EPERM):
            raise
    moved = [output / path.name for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG_NAME)]
    try:
        for path in moved:
            shutil.move(draft / path.name, path)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def _save(merged: PreTrainedModel, folder: Path, *, renderer: PromptRenderer, lengths: Mapping[str, int]) -> None:
    """`lengths`: those of the run's decoding; 0 stands for no rule."""
    merged.generation_config = GenerationConfig(
        do_sample=False,
        **{name: length for name, length in lengths.items() if length},
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=list(renderer.stop_token_ids),
        pad_token_id=renderer.pad_token_id,
    )
    with quiet_libraries(), system_errors():
        merged.save_pretrained(folder)
    spell_config(folder)


def _save_text_files(
    folder: Path, renderer: PromptRenderer, files: Mapping[str, Path], *, chat_template: str | None
) -> None:
    """Copy the base's own files: transformers 5 would omit `tokenizer.model` and write files that 4.57 can't read.

    A Gemma's missing `tokenizer.model` is made from its `tokenizer.json`. If the base lacks `tokenizer.json`, it is
    written by transformers from the other files.
    """
    if TOKENIZER_JSON not in files:
        with quiet_libraries(), system_errors():
            renderer.tokenizer.save_pretrained(folder)
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    if SENTENCEPIECE not in files and (pieces := sentencepiece_bytes(folder)) is not None:
        (folder / SENTENCEPIECE).write_bytes(pieces)
    spell_tokenizer_config(folder)
    if chat_template is not None:
        put_chat_template(folder, chat_template)
    written, own = load_tokenizer(str(folder), offline=True), renderer.tokenizer
    if chat_template is not None:  # of several by name only the one that was used is kept
        written.chat_template = own.chat_template
    if tokenizer_fingerprint(written) != tokenizer_fingerprint(own):
        raise ParityError("the tokenizer read from the merged folder is not the base's, so the folder was removed")
