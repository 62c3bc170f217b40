"""Checks of a model folder before a library reads it, and that the loaded weights are all those of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from medsum_core.errors import InputError, reason
from medsum_core.files import read_with_retries
from medsum_core.model.local_files import shard_names

FolderPart = Literal["config", "tokenizer", "weights"]
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
READ_SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt")
TOKENIZER_FILES = re.compile(
    r"tokenizer\.json|tekken\.json|vocab\.(json|txt)|.*\.model|.*\.tiktoken|.*\.vocab|spiece\.model|added_tokens\.json"
)
CODE_CARRIERS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# Weights that a text model does not use: towers for images and sound, extra prediction layers, and constants that old
# versions of transformers saved.
LEFT_ASIDE = re.compile(
    r"(^|\.)(vision_\w+|visual|audio_\w+|multi_modal_projector|mm_projector|embed_vision|embed_audio|mtp)(\.|$)"
    r"|\.rotary_emb\.inv_freq$|\.attn(ention)?\.(masked_)?bias$"
)
NAMES_SHOWN, NAME_LENGTH = 3, 80


def check_model_folder(folder: Path, part: FolderPart) -> None:
    """Raise InputError if that part of the folder is absent, damaged, in 8 bits, a git-lfs pointer or no regular file.

    Reading a pipe could block for ever; 8-bit floats are useless without their scales; transformers makes an empty
    tokenizer if its files are missing. Only the headers of weight files are read.
    """
    paths = sorted(read_with_retries(folder, lambda: list(folder.iterdir())))
    for path in paths:
        if path.is_fifo() or path.is_char_device() or path.is_block_device():
            raise InputError(f"--model_name_or_path {folder}: {path.name} is no file but a pipe or a device")
        if path.suffix in READ_SUFFIXES and path.is_file() and _begins_with(path, LFS_POINTER):
            raise InputError(
                f"--model_name_or_path {folder}: {path.name} is a git-lfs pointer, not the file itself; run 'git lfs "
                "pull' in that folder or download it again"
            )
    if not (folder / "config.json").is_file():
        raise InputError(f"--model_name_or_path {folder}: no model folder, there is no config.json in it")
    if part == "tokenizer" and not any(TOKENIZER_FILES.fullmatch(path.name) for path in folder.iterdir()):
        raise InputError(f"--model_name_or_path {folder}: there is no tokenizer in it (such as tokenizer.json)")
    if part == "weights":
        _check_weight_files(folder)


def check_weights(model: nn.Module, report: Mapping[str, Any], *, name: str) -> None:
    """Raise InputError unless the files held exactly the model's weights, each in its shape.

    `report`: transformers' `output_loading_info`. transformers itself continues with random weights for missing ones,
    and does not compare the shapes of weights that it quantises.
    """
    shapes = [(key, tuple(found), tuple(wanted)) for key, found, wanted in report["mismatched_keys"]]
    shapes += _quantised_of_another_shape(model)
    problems = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(key for key in report["unexpected_keys"] if not LEFT_ASIDE.search(key)),
        "of another shape": sorted(f"{key[:NAME_LENGTH]} {found} instead of {wanted}" for key, found, wanted in shapes),
        "not converted": [reason(ValueError(message)) for message in report.get("error_msgs") or ()],
    }
    if any(problems.values()):
        lists = "; ".join(f"{len(names)} {kind} ({_shown(names)})" for kind, names in problems.items() if names)
        raise InputError(
            f"--model_name_or_path {name}: its weights are not those of {type(model).__name__}: {lists}; a weight that "
            "is not there would be a random one. Take the model as its makers published it"
        )


def _check_weight_files(folder: Path) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        others = sorted(path.name for pattern in CODE_CARRIERS for path in folder.glob(pattern))
        why = f"only {_shown(others)}, a format that can run code when it is read" if others else "no weights"
        raise InputError(f"--model_name_or_path {folder}: {why}; weights must be *.safetensors")
    if absent := _absent_shards(folder):
        raise InputError(f"--model_name_or_path {folder}: {len(absent)} files of weights are absent ({_shown(absent)})")
    for path in paths:
        try:
            dtypes = read_with_retries(path, partial(_dtypes, path))
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"--model_name_or_path {folder}: {path.name} can't be read as safetensors, is it cut short? "
                f"({reason(error)}); download it again"
            ) from error
        if small := sorted(dtype for dtype in dtypes if dtype.startswith("F8")):
            raise InputError(
                f"--model_name_or_path {folder}: {path.name} holds weights in 8 bits ({', '.join(small)}); name the "
                "base in 16 or 32 bits (--load_in_4bit quantises it here)"
            )


def _dtypes(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping


def _absent_shards(folder: Path) -> list[str]:
    """The files that the index names and the folder lacks."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return []
    try:
        names = shard_names(index)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--model_name_or_path {folder}: {SAFE_WEIGHTS_INDEX_NAME} is no index of weights") from error
    return [name for name in names if not (folder / Path(name).name).is_file()]


def _quantised_of_another_shape(model: nn.Module) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """(name, shape in the file, the model's) of 4-bit weights."""
    wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for key, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and isinstance(module, nn.Linear):
            wanted = (module.out_features, module.in_features)
            if tuple(state.shape) != wanted:
                wrong.append((f"{key}.weight", tuple(state.shape), wanted))
    return wrong


def _shown(names: Sequence[str]) -> str:
    shown = [name if " " in name else name[:NAME_LENGTH] for name in names[:NAMES_SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > NAMES_SHOWN else "")


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False  # the code that needs the file reports the error
