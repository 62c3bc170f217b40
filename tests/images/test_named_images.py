"""The named data set VQA-RAD, with fictional files in its format: its images are cached, trained on and answered."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from image_models import random_image, save_image_base
from public_files import serve
from tiny_run import exit_code

import infer
from medsum_core.data import download
from medsum_core.data.columns import Columns
from medsum_core.data.download import PinnedFile
from medsum_core.data.named.registry import find_dataset, named_table
from medsum_core.data.named.sets import vqa_rad
from medsum_core.data.records import source_from_table
from medsum_core.errors import InputError
from medsum_core.images.rows import with_image_keys
from medsum_core.tasks.find import find_task


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    random_image(seed).save(file, "JPEG")
    return file.getvalue()


def parquet(*rows: tuple[int, str, str]) -> bytes:
    """As on the hub: an image is a struct of its bytes and a path, which is null."""
    shown = [{"image": {"bytes": jpeg(seed), "path": None}, "question": q, "answer": a} for seed, q, a in rows]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(shown), file)
    return file.getvalue()


FILES = {
    vqa_rad.FILES["train"]: parquet(*((n % 2, f"is it {n}?", ("yes", "no")[n % 2]) for n in range(6))),
    vqa_rad.FILES["test"]: parquet((0, "where is it?", "left"), (2, "is it?", "no")),
}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, tmp_path, "vqa-rad", FILES)


@pytest.mark.usefixtures("served")
def test_images_are_cached_byte_for_byte_and_once() -> None:
    table = named_table("vqa-rad", "train")
    assert [row.cells["qid"] for row in table.rows] == [f"train-{n}" for n in range(6)]
    assert [(row.cells["question"], row.cells["answer"]) for row in table.rows[:2]] == [
        ("is it 0?", "yes"),
        ("is it 1?", "no"),
    ]
    folder = find_dataset("vqa-rad").folder
    assert {path.read_bytes() for path in (folder / "images").iterdir()} == {jpeg(0), jpeg(1)}
    assert (folder / table.rows[3].cells["image"]).read_bytes() == jpeg(1)
    source = source_from_table(table, columns=Columns(task=find_task("vqa-rad")))
    key = hashlib.sha256(jpeg(0)).hexdigest()
    assert with_image_keys(source, folder).records[2].parts == {"image": key, "question": "is it 2?"}
    (folder / "images" / key).write_bytes(b"damaged")
    named_table("vqa-rad", "train", offline=True)
    assert (folder / "images" / key).read_bytes() == jpeg(0)


@pytest.mark.usefixtures("served")
def test_offline_the_file_is_read_from_the_path_that_the_message_names() -> None:
    with pytest.raises(InputError, match=r"not in the cache .* or save file:.* as /") as caught:
        named_table("vqa-rad", "train", offline=True)
    path = Path(str(caught.value).rpartition(" as ")[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(FILES[vqa_rad.FILES["train"]])
    assert len(named_table("vqa-rad", "train", offline=True).rows) == 6


def test_vqa_rad_is_fetched_from_the_hub_at_the_pinned_commit() -> None:
    pin = vqa_rad.DATASET
    path = vqa_rad.FILES["train"]
    found = PinnedFile(repository=pin.repository, commit=pin.commit, path=path, sha256=pin.sha256[path], is_on_hub=True)
    assert found.url == f"{download.HUB}flaviagiammarino/vqa-rad/resolve/{pin.commit}/{path}"


@pytest.mark.usefixtures("served")
def test_a_file_without_images_is_refused() -> None:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": ["x"], "question": ["Jane?"]}), file)
    for data in (b"PAR1 no", file.getvalue()):
        with pytest.raises(InputError, match="not a Parquet file with images") as caught:
            vqa_rad.read({vqa_rad.FILES["test"]: data}, source="s", config="default", split="test")
        assert "Jane" not in str(caught.value)


@pytest.mark.usefixtures("served")
def test_a_run_is_trained_on_vqa_rad_and_answers_its_test_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run, out = save_image_base(tmp_path / "model"), tmp_path / "run", tmp_path / "out.csv"
    flags = f"""--model_name_or_path {base} --task vqa-rad --dataset_name vqa-rad --output_dir {run} --precision fp32
        --max_length 240 --max_new_tokens 16 --load_in_4bit false --max_steps 1 --report_rows 0 --eval_strategy no"""
    assert exit_code(flags.split()) == 0
    messages = capsys.readouterr().err
    assert "trained on split train, validated on split test" in messages
    assert "1 validation rows show an image that training rows show too: ids test-0" in messages
    infer.main(["--run", str(run), "--dataset_name", "vqa-rad", "--split", "test", "--output_file", str(out)])
    with out.open() as file:
        assert [(row["id"], row["set_aside"]) for row in csv.DictReader(file)] == [("test-0", ""), ("test-1", "")]
    other = flags.replace("--dataset_name vqa-rad", "--dataset_name owner/images").replace(str(run), str(run) + "2")
    assert exit_code(other.split()) == 2
    assert "images are read from files" in capsys.readouterr().err
