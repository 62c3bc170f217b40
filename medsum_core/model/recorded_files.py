"""The sha256 of the base's and adapter's files: recorded by a run, compared when its adapter is used.

Files on disk are hashed, not weights in memory: a run in NF4 is merged in bf16, and another GPU may load the same base
in another precision.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from medsum_core.config.run_folder import ADAPTER_FOLDER, ADAPTER_RECORD_NAME, read_run_facts
from medsum_core.errors import InputError, differing_names
from medsum_core.files import file_sha256, read_plain_file, write_text_atomic
from medsum_core.model.adapter_files import adapter_hashes
from medsum_core.model.embedded import embedded_identity, is_embedded
from medsum_core.model.local_files import INSTEAD_OF_JSON, TOKENIZER_FILES, TOKENIZER_JSON, local_file, shard_names

Value = TypeVar("Value")
SMALL_FILES = (CONFIG_NAME, *TOKENIZER_FILES)
BYTES_WORTH_A_LINE = 1 << 30  # hashing takes about a second a GiB
BASE_FILES = "base_files"  # its key in the run's config.json


def base_files(name: str, *, revision: str | None = None, offline: bool = False) -> dict[str, str]:
    """File name -> sha256 (hex) of the base's weights, configuration and tokenizer.

    name: a hub id, a folder or `embedded:...`, as in `load_base`; an embedded model is known by what it was converted
    from. Weights that are not here yet are downloaded, unless `offline`. Raises InputError if a file can't be read.
    """
    if is_embedded(name):
        return embedded_identity(name)
    try:
        paths = {file: local_file(name, file, revision=revision) for file in SMALL_FILES}
        paths |= _weights(name, revision, offline=offline)
        found = _that_are_read({file: path for file, path in paths.items() if path is not None})
        size = sum(path.stat().st_size for path in found.values())
        if size > BYTES_WORTH_A_LINE:
            print(f"{name}: hashing {size / 2**30:.1f} GiB, to know this base again", file=sys.stderr)
        return {file: file_sha256(path) for file, path in found.items()}
    except OSError as error:
        raise InputError(f"--model_name_or_path {name}: a file can't be read ({error.strerror or error})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"--model_name_or_path {name}: {SAFE_WEIGHTS_INDEX_NAME} is damaged") from error


def record_adapter(run_folder: Path, hashes: Mapping[str, str]) -> None:
    """Write the hashes that `save_adapter` returned to the run folder. Raises OSError."""
    text = json.dumps(dict(hashes), indent=2, sort_keys=True) + "\n"
    write_text_atomic(run_folder / ADAPTER_RECORD_NAME, text)


def check_run(
    run_folder: str | Path,
    current_base: Mapping[str, str],
    *,
    base_name: str,
    allow_other_base: bool,
    with_adapter: bool = True,
    moved: bool = False,
) -> None:
    """Compare base and adapter with the hashes that the run recorded.

    current_base: `base_files` of the present base. with_adapter: False for a checkpoint, which has its own hashes.
    moved: the base is at another location than in the run, so it can be recognised by its hashes only. Raises
    InputError naming each file that differs; with `allow_other_base` files of the base are only reported. What an older
    version did not record is reported in one line.
    """
    folder = Path(run_folder)
    recorded_base = read_run_facts(folder).get(BASE_FILES)
    unknown = ["base"] * (recorded_base is None)
    if with_adapter and not _adapter_is_recorded(folder):
        unknown.append("adapter")
    if unknown:
        print(
            f"{folder}: made by an older version, which recorded no hash of its {' and '.join(unknown)}; not checked",
            file=sys.stderr,
        )
    if recorded_base is None and moved and not allow_other_base:
        raise InputError(
            f"--model_name_or_path {base_name}: {folder} has no hash to know its base by. Pass --allow_other_base if "
            "this is it"
        )
    names = [] if recorded_base is None else differing_names(_that_are_read(recorded_base), current_base)
    if names and not allow_other_base:
        raise InputError(
            f"the base {base_name} is not the one that {folder} was trained over: {', '.join(names)} differs (sha256). "
            "Restore it, or pass --allow_other_base if you mean this one"
        )
    if names:
        print(f"another base than the run's, as allowed: {', '.join(names)} differs", file=sys.stderr)


def _adapter_is_recorded(folder: Path) -> bool:
    """Compare the run's adapter with its record; False without one. Raises InputError where they differ."""
    recorded = _adapter_record(folder)
    if recorded is not None and (names := differing_names(recorded, adapter_hashes(folder / ADAPTER_FOLDER))):
        raise InputError(
            f"{folder / ADAPTER_FOLDER}: {', '.join(names)} is not as training wrote it: damaged, or of another run. "
            f"Restore it, or delete {ADAPTER_RECORD_NAME} if you changed it yourself"
        )
    return recorded is not None


def _that_are_read(files: Mapping[str, Value]) -> dict[str, Value]:
    """The files without other tokenizer files if there is a `tokenizer.json`: transformers reads that alone.

    A merge, or another program, may download the others into the hub's cache after the run was recorded.
    """
    unread = INSTEAD_OF_JSON if TOKENIZER_JSON in files else ()
    return {name: value for name, value in files.items() if name not in unread}


def _adapter_record(folder: Path) -> dict[str, str] | None:
    path = folder / ADAPTER_RECORD_NAME
    try:
        values = json.loads(read_plain_file(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged; restore it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not the hashes of an adapter; restore it")
    return values


def _weights(name: str, revision: str | None, *, offline: bool) -> dict[str, Path | None]:
    """The one file, or the index and its shards, as transformers chooses between them."""
    for may_ask in (False,) if offline or Path(name).is_dir() else (False, True):
        if whole := local_file(name, SAFE_WEIGHTS_NAME, revision=revision, may_ask=may_ask):
            return {SAFE_WEIGHTS_NAME: whole}
        if index := local_file(name, SAFE_WEIGHTS_INDEX_NAME, revision=revision, may_ask=may_ask):
            shards = shard_names(index)
            found = {shard: local_file(name, shard, revision=revision, may_ask=may_ask) for shard in shards}
            if all(found.values()):
                return {SAFE_WEIGHTS_INDEX_NAME: index, **found}
    return {}
