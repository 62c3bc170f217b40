"""The reference path and the fast kernels have the gradient of transformers and PEFT over the full logits of a padded batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import TINY_VOCAB, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from windows import NO_DROPOUT, make_example, make_run, make_window, plain_peft, reference_gradient, relative, tuned

from medsum_core.data.collator import pad_rows
from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.kernels import FAST_MODEL_TYPES, choose, resolve
from medsum_core.model.attention import PACKABLE_MODEL_TYPES
from medsum_core.model.forward import hidden_states
from medsum_core.model.lora import LoraSettings, attach_lora
from medsum_core.training.family_check import check_family
from train_loop import train_step

SPLITS = {"8x1": (1, 0), "2x4": (4, 0), "packed": (1, 96)}  # (rows in a micro-batch, tokens that rows are packed to)
BOUND = 1e-5


def step(model: Any, window: list[Example], split: str, kernels: str, **settings: Any) -> tuple[float, list[Tensor]]:
    batch_size, pack_tokens = SPLITS[split]
    run = make_run(model, batch_size=batch_size, pack_tokens=pack_tokens, kernels=kernels, **settings)
    stats = train_step(run, window, learning_rate=0.0)
    assert not stats.skipped
    return stats.loss, run.optimizer.gradients  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_the_reference_path_equals_the_gradient_over_full_logits(kind: str, split: str) -> None:
    model = tuned(tiny_model(kind, attn_implementation="eager"), kernels="reference")
    window = [*make_window(7), make_example(9, 0, seed=77)]  # a row without a target among them
    loss, expected = reference_gradient(plain_peft(tiny_model(kind, attn_implementation="eager"), model), window)
    found, gradients = step(model, window, split, "reference")
    assert abs(found - loss) <= BOUND * loss
    assert relative(gradients, expected) <= BOUND


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_the_fast_kernels_give_the_reference_paths_gradient(kind: str, split: str) -> None:
    window, results = make_window(8), {}
    for kernels in ("reference", "fast"):
        results[kernels] = step(tuned(tiny_model(kind), kernels=kernels), window, split, kernels)
    assert results["fast"][0] == pytest.approx(results["reference"][0], rel=BOUND)
    assert relative(results["fast"][1], results["reference"][1]) <= BOUND


@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_in_bf16_both_paths_have_the_direction_of_the_fp32_gradient(kind: str) -> None:
    """The reference path computes under autocast; its adapter and its gradient stay fp32."""
    window = make_window(8)
    model = tuned(tiny_model(kind), kernels="reference")
    _, exact = reference_gradient(plain_peft(tiny_model(kind), model), window)
    for kernels in ("reference", "fast"):
        _, found = step(tuned(tiny_model(kind, dtype=torch.bfloat16), kernels=kernels), window, "packed", kernels)
        assert all(gradient.dtype == torch.float32 for gradient in found)
        cosine = torch.nn.functional.cosine_similarity(
            *(torch.cat([g.flatten() for g in gs]) for gs in (found, exact)), 0
        )
        assert cosine >= 0.999, kernels


FAMILIES = ("mistral", "olmo2", "granite", "stablelm", "gpt_neox", "opt")


def family_model(kind: str, **overrides: Any) -> Any:
    """A tiny random model of a family outside the tested ones, without dropout of its own."""
    shape = {"vocab_size": TINY_VOCAB, "hidden_size": 256, "intermediate_size": 512, "ffn_dim": 512}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "dropout": 0.0}
    shape |= {"word_embed_proj_dim": 256, "max_position_embeddings": 256, "pad_token_id": 0, **overrides}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()


@pytest.mark.parametrize("kind", FAMILIES)
def test_any_causal_language_model_trains_on_the_reference_path(kind: str) -> None:
    """With one document a row and the model's own attention."""
    targets = {"gpt_neox": ("query_key_value",), "opt": ("q_proj", "v_proj")}.get(kind, ("q_proj", "o_proj"))
    settings = LoraSettings(dropout=0.0, target_modules=targets)
    model = tuned(family_model(kind), settings, kernels="reference")
    loss, expected = reference_gradient(plain_peft(family_model(kind), model, settings), make_window(4))
    found, gradients = step(model, make_window(4), "2x4", "reference", attention="model")
    assert abs(found - loss) <= BOUND * loss
    assert relative(gradients, expected) <= BOUND
    check_family(model, make_window(4), kernels=choose("reference"), attention="model")


def test_the_models_own_attention_refuses_packed_rows() -> None:
    with pytest.raises(ValueError, match="--pack_tokens 0"):
        step(tuned(tiny_model(), kernels="reference"), make_window(4), "packed", "reference", attention="model")


def test_a_batchs_own_positions_reach_the_model() -> None:
    """Rotary embeddings see differences only, so that documents with the positions of their row would not show."""
    model, batch = tiny_model(), pad_rows(make_window(1), pad_token_id=0)
    stretched = replace(batch, position_ids_BT=3 * batch.position_ids_BT)
    with torch.no_grad():
        expected = model.model(batch.input_ids_BT, position_ids=3 * batch.position_ids_BT, use_cache=False)
        found = hidden_states(model, stretched)
    assert relative(found, expected.last_hidden_state) <= BOUND


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"use_rslora": True}], ids=["DoRA", "rsLoRA"])
def test_lora_variants_train_on_the_reference_path(variant: dict[str, bool]) -> None:
    settings = LoraSettings(dropout=0.0, **variant)
    model = tuned(tiny_model("qwen2"), settings, kernels="reference")
    _, expected = reference_gradient(plain_peft(tiny_model("qwen2"), model, settings), make_window(8))
    assert relative(step(model, make_window(8), "packed", "reference")[1], expected) <= BOUND


# ---- hooks, attention functions and losses of the user -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_forward_hooks_fire_on_every_module_of_the_decoder(kind: str) -> None:
    model = tuned(tiny_model(kind), kernels="reference")
    fired: Counter[str] = Counter()
    hooked = {name: module for name, module in model.named_modules() if _is_of_a_layer(name, module)}
    for name, module in hooked.items():
        module.register_forward_hook(lambda *_, name=name: fired.update([name]))
    step(model, make_window(3), "packed", "reference")
    assert set(fired) == set(hooked)
    suffixes = {name.rsplit(".", 1)[-1] for name in fired}
    expected = {"self_attn", "mlp", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert expected | {"input_layernorm", "post_attention_layernorm"} <= suffixes


def _is_of_a_layer(name: str, module: nn.Module) -> bool:
    """A decoder layer or one of its parts that are called: no container, no magnitude vector of DoRA."""
    return ".layers." in name and not isinstance(module, (nn.ModuleDict, nn.ParameterDict)) and "lora_magn" not in name


def test_a_registered_attention_function_is_called_in_each_layer() -> None:
    from transformers import AttentionInterface

    from medsum_core.model.attention import attend_per_document

    calls: list[int] = []

    def counting(module: nn.Module, *inputs: Any, **options: Any) -> Any:
        calls.append(int(module.layer_idx))  # type: ignore[arg-type]
        return attend_per_document(module, *inputs, **options)

    AttentionInterface.register("counting", counting)
    model = tuned(tiny_model(), kernels="reference")
    plain = step(model, make_window(3), "packed", "reference")[1]
    assert relative(step(model, make_window(3), "packed", "reference", attention="counting")[1], plain) == 0
    assert sorted(calls) == [0, 1]


def mean_of_all_positions(hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, *, softcap: float | None) -> Tensor:
    return hidden_BTH.float().square().mean()


def test_an_objective_may_read_every_position_on_the_reference_path_only() -> None:
    window = make_window(3)
    for kernels in ("reference", "fast"):
        run = make_run(tuned(tiny_model(), kernels=kernels), kernels=kernels)
        if kernels == "reference":
            assert not train_step(run, window, learning_rate=0.0, objective=mean_of_all_positions).skipped
            continue
        with pytest.raises(InputError, match="--kernels reference"):
            train_step(run, window, learning_rate=0.0, objective=mean_of_all_positions)


# ---- which kernels are chosen ------------------------------------------------------------------------------------------------------


def test_auto_is_fast_on_a_cpu_for_tested_families_and_else_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("auto", device_kind="cpu", model_type="gemma") == "fast"
    assert resolve("auto", device_kind="cpu", model_type="qwen2") == "reference"
    assert resolve("auto", device_kind="cuda", model_type="gemma") == "reference"
    assert resolve("fast", device_kind="cuda", model_type="gemma") == "fast"
    with pytest.raises(InputError, match=r"qwen2.*--kernels reference"):
        resolve("fast", device_kind="cpu", model_type="qwen2")
    monkeypatch.setattr("medsum_core.kernels.find_spec", lambda name: None)
    assert resolve("auto", device_kind="cpu", model_type="gemma") == "reference"
    with pytest.raises(InputError, match=r"medsum-core\[cpu\]"):
        resolve("fast", device_kind="cpu", model_type="gemma")


def test_an_nf4_base_has_one_gradient_dequantised_once_or_at_each_use(tmp_path: Any) -> None:
    from medsum_core.model.base import load_base

    tiny_model().save_pretrained(tmp_path)
    found = []
    for keep_dense in (False, True):
        base = load_base(str(tmp_path), precision="fp32", load_in_4bit=True)
        model = attach_lora(base, NO_DROPOUT, base_name="tiny")
        choose("reference").apply(model, keep_dense=keep_dense)
        assert any(hasattr(p, "quant_state") for p in model.parameters()) != keep_dense
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.05)
        found.append(step(model, make_window(4), "packed", "reference")[1])
    assert relative(found[0], found[1]) <= 1e-6
