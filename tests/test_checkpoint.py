"""Checkpoints: whole or not at all, every byte verified, the one before used, nothing executed, bit-exact on the way back."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from medsum_core.adapter import adapter_config, adapter_tensors, load_adapter_tensors
from medsum_core.checkpoint import (
    FILES,
    Progress,
    checkpoint_of_step,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from medsum_core.compat import (
    base_fingerprint,
    check_compatible,
    environment_fingerprint,
    run_fingerprints,
)
from medsum_core.errors import InputError
from medsum_core.model import keep_4bit_differentiable, trainable_parameters
from medsum_core.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from medsum_core.rng import capture_rng, restore_rng
from medsum_core.sealed_folder import MANIFEST, SaveError

ROOT = Path(__file__).parent.parent
ALL_FILES = (*FILES, MANIFEST)


def save(
    folder: Path, step: int, *, keep_last: int = 2, best_step: int | None = None, window: int = 0, **kw: Any
) -> Path:
    generator = torch.Generator().manual_seed(step)
    parts: dict[str, Any] = {
        "adapter_tensors": {"layer.lora_A.weight": torch.randn(4, 3, generator=generator).t()},
        "adapter_config": {"r": 4},
        "optimizer_tensors": {"layer.state1": torch.randint(0, 255, (12,), dtype=torch.uint8, generator=generator)},
        "optimizer_scalars": {"optimizer": "adamw_torch", "steps": {"layer": step}},
        "rng": [{"torch": "00"}],
        "scaler": {"scale": 65536.0},
        "fingerprints": {"base": "b"},
        "resolved": {"precision": "fp32"},
    }
    progress = Progress(step=step, epoch=0, window=window or step, best_metric=0.1 + 0.2, best_step=best_step)
    return save_checkpoint(folder, progress=progress, keep_last=keep_last, **{**parts, **kw})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is stored comes back ---------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_and_is_private(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        path = save(tmp_path / "checkpoints", 3)
    finally:
        os.umask(former)
    found = load_checkpoint(path)
    assert path.name == "step-000003"
    assert found.progress == Progress(step=3, epoch=0, window=3, best_metric=0.1 + 0.2)
    expected = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).t()
    assert torch.equal(found.adapter_tensors["layer.lora_A.weight"], expected)
    assert found.optimizer_tensors["layer.state1"].dtype == torch.uint8
    assert (found.adapter_config, found.rng, found.resolved) == ({"r": 4}, [{"torch": "00"}], {"precision": "fp32"})
    assert (found.optimizer_scalars["steps"], found.scaler) == ({"layer": 3}, {"scale": 65536.0})
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}
    assert names(path) == sorted(ALL_FILES)


def test_every_generator_continues_where_it_was() -> None:
    random.gauss(0, 1)  # leaves a second value cached
    np.random.standard_normal()
    state = json.loads(json.dumps(capture_rng()))

    def draw() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), np.random.standard_normal(5).tolist(), torch.randn(5).tolist()

    first = draw()
    restore_rng(state)
    assert draw() == first


@pytest.mark.parametrize("missing", ["python", "numpy", "torch"])
def test_a_missing_generator_is_an_error(missing: str) -> None:
    state = capture_rng()
    del state[missing]
    with pytest.raises(InputError, match="random state"):
        restore_rng(state)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return folder


def nf4_model(base_folder: Path) -> PeftModel:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(base_folder, quantization_config=quantization, dtype=torch.float32)
    keep_4bit_differentiable(base)
    torch.manual_seed(7)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    return get_peft_model(
        base, LoraConfig(r=16, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
    ).train()


def train_some(model: PeftModel, optimizer: torch.optim.Optimizer, num_steps: int) -> list[float]:
    losses = []
    for _ in range(num_steps):
        ids = torch.randint(0, 512, (2, 12))  # drawn from the restored generator, as dropout is
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_nf4_with_dropout_and_8bit_state_continues_bit_for_bit(base_folder: Path, tmp_path: Path) -> None:
    def start() -> tuple[PeftModel, torch.optim.Optimizer, list[str]]:
        model = nf4_model(base_folder)
        trained = trainable_parameters(model)
        optimizer = build_optimizer(trained, name="paged_adamw_8bit", learning_rate=5e-3)
        return model, optimizer, [name for name, _ in trained]

    model, optimizer, trained_names = start()
    train_some(model, optimizer, 3)
    tensors, scalars = optimizer_state(optimizer, trained_names)
    assert {tensor.dtype for key, tensor in tensors.items() if ".state" in key} == {torch.uint8, torch.float32}
    path = save(
        tmp_path,
        3,
        adapter_tensors=adapter_tensors(model),
        adapter_config=adapter_config(model),
        optimizer_tensors=tensors,
        optimizer_scalars=scalars,
        rng=[capture_rng()],
    )
    straight_losses = train_some(model, optimizer, 4)
    straight_state, _ = optimizer_state(optimizer, trained_names)

    torch.manual_seed(99)
    resumed, second, _ = start()
    found = load_checkpoint(path)
    load_adapter_tensors(resumed, found.adapter_tensors)
    load_optimizer_state(second, trained_names, found.optimizer_tensors, found.optimizer_scalars)
    restore_rng(found.rng[0])
    assert train_some(resumed, second, 4) == straight_losses
    resumed_state, _ = optimizer_state(second, trained_names)
    straight_adapter = adapter_tensors(model)
    assert all(torch.equal(tensor, straight_adapter[name]) for name, tensor in adapter_tensors(resumed).items())
    assert straight_state.keys() == resumed_state.keys()
    assert all(torch.equal(tensor, resumed_state[name]) for name, tensor in straight_state.items())
    # PEFT's own loader takes the folder as an adapter.
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), str(path))
    assert all(torch.equal(tensor, found.adapter_tensors[name]) for name, tensor in adapter_tensors(plain).items())


# --- damage is found, the one before is used -------------------------------------------------------------------------


def check_passed_over(folder: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_checkpoint(folder, "auto")
    assert found is not None and found.name == "step-000001"
    error = capsys.readouterr().err
    assert "step-000002 is damaged" in error and damaged in error and error.count("\n") == 1
    with pytest.raises(InputError, match=re.escape(damaged)):
        find_checkpoint(folder, folder / "step-000002")


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("damage", ["deleted", "empty", "short", "long", "flipped", "folder", "link", "pipe"])
def test_every_damaged_file_is_named_and_the_one_before_used(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = file.read_bytes()
    if damage in ("deleted", "folder", "link", "pipe"):
        file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)  # even one that leads to the right bytes
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage != "deleted":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"empty": b"", "short": data[:-1], "long": data + b"\n", "flipped": flipped}[damage])
    check_passed_over(tmp_path, name, capsys)


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in ALL_FILES:
        file = path / name
        data = file.read_bytes()
        chosen = random.Random(name).sample(range(len(data) * 8), min(len(data) * 8, 250))
        for bit in chosen if name != MANIFEST else range(len(data) * 8):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(InputError, match="damaged"):
                load_checkpoint(path)
        for length in random.Random(name).sample(range(len(data)), min(len(data), 40)):
            file.write_bytes(data[:length])
            with pytest.raises(InputError, match="damaged"):
                load_checkpoint(path)
        file.write_bytes(data)
        assert load_checkpoint(path).progress.step == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "sub/file", "extra.json", ""])
def test_a_manifest_names_the_four_files_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_text())
    for changed in (
        {**manifest["files"], name: manifest["files"]["state.json"]},
        {name: manifest["files"]["state.json"]},
    ):
        text = json.dumps({"files": changed, "format": 1}, indent=1, sort_keys=True) + "\n"
        (path / MANIFEST).write_text(text)
        with pytest.raises(InputError, match=MANIFEST):
            load_checkpoint(path)


def test_a_renamed_checkpoint_is_not_taken_for_a_newer_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000009")
    found = find_checkpoint(tmp_path, "auto")
    assert found is not None and found.name == "step-000001"
    assert "step-000009" in capsys.readouterr().err


def test_none_there_and_none_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_checkpoint(tmp_path / "absent", "auto") is None
    (save(tmp_path, 1) / MANIFEST).unlink()
    assert find_checkpoint(tmp_path, "auto") is None
    assert "step-000001" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoint(tmp_path, tmp_path / "step-000007")


# --- planted files ---------------------------------------------------------------------------------------------------

PLANTED = [
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.bin",
    "scheduler.pt",
    "random_states_0.pkl",
    "rng_state.pth",
    "scaler.pt",
    "adapter_model.bin",
    "pytorch_model.bin",
    "training_args.bin",
    "custom_checkpoint_0.pkl",
    "state.pkl",
    "adapter_model.pt",
]


def code_that_plants(marker: Path) -> bytes:
    """What an unsafe loader would run: opcodes that call `os.system('touch MARKER')`."""
    return b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."


def test_planted_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    for name in PLANTED:
        (path / name).write_bytes(code_that_plants(marker))
    opened: list[str] = []
    real_open = os.open

    def watched(name: Any, *arguments: Any, **keywords: Any) -> int:
        opened.append(Path(name).name)
        return real_open(name, *arguments, **keywords)

    monkeypatch.setattr(os, "open", watched)
    assert find_checkpoint(tmp_path, "auto") == path
    assert set(opened) == set(ALL_FILES)
    assert not marker.exists()


@pytest.mark.parametrize("name", ALL_FILES)
def test_planted_code_under_our_names_is_damage(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path, 1)
    (path / name).write_bytes(code_that_plants(marker))
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    assert not marker.exists()


def test_no_code_in_the_tree_reads_formats_that_can_carry_code() -> None:
    words = [
        word[::-1]
        for word in (
            "elkcip",
            "daol.hcrot",
            "bilboj",
            "llid tropmi",
            "evlehs",
            "elkcip_wolla",
            "edoc_etomer_tsurt=eurt",
        )
    ]
    files = [path for folder in ("medsum_core", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    files += [path for path in (*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")) if path.name != Path(__file__).name]
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8").lower()
        found = [word for word in words if word in text]
        assert not found, f"{path}: {found}"


# --- retention, and what a crash leaves ------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step, keep_last=3, best_step=min(step, 2))
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006", "step-000007"]


def test_fewer_than_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_total_limit"):
        save(tmp_path, 1, keep_last=1)
    assert not names(tmp_path)


def test_an_incomplete_one_does_not_count_among_those_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-000002" / "state.json").write_bytes(b"")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000003"]


def test_a_course_that_was_left_is_removed_once_the_new_one_is_written(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    save(tmp_path, 3)  # resumed from 2
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_the_same_step_again_replaces_the_former_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5, window=5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", raise_full)
        with pytest.raises(SaveError):
            save(tmp_path, 5, window=6)
    assert load_checkpoint(tmp_path / "step-000005").progress.window == 5
    path = save(tmp_path, 5, window=6)  # a window was skipped in between
    assert names(tmp_path) == [path.name]
    assert find_checkpoint(tmp_path, "auto") == path
    assert load_checkpoint(path).progress.window == 6
    assert checkpoint_of_step(tmp_path, 5) == path and checkpoint_of_step(tmp_path, 4) is None
    assert save(tmp_path, 5, window=7).name == "step-000005"


def test_drafts_of_crashed_saves_are_ignored_and_swept(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".tmp-step-000002-999")
    assert find_checkpoint(tmp_path, "auto") == path
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000003"]


def raise_full(*_arguments: Any, **_keywords: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["mkdir", "open", "write", "fsync", "rename"])
@pytest.mark.parametrize("successes", [0, 1, 3])
def test_a_refused_save_leaves_the_old_one_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, successes: int
) -> None:
    old = save(tmp_path, 1)
    real, left = getattr(os, call), [successes]

    def refuse_later(*arguments: Any, **keywords: Any) -> Any:
        if call == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
            return real(*arguments, **keywords)  # a full disk still lets files be read
        left[0] -= 1
        return real(*arguments, **keywords) if left[0] >= 0 else raise_full()

    monkeypatch.setattr(os, call, refuse_later)
    failed = False
    try:
        save(tmp_path, 2)
    except SaveError as error:
        failed = True
        assert "No space left" in str(error) and "step-000002" in str(error)
    monkeypatch.undo()
    assert failed or (call in ("mkdir", "rename") and successes > 0)
    if failed:
        assert names(tmp_path) == ["step-000001"]
        assert find_checkpoint(tmp_path, "auto") == old
    assert load_checkpoint(save(tmp_path, 3)).progress.step == 3


def test_an_unwritable_folder_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(SaveError, match="could not write"):
        save(tmp_path / "checkpoints", 1)


def test_order_of_the_writes_files_manifest_folder_name_parent_then_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    events: list[str] = []
    opened: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "rename")}

    def watch_open(path: Any, *arguments: Any, **keywords: Any) -> int:
        descriptor = real["open"](path, *arguments, **keywords)
        opened[descriptor] = re.sub(r"-\d+$", "", Path(path).name) if Path(path).name[0] == "." else Path(path).name
        return descriptor

    def watch_fsync(descriptor: int) -> None:
        events.append(f"sync {opened[descriptor]}")
        real["fsync"](descriptor)

    def watch_rename(source: Any, target: Any) -> None:
        events.append(f"rename to {Path(target).name}")
        real["rename"](source, target)

    monkeypatch.setattr(os, "open", watch_open)
    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "rename", watch_rename)
    save(tmp_path, 3)
    expected = [f"sync {name}" for name in ALL_FILES]
    expected += ["sync .tmp-step-000003", "rename to step-000003", f"sync {tmp_path.name}"]
    assert events[:-1] == expected
    assert events[-1].startswith("rename to .tmp-removed-step-000001")


# --- what may change on resume ---------------------------------------------------------------------------------------


def record(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "settings": {"learning_rate": 2e-4, "lora_target_modules": ("q_proj",)},
        "train_data": "t",
        "validation_data": "v",
        "base": "b",
        "tokenizer": "k",
        "parameters": {"a.lora_A": torch.Size((16, 256))},
        "num_steps": 75,
        "environment": environment_fingerprint(device=torch.device("cpu"), attention="sdpa", world_size=1),
    }
    return run_fingerprints(**{**parts, **changes})


def test_the_same_run_is_compatible() -> None:
    assert check_compatible(json.loads(json.dumps(record())), record(), allow_inexact=False) == []


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"train_data": "other"}, "training data"),
        ({"validation_data": None}, "validation data"),
        ({"base": "other"}, "base model"),
        ({"tokenizer": "other"}, "tokenizer"),
        ({"parameters": {"a.lora_A": (8, 256)}}, "a.lora_A"),
        ({"parameters": {"b.lora_A": (16, 256)}}, "2 trained parameters"),
        (
            {"settings": {"learning_rate": 1e-4, "lora_target_modules": ["q_proj"]}},
            "--learning_rate was 0.0002, is 0.0001",
        ),
        ({"num_steps": 70}, "70 updates"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_what_decides_the_updates_is_refused_with_reason_and_remedy(
    change: dict[str, Any], reason: str, allow_inexact: bool
) -> None:
    with pytest.raises(InputError, match="Remedy") as caught:
        check_compatible(record(), record(**change), allow_inexact=allow_inexact)
    assert reason in str(caught.value)


def test_more_updates_are_allowed_and_said() -> None:
    (note,) = check_compatible(record(), record(num_steps=150), allow_inexact=False)
    assert "150 updates instead of 75" in note


def test_another_environment_needs_consent() -> None:
    for key in record()["environment"]:
        changed = record(environment={**record()["environment"], key: "other"})
        with pytest.raises(InputError, match="allow_inexact_resume") as caught:
            check_compatible(record(), changed, allow_inexact=False)
        assert key in str(caught.value)
        (note,) = check_compatible(record(), changed, allow_inexact=True)
        assert key in note


def test_the_environment_names_what_changes_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_fingerprint(device=torch.device("cpu"), attention="sdpa", world_size=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX999")
    after = environment_fingerprint(device=torch.device("cpu"), attention="varlen", world_size=2)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {"attention kernel", "number of processes", "CPU capability", "CPU threads"}
    assert before["torch version"] == torch.__version__


def test_the_base_fingerprint_sees_codes_and_scales_and_not_the_adapter(base_folder: Path) -> None:
    model = nf4_model(base_folder)
    before = base_fingerprint(model.named_parameters())
    assert before == base_fingerprint(nf4_model(base_folder).named_parameters())
    with torch.no_grad():
        trainable_parameters(model)[0][1].add_(1.0)
    assert base_fingerprint(model.named_parameters()) == before
    packed = next(parameter for parameter in model.parameters() if hasattr(parameter, "quant_state"))
    packed.quant_state.absmax[0] ^= 1
    assert base_fingerprint(model.named_parameters()) != before
