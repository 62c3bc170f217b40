"""The merged folder's chat template builds the run's prompt in plain transformers, for a run of any task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import GEMMA_TEMPLATE, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from medsum_core.config.run_folder import read_run_config
from medsum_core.data.prompt import build_renderer
from medsum_core.merge import __main__ as command
from medsum_core.merge.__main__ import main
from medsum_core.merge.fold import save_if_equal
from medsum_core.merge.parity import MAX_DIFFERENCE, NoteLogits
from medsum_core.model.adapter_files import adapter_config, adapter_tensors, load_adapter, save_adapter
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.local_files import text_files

PARTS = {
    "section": {"section_header": "GENHX", "dialogue": "Doctor: Any fever?\nPatient: No."},
    "section-with-header": {"dialogue": "Doctor: Any fever?\nPatient: No."},
    "visit": {"division": "objective exam", "dialogue": "[doctor] hi , martha .\n[patient] hi ."},
    "pubmedqa": {"question": "Does it\nhelp?", "context": "It was tried.\n\nIt helped 7 of 9."},
    "medquad": {"question": "What is a goitre ?"},
}
SOURCES = {"pubmedqa": "context", "medquad": "question"}


@pytest.fixture(scope="module")
def of_task(run: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that makes a run of a task and style; its adapter is small, so that rounding changes little."""

    def make(task: str, style: str) -> Path:
        folder = tmp_path_factory.mktemp("of") / "run"
        shutil.copytree(run, folder)
        model = load_adapter(load_base(str(base), precision="bf16"), run / "adapter", base_name=str(base))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(0.1)
        save_adapter(folder / "adapter", adapter_tensors(model), adapter_config(model))
        values = json.loads((folder / "config.json").read_text())
        values["settings"]["data"] |= {"task": task, "prompt_style": style, "no_repeat_ngram_size": 12}
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return make


@pytest.mark.parametrize(
    ("task", "style"), [("visit", "chat"), ("pubmedqa", "chat"), ("medquad", "plain"), ("section-with-header", "plain")]
)
def test_a_merged_models_template_builds_the_prompt_of_its_task(
    of_task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, style: str
) -> None:
    run, out = of_task(task, style), tmp_path / "merged"
    main(["--run", str(run), "--output_dir", str(out), "--num_prompts", "2"])
    assert "chat_template.jinja writes this run's prompt" in capsys.readouterr().out
    settings = read_run_config(run).data.prompt_settings
    renderer = build_renderer(load_tokenizer(str(out)), **settings)
    assert (renderer.task.name, renderer.style) == (task, style)
    arguments = dict(PARTS[task])
    message = [{"role": "user", "content": arguments.pop(SOURCES.get(task, "dialogue"))}]
    asked = {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    ids = AutoTokenizer.from_pretrained(out).apply_chat_template(message, **asked, **arguments)
    assert ids == renderer.prompt_ids(PARTS[task])
    written = GenerationConfig.from_pretrained(out)
    assert written.eos_token_id == list(renderer.stop_token_ids)
    assert (written.do_sample, written.no_repeat_ngram_size) == (False, 12)
    assert written.max_new_tokens == read_run_config(run).data.max_new_tokens


def test_if_no_template_builds_the_prompt_the_bases_own_is_kept_with_a_notice(
    of_task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "merged"
    served = command.served_template
    monkeypatch.setattr(command, "served_template", lambda renderer: served(renderer).replace("Dialogue:", "Dialog:"))
    main(["--run", str(of_task("section", "chat")), "--output_dir", str(out), "--num_prompts", "1"])
    captured = capsys.readouterr()
    assert (
        "no chat_template.jinja of this run's prompt" in captured.err and "writes this run's prompt" not in captured.out
    )
    assert AutoTokenizer.from_pretrained(out).chat_template == GEMMA_TEMPLATE


def test_the_merged_folder_has_no_other_template(tmp_path: Path) -> None:
    """Older bases have named templates in `tokenizer_config.json`; processors have one in `chat_template.json`."""
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    (base / "chat_template.jinja").unlink()
    config = base / "tokenizer_config.json"
    named = [{"name": "default", "template": GEMMA_TEMPLATE}, {"name": "rag", "template": "{{ 1 }}"}]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": named}))
    (base / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 2 }}"}))
    model, row = tiny_model(dtype=torch.bfloat16), (2, 40, 41)
    with torch.no_grad():
        logits = load_logits(model, row)
    expected = [NoteLogits(token_ids=row, logits_TV=logits)]
    renderer = build_renderer(AutoTokenizer.from_pretrained(base))
    where = {"text_files": text_files(str(base)), "max_new_tokens": 8, "chat_template": "{{ messages }}"}
    parity = save_if_equal(model, expected, tmp_path / "merged", renderer=renderer, **where)
    assert parity.largest_logit_difference <= MAX_DIFFERENCE * parity.logit_range
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == "{{ messages }}"
    assert "chat_template" not in json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
    assert not (tmp_path / "merged" / "chat_template.json").exists()


def load_logits(model: torch.nn.Module, row: tuple[int, ...]) -> torch.Tensor:
    logits = model.float()(torch.tensor([row])).logits[0]
    model.to(torch.bfloat16)
    return logits
