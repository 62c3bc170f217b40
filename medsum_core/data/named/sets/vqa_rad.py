"""VQA-RAD: 2,244 questions of clinicians about 314 radiological images, with short answers.

Lau, Gayen, Ben Abacha and Demner-Fushman, Scientific Data 2018; CC0. The official split (1,793 and 451), as a copy on
the Hugging Face hub has it in two Parquet files, without the questions' official ids. Both parts show the same images.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from medsum_core.data.download import write_to_cache
from medsum_core.data.named.dataset import ONLY_CONFIG, NamedDataset
from medsum_core.data.rows import Table
from medsum_core.data.tables import table_from_objects
from medsum_core.errors import InputError
from medsum_core.files import file_sha256, make_cache_folder

FILES = {
    "train": "data/train-00000-of-00001-eb8844602202be60.parquet",
    "test": "data/test-00000-of-00001-e5bc3d208bb4deeb.parquet",
}
IMAGES_FOLDER = "images"


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `qid, image, question, answer`; `image` is a path from the set's folder of the cache.

    The images' files are written there, once and byte for byte. Raises InputError for a file that is no such table, or
    where the cache can't be written.
    """
    import pyarrow.parquet  # a second, for this set alone

    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(files[FILES[split]])).to_pylist()
        shown = [(row["image"]["bytes"], row["question"], row["answer"]) for row in rows]
    except (pyarrow.ArrowInvalid, KeyError, TypeError):
        raise InputError(f"{source}: not a Parquet file with images, questions and answers") from None
    folder = DATASET.folder / IMAGES_FOLDER
    make_cache_folder(folder)
    names = {data: _keep(data, folder) for data in {data for data, _, _ in shown}}
    return table_from_objects(
        source,
        [
            {
                "qid": f"{split}-{number}",
                "image": f"{IMAGES_FOLDER}/{names[data]}",
                "question": question,
                "answer": answer,
            }
            for number, (data, question, answer) in enumerate(shown)
        ],
    )


def _keep(data: bytes, folder: Path) -> str:
    """The name of the image's file in the folder, written where it is not there or damaged."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / sha256
    if not (path.is_file() and file_sha256(path) == sha256):
        write_to_cache(path, data)
    return sha256


CREDIT = """\
VQA-RAD (Lau, Gayen, Ben Abacha and Demner-Fushman: *A dataset of clinically generated visual questions and answers
about radiology images*, Scientific Data 2018; [osf.io/89kps](https://osf.io/89kps)), CC0; read from the copy at
[huggingface.co/datasets/flaviagiammarino/vqa-rad](https://huggingface.co/datasets/flaviagiammarino/vqa-rad)."""

DATASET = NamedDataset(
    name="vqa-rad",
    repository="flaviagiammarino/vqa-rad",
    commit="bcf91e7654fb9d51c8ab6a5b82cacf3fafd2fae9",
    is_on_hub=True,
    configs={ONLY_CONFIG: {split: (path,) for split, path in FILES.items()}},
    sha256={
        FILES["train"]: "b07c3441467b99060e5ec412ddd05be06f86f01f23bfa3debfbbcab47874a06e",
        FILES["test"]: "eb520bdab1116dd4f420120da19049d2315389fa126d031f65ec42e153264ea7",
    },
    read=read,
    credit=CREDIT,
    validation_split="test",  # there is no other
)
