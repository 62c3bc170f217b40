"""`gpu_day.py` on the CPU: sections and their errors, what is counted, and the table made from the files."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[2]
MIXED = """
import pytest
def test_passes(): pass
def test_fails(): assert False
def test_is_skipped(): pytest.skip("why not")
@pytest.fixture
def broken():
    yield
    raise OSError
def test_with_a_failing_clean_up(broken): pass
"""


@pytest.fixture
def gpu_day(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    AcceleratorState._reset_state(reset_partial_state=True)
    yield importlib.import_module("gpu_day")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def parse(gpu_day: Any, tmp_path: Path) -> Callable[..., Any]:
    def options(*more: str) -> Any:
        flags = ["--device", "cpu", "--tiny", "--figures", str(tmp_path / "figures"), "--folder", str(tmp_path), *more]
        return gpu_day.parse([*flags, "--commit", "1234567"])

    return options


def test_a_section_that_fails_is_recorded_and_the_others_run(
    gpu_day: Any, parse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, kernels: str, dequantize: str) -> Any:
        raise MemoryError(f"{kernels} {dequantize}")

    training, seen = gpu_day.sections.__globals__["training"], []
    options = parse("--sections", "train_fast", "train_reference_dequantized", "decode")

    def here(name: str, options: Any, seconds: float) -> Any:
        seen.append(sorted(json.loads(path.read_text())["seconds"] for path in options.figures.glob("*.json")))
        fake = fails if name == "train_fast" else training
        with monkeypatch.context() as patch:
            patch.setitem(gpu_day.sections.__globals__, "training", fake)
            return gpu_day.in_this_process(name, options, seconds)

    path = gpu_day.measure(options, command=["benchmarks/gpu_day.py"], run=here)
    assert path.name.startswith("cpu-") and path.name.endswith("-1234567.json")
    assert [len(found[0]) if found else 0 for found in seen] == [0, 1, 2, 3, 4]  # written as each section ended
    day = json.loads(path.read_text())
    assert day["errors"] == {"train_fast": "MemoryError"}
    assert list(day["figures"]) == ["machine", "model", "train_reference_dequantized", "decode"]
    assert list(day["seconds"]) == ["machine", "model", "train_fast", "train_reference_dequantized", "decode"]
    (window,) = day["figures"]["train_reference_dequantized"]["windows"]
    assert window["tokens"] == 256 and len(window["seconds"]) == 3
    assert window["tokens_per_second"] * window["median_seconds"] == pytest.approx(256)
    assert 0 < window["share_of_peak"] < 1 and window["peak_bytes"] > 0 < window["estimate_bytes"]
    assert day["figures"]["train_reference_dequantized"]["profile"]["launches"] is None  # a CPU has no launches
    notes = day["figures"]["decode"]["2"]
    assert list(notes) == ["generate_2", "fast", "reference"]
    assert all(found["tokens_per_second"] > 0 for found in notes.values())


def test_outcomes_of_tests_are_counted(gpu_day: Any, parse: Callable[..., Any], tmp_path: Path) -> None:
    mixed, broken = tmp_path / "test_mixed.py", tmp_path / "test_broken.py"
    mixed.write_text(MIXED)
    found = gpu_day.in_a_process("tests", parse("--tests", str(mixed)), 60)
    counts = [found[name] for name in ("passed", "failed", "skipped", "not_run")]
    assert counts == [1, 2, 1, 0]
    assert [name.split("::")[1] for name in found["failures"]] == ["test_fails", "test_with_a_failing_clean_up"]
    broken.write_text("import no_such_module")
    assert gpu_day.in_a_process("tests", parse("--tests", str(broken)), 60)["uncollected"] == ["test_broken.py"]


def test_no_section_outlives_its_time(gpu_day: Any, parse: Callable[..., Any]) -> None:
    assert gpu_day.in_a_process("machine", parse(), 0.05) == {"error": "TimeoutExpired"}
    section = gpu_day.sections()["decode"]
    asked: list[float] = []

    def run(name: str, options: Any, seconds: float) -> dict[str, Any]:
        asked.append(seconds)
        return {}

    assert gpu_day.run_section("decode", section, parse(), 5.0, run) == {"error": "NoTimeLeft"}
    gpu_day.run_section("decode", section, parse(), 20.0, run)
    gpu_day.run_section("decode", section, parse(), 500.0, run)
    assert asked == [20.0, section.seconds]


def test_tiny_and_cpu_figures_need_a_folder_of_their_own(gpu_day: Any) -> None:
    for flag in (["--tiny"], ["--device", "cpu"]):
        with pytest.raises(SystemExit):
            gpu_day.parse(flag)


def event(name: str, start: int, end: int, *, device: str = "DeviceType.CPU", note: bool = False) -> Any:
    times = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=times, device_type=device, is_user_annotation=note)


def test_launches_waits_and_busy_share_are_counted_in_the_marked_part(gpu_day: Any) -> None:
    counts = importlib.import_module("gpu_day_counts")
    gpu = {"device": "DeviceType.CUDA"}
    events = [
        event("cudaLaunchKernel", 5, 6),  # before the mark
        event("window", 10, 50, note=True),
        event("aten::mm", 11, 20),
        event("cudaLaunchKernel", 12, 13),
        event("cuLaunchKernelEx", 14, 15),
        event("cudaMemcpyAsync", 16, 17),
        event("cudaStreamSynchronize", 17, 30),
        event("cudaDeviceSynchronize", 51, 60),  # the profiler's own
        event("gemm", 20, 40, **gpu),
        event("copy", 80, 90, **gpu),
        event("window", 20, 90, note=True, **gpu),
    ]
    found = counts.count_events(events)
    assert (found["launches"], found["waits"], found["waited_for"]) == (3, 1, ["cudaStreamSynchronize"])
    assert found["busy_share"] == pytest.approx(30 / 80)


def a_day(card: str, **figures: Any) -> dict[str, Any]:
    about = {"card": card, "torch": "2.11", "date": "2030-01-02", "commit": "abcdef0", "tiny": False}
    return about | {"figures": figures, "errors": {"decode": "NoTimeLeft"}}


def test_the_pages_table_is_up_to_date_and_made_from_the_files(gpu_day: Any, tmp_path: Path) -> None:
    """If the page is out of date, `python benchmarks/gpu_day.py --table` writes it."""
    page = tmp_path / "gpu.md"
    shutil.copy(gpu_day.PAGE, page)
    gpu_day.write_table(page, gpu_day.FIGURES)
    assert page.read_text() == gpu_day.PAGE.read_text()
    window = {"tokens": 4096, "tokens_per_second": 12_345.6, "share_of_peak": 0.404, "peak_bytes": 3 << 29}
    window |= {"estimate_bytes": 2 << 30}
    trained = {"windows": [window, {"error": "OutOfMemoryError"}], "profile": {"launches": 2899, "waits": 1}}
    days = tmp_path / "figures"
    days.mkdir()
    (days / "one.json").write_text(json.dumps(a_day("Tesla T4", train_fast=trained)))
    (days / "two.json").write_text(json.dumps(a_day("cpu") | {"tiny": True}))
    gpu_day.write_table(page, days)
    rows = [line.split(" | ") for line in page.read_text().split(" begin -->")[1].split("<!--")[0].split("\n") if line]
    assert [row[0] for row in rows[2:]] == ["| H100, H200", "| A100", "| RTX 30, 40, 50", "| Tesla T4, torch 2.11"]
    assert all(cell.rstrip(" |") == "not yet run" for row in rows[2:5] for cell in row[1:])
    t4 = dict(zip((cell.strip("| ") for cell in rows[0]), (cell.strip("| ") for cell in rows[5]), strict=True))
    assert t4["day, commit"] == "2030-01-02, abcdef0"
    assert t4["fast"].startswith(
        "12,346 tokens/s in windows of 4,096, 40% of the product's peak; 1.5 GiB, estimated 2.0"
    )
    assert t4["fast"].endswith("; 2899 launches, 1 waits")
    assert (t4["reference"], t4["decoding"]) == ("not yet run", "NoTimeLeft")
