"""The path of a base's file on this machine: in its folder, the hub's cache, or an embedded model's cache folder."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.utils.hub import cached_file

from medsum_core.files import read_plain_file
from medsum_core.model.embedded import embedded_folder, is_embedded
from medsum_core.quiet_libraries import quiet_libraries

TOKENIZER_JSON, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
CHAT_TEMPLATE, OLD_CHAT_TEMPLATE = "chat_template.jinja", "chat_template.json"  # the latter: of processors
INSTEAD_OF_JSON = (SENTENCEPIECE, "vocab.json", "merges.txt")
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    *INSTEAD_OF_JSON,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE,
)
PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    OLD_CHAT_TEMPLATE,
)


def local_file(name: str, file: str, *, revision: str | None = None, may_ask: bool = False) -> Path | None:
    """A file of the base in its folder or in the hub's cache; None if it is not there.

    `may_ask`: whether it may be downloaded from the hub into the cache.
    """
    with quiet_libraries():
        path = cached_file(
            name,
            file,
            revision=revision or "main",
            local_files_only=not may_ask,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return None if path is None else Path(path)


def shard_names(index: Path) -> list[str]:
    """The files of weights that an index names, sorted.

    Raises OSError as the system does, and ValueError, LookupError, TypeError, AttributeError or RecursionError for a
    file that is no index.
    """
    return sorted({str(name) for name in json.loads(read_plain_file(index))["weight_map"].values()})


def text_files(name: str, *, revision: str | None = None, offline: bool = False) -> dict[str, Path]:
    """File name -> path of the base's tokenizer and processor files, downloaded from the hub if necessary.

    name: a hub id, a folder or `embedded:...`. Raises OSError as the system does.
    """
    if is_embedded(name):
        name = str(embedded_folder(name))
    may_ask = not offline and not Path(name).is_dir()
    names = (*TOKENIZER_FILES, *PROCESSOR_FILES)
    found = {file: local_file(name, file, revision=revision, may_ask=may_ask) for file in names}
    return {file: path for file, path in found.items() if path is not None}
