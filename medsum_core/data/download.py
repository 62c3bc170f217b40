"""Single files of public repositories, pinned by commit and sha256.

They are cached in the user's cache folder and checked against their sha256 before each use.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medsum_core.errors import InputError
from medsum_core.files import cache_folder, file_sha256, make_cache_folder, write_bytes_atomic

SOURCE = "https://raw.githubusercontent.com/"
HUB = "https://huggingface.co/datasets/"
TIMEOUT_SECONDS = 30
MAX_FILE_BYTES = 32 << 20  # the largest pinned file has 23 MiB


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """A file of a GitHub repository (`owner/name`) at a commit, and the sha256 that its content must have.

    `is_on_hub`: the repository is a data set on the Hugging Face hub instead.
    """

    repository: str
    commit: str
    path: str
    sha256: str
    is_on_hub: bool = False

    @property
    def url(self) -> str:
        if self.is_on_hub:
            return f"{HUB}{self.repository}/resolve/{self.commit}/{self.path}"
        return f"{SOURCE}{self.repository}/{self.commit}/{self.path}"


def pinned_file(pin: PinnedFile, *, offline: bool = False) -> Path:
    """The path of the file in the cache, downloaded on its first use.

    Raises InputError for a file that is absent or damaged while `offline`, an unreachable source and a download with
    another sha256. The file is written to the cache atomically.
    """
    name = PurePosixPath(pin.path).name
    path = commit_folder(pin.repository, pin.commit) / name
    if path.is_file() and file_sha256(path) == pin.sha256:
        return path
    remedy = f"run once with a network and without --offline, or save {pin.url} as {path}"
    if offline:
        state = "damaged" if path.is_file() else "not in the cache"
        raise InputError(f"{name} of {pin.repository} is {state} ({path}) and --offline forbids the download: {remedy}")
    data = _download(pin.url, remedy=remedy)
    if hashlib.sha256(data).hexdigest() != pin.sha256:
        raise InputError(f"{pin.url}: the download is not the pinned file (sha256 differs); it was discarded")
    make_cache_folder(path.parent)
    write_to_cache(path, data)
    return path


def write_to_cache(path: Path, data: bytes) -> None:
    """Write a file atomically to an existing cache folder. Raises InputError where that fails."""
    try:
        write_bytes_atomic(path, data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None


def commit_folder(repository: str, commit: str) -> Path:
    """The cache's folder for the files of a commit; it may not exist yet."""
    return cache_folder() / repository.rpartition("/")[2].lower() / commit[:12]


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
