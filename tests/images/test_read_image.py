"""Image files, whole and damaged, and the files in which their features are cached."""

from __future__ import annotations

import io
import stat
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_models import SIZE, image_model, image_processor_of_tiny, random_image, save_image_base, save_images
from PIL import Image

from medsum_core.data.image_tokens import BLANK_KEY
from medsum_core.data.records import Record, SourceRows
from medsum_core.errors import InputError
from medsum_core.images.embedding import give_features
from medsum_core.images.features import image_features, show_images
from medsum_core.images.read_image import MAX_PIXELS, ImageError, decode, read_bytes
from medsum_core.images.rows import with_image_keys
from medsum_core.model.forward import inner_model


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header names any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    assert decode(encoded(random_image(1).convert(mode))).mode == "RGB"
    assert np.array_equal(np.asarray(decode(encoded(random_image(1)))), np.asarray(random_image(1)))


def test_16_bit_greys_keep_their_upper_8_bits() -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    read = np.asarray(decode(encoded(Image.fromarray(values))))
    assert np.array_equal(read[..., 0], values >> 8)


def test_a_photograph_is_turned_upright() -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert decode(encoded(image, "JPEG", exif=exif)).size == (10, 20)


def test_exif_data_that_pillow_cannot_write_is_damage() -> None:
    """A camera's make that is a fraction makes Pillow raise AttributeError when it turns the image upright."""
    entries = struct.pack("<HHHII", 2, 0x010F, 5, 1, 38) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<III", 0, 1, 2)
    assert refusal(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)) == "is damaged (AttributeError)"


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused_as_such_wherever_it_ends(format: str) -> None:
    whole = encoded(random_image(2, side=64), format)
    for share in (0.3, 0.6, 0.9):
        assert refusal(whole[: int(share * len(whole))]) == "is truncated"


def test_too_many_pixels_other_formats_and_damage_have_different_messages() -> None:
    assert f"more than {MAX_PIXELS:,}" in refusal(png_that_claims(30_000, 3_000))
    assert f"more than {MAX_PIXELS:,}" in refusal(png_that_claims(2**31 - 1, 2**31 - 1))
    for data in (encoded(Image.new("RGB", (9, 9)), "GIF"), encoded(Image.new("RGB", (9, 9)), "TIFF"), b"", b"text"):
        assert refusal(data) == "is neither JPEG, PNG nor DICOM, or its beginning is damaged"
    damaged = bytearray(encoded(random_image(3)))
    damaged[60:90] = bytes(30)
    assert refusal(bytes(damaged)).startswith(("is damaged", "is truncated"))


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_unpacked() -> None:
    """A scan takes 50 bytes of the file and a pass over all pixels: a request of allowed size could take half an hour."""
    whole = encoded(random_image(4, side=64), "JPEG", progressive=True)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    assert decode(whole[:end] + 80 * whole[last:end] + whole[end:]).size == (64, 64)
    assert refusal(whole[:end] + 100 * whole[last:end] + whole[end:]) == "is a JPEG of more than 100 scans"
    assert decode(whole + 200 * b"\xff\xda\x12").size == (64, 64)  # a video after the image, as phones append it


def test_what_is_not_a_readable_file_is_refused_without_its_name(tmp_path: Path) -> None:
    for path in (tmp_path / "Jane_Doe.png", tmp_path, Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(ImageError) as caught:
            read_bytes(path)
        assert "Jane" not in str(caught.value)


def rows(*paths: str) -> SourceRows:
    records = [Record(id=str(n), parts={"image": path, "question": "?"}) for n, path in enumerate(paths)]
    return SourceRows(name="f", records=records, notices=())


def test_rows_identify_images_by_their_content(tmp_path: Path) -> None:
    keys = list(save_images(tmp_path / "img", 2))
    (tmp_path / "copy.png").write_bytes((tmp_path / "img" / "0.png").read_bytes())
    read = with_image_keys(rows("img/0.png", " img/1.png ;img/0.png;", "copy.png"), tmp_path)
    assert [row.parts["image"] for row in read.records] == [keys[0], f"{keys[1]};{keys[0]}", keys[0]]
    assert set(read.image_paths) == set(keys)
    assert not any(row.fault for row in read.records)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_base(tmp_path_factory.mktemp("base"))


def shown(base: Path, paths: dict[str, Path], folder: Path, *, keep: bool = True):
    model = image_model()
    show_images(model, paths, base_name=str(base), folder=folder, keep=keep, offline=True)
    return model


def test_cached_features_equal_those_from_pixels_and_are_private(base: Path, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "img", 2)
    expected = {
        key: image_features(image_model(), image_processor_of_tiny(), random_image(seed))
        for seed, key in enumerate(paths)
    }
    for keep in (True, True, False):  # computed and written, read back, computed without writing
        model = shown(base, paths, tmp_path / "features", keep=keep)
        features = inner_model(model).get_input_embeddings().image_features
        assert all(torch.equal(features[key], expected[key]) for key in paths)
        assert set(features) == {*paths, BLANK_KEY}
        assert model.model.vision_tower is None
    files = list((tmp_path / "features").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_damaged_feature_file_is_refused_and_made_anew(base: Path, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "img", 1)
    (key,) = paths
    model = shown(base, paths, tmp_path / "features")
    features = inner_model(model).get_input_embeddings().image_features
    before = features[key]
    (file,) = (tmp_path / "features").glob(f"{key}-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged or gone"):
        features[key]
    again = inner_model(shown(base, paths, tmp_path / "features")).get_input_embeddings().image_features
    assert torch.equal(again[key], before)


def test_another_tower_or_dtype_has_feature_files_of_its_own(base: Path, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "img", 1)
    shown(base, paths, tmp_path / "features")
    other = image_model(seed=1)
    show_images(other, paths, base_name=str(base), folder=tmp_path / "features", offline=True)
    assert len(list((tmp_path / "features").iterdir())) == 4
    half = image_model().to(torch.bfloat16)
    show_images(half, paths, base_name=str(base), folder=tmp_path / "features", offline=True)
    assert len(list((tmp_path / "features").iterdir())) == 6


def test_an_image_that_has_changed_and_an_unknown_one_are_errors(base: Path, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "img", 1)
    ((key, path),) = paths.items()
    random_image(9).save(path)
    with pytest.raises(InputError, match="has changed since its row was read"):
        shown(base, paths, tmp_path / "features")
    model = image_model()
    give_features(model, {}, size=SIZE)
    with pytest.raises(KeyError):
        inner_model(model).get_input_embeddings()(torch.tensor([[-1 - int(key[:12], 16) * SIZE]]))


def dicom(values: np.ndarray, **fields: object) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    standard = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0}
    standard |= {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "Rows": 4, "Columns": 4}
    for name, value in {**standard, "PatientName": "Doe^Jane", **fields}.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.astype(np.uint16).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


VALUES = np.arange(16).reshape(4, 4) * 200


def test_dicom_is_read_as_a_viewer_shows_it() -> None:
    greys = np.asarray(decode(dicom(VALUES)))[..., 0]
    assert np.array_equal(greys, np.rint(255 * VALUES / VALUES.max()).astype(np.uint8))
    inverted = np.asarray(decode(dicom(VALUES, PhotometricInterpretation="MONOCHROME1")))[..., 0]
    assert np.array_equal(inverted, 255 - greys)
    # Slope 2, intercept -1000: a window of 1001 around 500 goes from values of 500 (stored) to 1000.
    window = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [500, 40], "WindowWidth": [1001, 80]}
    read = np.asarray(decode(dicom(VALUES, **window)))[..., 0]
    expected = np.rint(255 * ((2 * VALUES - 1000 - 499.5) / 1000 + 0.5).clip(0, 1))
    assert np.array_equal(read, expected.astype(np.uint8))


def test_dicom_with_burned_in_text_several_frames_or_damage_is_refused() -> None:
    assert "burned into its pixels" in refusal(dicom(VALUES, BurnedInAnnotation="YES"))
    assert "several frames" in refusal(dicom(VALUES, NumberOfFrames=3))
    assert "more than" in refusal(dicom(VALUES, Rows=60000, Columns=60000))
    truncated = dicom(VALUES)[:-8]
    assert refusal(truncated).startswith("is DICOM that can't be read")
    assert "Doe" not in refusal(truncated)


def test_without_pydicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'medsum-core[dicom]'" in refusal(bytes(128) + b"DICM" + bytes(50))
