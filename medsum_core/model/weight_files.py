"""What a model folder may hold before a library reads it: plain files, and weights that are numbers by themselves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from medsum_core.errors import InputError
from medsum_core.files import read_patiently


def check_model_folder(folder: Path, *, with_weights: bool) -> None:
    """Raise InputError for a pipe or a device in the folder, and for weights that are damaged or in 8 bits.

    A pipe would be waited for without end. 8-bit floats mean something only with the scales they were made with.
    Only the headers of weights are read.
    """
    paths = sorted(read_patiently(folder, lambda: list(folder.iterdir())))
    for path in paths:
        if path.is_fifo() or path.is_char_device() or path.is_block_device():
            raise InputError(f"--model_name_or_path {folder}: {path.name} is no file but a pipe or a device")
    for path in [path for path in paths if path.suffix == ".safetensors"] if with_weights else ():
        try:
            dtypes = read_patiently(path, partial(_dtypes, path))
        except (OSError, SafetensorError) as error:
            raise InputError(f"--model_name_or_path {folder}: {path.name} can't be read as safetensors") from error
        if small := sorted(dtype for dtype in dtypes if dtype.startswith("F8")):
            raise InputError(
                f"--model_name_or_path {folder}: {path.name} holds weights in 8 bits ({', '.join(small)}); name the "
                "base in 16 or 32 bits (--load_in_4bit quantises it here)"
            )


def _dtypes(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
