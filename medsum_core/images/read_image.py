"""Read an image, JPEG, PNG or DICOM, as 8-bit RGB. Only pixels are returned, nothing of a header.

Unreadable files raise ImageError, whose message names no file: a file's name may contain a patient's.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medsum_core.files import read_plain_file

FORMATS = ("JPEG", "PNG")
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 64_000_000  # a mammogram has 25 million; a small file may decompress to any number
MAX_SCANS = 100  # progressive JPEGs have 10; each scan takes time for all pixels, but only 50 bytes in the file
SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")  # its header, for 1 to 4 components
DICOM_MARK = slice(128, 132)
# What Pillow raises for files that are damaged, cut off or made to break a reader.
FAULTS: tuple[type[Exception], ...] = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, MemoryError,
    AttributeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class ImageError(Exception):
    """An image can't be used; the message completes "its image ..."."""


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises ImageError where it is absent, no plain file or too large."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"is a file of more than {MAX_FILE_BYTES >> 20} MiB")
        return read_plain_file(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError(f"can't be read ({getattr(error, 'strerror', None) or 'no such name'})") from None


def key_of(data: bytes) -> str:
    """The key of an image: the sha256 (hex) of its file's bytes."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, *, dicom: bool = True, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole image, upright, RGB. Greys of 16 bits keep their upper 8. Raises ImageError."""
    if dicom and data[DICOM_MARK] == b"DICM":
        return _from_dicom(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bomb, which is refused below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size, max_pixels)
                if image.format != "PNG" and len(SCAN.findall(data)) > MAX_SCANS:
                    raise ImageError(f"is a JPEG of more than {MAX_SCANS} scans")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        kinds = "JPEG, PNG nor DICOM" if dicom else "JPEG nor PNG"
        raise ImageError(f"is neither {kinds}, or its beginning is damaged") from None
    except FAULTS as error:
        raise ImageError(_what(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    if width * height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels, more than {max_pixels:,}")


def _what(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    return "is truncated" if "truncated" in str(error) else f"is damaged ({type(error).__name__})"


def _from_dicom(data: bytes) -> Image.Image:
    try:
        import pydicom
    except ImportError:
        raise ImageError("is DICOM, which needs pydicom: pip install 'medsum-core[dicom]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values of the header
            return Image.fromarray(_dicom_pixels(pydicom.dcmread(io.BytesIO(data)))).convert("RGB")
    except ImageError:
        raise
    except FAULTS + (NotImplementedError, RuntimeError) as error:  # noqa: RUF005 - mypy
        raise ImageError(f"is DICOM that can't be read ({type(error).__name__})") from None


def _dicom_pixels(dataset: Any) -> np.ndarray[Any, Any]:
    """The pixels as a viewer shows them first: modality transform, first window, low values dark; uint8.

    The window is the linear function of DICOM PS3.3, C.11.2.1.2.1; without one, the values are spread from least to
    largest. Raises ImageError for several frames, and where the header says that text is burned into the pixels.
    """
    from pydicom.pixels.processing import apply_modality_lut, convert_color_space

    if str(dataset.get("BurnedInAnnotation", "NO")).upper() == "YES":
        raise ImageError("is DICOM with annotations burned into its pixels, which may name a patient")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise ImageError("is DICOM of several frames: export the one to read")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    space = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel", 1)) == 3:
        pixels = dataset.pixel_array if space == "RGB" else convert_color_space(dataset.pixel_array, space, "RGB")
        return np.asarray(pixels, dtype=np.uint8)
    values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), dtype=np.float64)
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width > 1:
        shares = (values - (centre - 0.5)) / (width - 1) + 0.5
    else:
        shares = (values - values.min()) / max(values.max() - values.min(), 1e-12)
    shares = shares.clip(0, 1)
    greys: np.ndarray[Any, Any] = np.rint(255 * (1 - shares if space == "MONOCHROME1" else shares)).astype(np.uint8)
    return greys


def _first(value: Any) -> float | None:
    """Of several windows the first; None where there is none."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        return float(values[0])
    except (IndexError, TypeError, ValueError):
        return None
