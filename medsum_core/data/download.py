"""MTS-Dialog's four official files at a pinned commit.

They are cached in the user's cache folder and checked against their sha256 before each use.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from medsum_core.errors import InputError
from medsum_core.files import cache_folder, file_sha256, make_cache_folder, write_bytes_atomic

MTS_COMMIT = "3ff0801933608d6f570468c13125125fb5cabdea"
MTS_SOURCE = f"https://raw.githubusercontent.com/abachaa/MTS-Dialog/{MTS_COMMIT}/Main-Dataset/"
MTS_FILES = {
    "train": (
        "MTS-Dialog-TrainingSet.csv",
        "65a28681dd59fc159681ea026e44610f2af7bc64a0e7f892d763eb03d9f503dc",
    ),
    "valid": (
        "MTS-Dialog-ValidationSet.csv",
        "227206520c4534381c0d7fba6d3f09319a9af5a6d9603a93c0341af1198e3958",
    ),
    "test1": (
        "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
        "b4d38dd2c99b2e9860099abcf653f1e0f3e9b69f9fcc45be2a2699b37a4d2f37",
    ),
    "test2": (
        "MTS-Dialog-TestSet-2-MEDIQA-Sum-2023.csv",
        "226644466ed3af82382b327a3e684aab70aa605b96cfd93b04f584f1826ab1a6",
    ),
}
TIMEOUT_SECONDS = 30
MAX_FILE_BYTES = 16 << 20  # the largest official file has about 1 MiB


def mts_dialog_file(split: str, *, offline: bool = False) -> Path:
    """The path of an official MTS-Dialog file (`train`, `valid`, `test1` or `test2`), downloaded on its first use.

    Raises InputError for an unknown split, a file that is absent or damaged while `offline`, an unreachable source and
    a download that is not the pinned file. The file appears in the cache whole or not at all.
    """
    if split not in MTS_FILES:
        raise InputError(f"MTS-Dialog has no split {split!r}: choose one of {', '.join(MTS_FILES)}")
    name, sha256 = MTS_FILES[split]
    path = cache_folder() / "mts-dialog" / MTS_COMMIT[:12] / name
    if path.is_file() and file_sha256(path) == sha256:
        return path
    remedy = f"run once with a network and without --offline, or get {MTS_SOURCE}{name} and name it as a file"
    if offline:
        state = "damaged" if path.is_file() else "not in the cache"
        raise InputError(f"{name} of MTS-Dialog is {state} ({path}) and --offline forbids the download: {remedy}")
    data = _download(MTS_SOURCE + name, remedy=remedy)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{MTS_SOURCE}{name}: the download is not the pinned file (sha256 differs); it was discarded")
    make_cache_folder(path.parent)
    try:
        write_bytes_atomic(path, data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None
    return path


def _download(url: str, *, remedy: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            data: bytes = response.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or type(error).__name__
        raise InputError(f"{url}: cannot be reached ({reason}): {remedy}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{url}: more than {MAX_FILE_BYTES >> 20} MiB came, so it is not the pinned file: {remedy}")
    return data
