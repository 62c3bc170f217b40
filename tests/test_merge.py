"""Merging: the folded model is base and adapter, loads with plain transformers, stops at the right tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_tokenizer
from test_infer import base, run  # noqa: F401 - fixtures: a base folder, and a run over it
from transformers import AutoModelForCausalLM, AutoTokenizer

from medsum_core.adapter import load_adapter
from medsum_core.errors import InputError
from medsum_core.generation import generate
from medsum_core.merge import main, merge, refuse_4bit
from medsum_core.model import load_base
from medsum_core.prompt import build_renderer


def test_merged_in_fp32_is_base_and_adapter(run: Path, base: Path) -> None:  # noqa: F811
    model = load_adapter(load_base(str(base), precision="fp32"), run / "adapter", base_name=str(base), keep_dense=False)
    before = {name: value.clone() for name, value in model.named_parameters() if "lora" not in name}
    merged, parity = merge(model, build_renderer(tiny_tokenizer()), num_prompts=3)
    assert parity.largest_logit_difference < 1e-4 * parity.logit_spread
    assert parity.num_prompts == parity.num_same_first_token == parity.num_same_notes == 3
    assert not any("lora" in name for name, _ in merged.named_parameters())
    changed = [n for n, v in merged.named_parameters() if not any(torch.equal(v, b) for b in before.values())]
    assert len(changed) == 7 * 2  # the projections of both layers, and nothing else


def test_the_command_writes_a_model_for_plain_transformers(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "merged"
    main(["--run", str(run), "--output_dir", str(out), "--num_prompts", "2", "--offline"])
    printed = capsys.readouterr().out
    assert "largest logit difference" in printed and "of 2" in printed
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    renderer = build_renderer(tiny_tokenizer())
    assert sorted(model.generation_config.eos_token_id) == sorted(renderer.stop_token_ids)
    assert tokenizer.chat_template == renderer.tokenizer.chat_template
    prompt = build_renderer(tokenizer).prompt_ids("Doctor: Any fever?\nPatient: No.", "CC")
    model = model.float()
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=8)[0, len(prompt) :].tolist()
    (note,) = generate(model, [prompt], stop_token_ids=renderer.stop_token_ids, max_new_tokens=8)
    assert [token for token in ids if token not in renderer.stop_token_ids] == list(note.token_ids)
    with pytest.raises(InputError, match="not an empty folder"):
        main(["--run", str(run), "--output_dir", str(out)])


def test_a_4_bit_base_is_refused(base: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="16 bits"):
        refuse_4bit(load_base(str(base), precision="fp32", load_in_4bit=True))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run folder"):
        main(["--run", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
