"""A packed document gives what it gives alone, with any neighbours, and for each kernel and mode."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from attention_heads import DOCUMENTS, attend, make_heads
from support import TINY_VOCAB, tiny_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from windows import make_example, relative

from medsum_core.data.collator import MicroBatch, pack_rows, pad_rows
from medsum_core.data.masking import Example
from medsum_core.kernels.cpu.document_attention import attend_per_document as attend_compiled
from medsum_core.model import attention
from medsum_core.model.attention import (
    DOCUMENT_ATTENTION,
    PACKABLE_MODEL_TYPES,
    _shared_heads,
    attend_block_mask,
    attend_documents,
    attend_packed,
    attend_per_document,
    attend_varlen,
    document_attention,
    has_varlen,
    padded_lengths,
)
from medsum_core.model.forward import hidden_states

KERNELS = ("per_document", "sdpa", "eager", "compiled")
COMPILED = {"compiled": attend_compiled}  # the fast kernels' function
LENGTHS = (3, 8, 9, 21)  # around the sliding window of 8
BOUND = 1e-5


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    found = {kind: tiny_model(kind) for kind in PACKABLE_MODEL_TYPES}
    for model in found.values():
        model.set_attn_implementation("eager")  # transformers' own reference: masks, windows and soft-capping
    return found


@pytest.fixture
def documents() -> list[Example]:
    return [make_example(length - 2, 2, seed=length) for length in LENGTHS]


def alone(model: PreTrainedModel, document: Example) -> Tensor:
    """transformers' own forward of one document, (T, H)."""
    with torch.no_grad():
        output = model.model(input_ids=torch.tensor([document.input_ids]), use_cache=False)
    return output.last_hidden_state[0]


def ours(model: PreTrainedModel, batch: MicroBatch, kernel: str = "per_document") -> Tensor:
    with torch.no_grad(), document_attention(model, kernel, functions=COMPILED):
        return hidden_states(model, batch)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_packed_and_padded_documents_equal_each_document_alone(
    models: dict[str, PreTrainedModel], documents: list[Example], kind: str, kernel: str
) -> None:
    model = models[kind]
    packed = ours(model, pack_rows(documents), kernel)[0].split(LENGTHS)
    padded = ours(model, pad_rows(documents, pad_token_id=7), kernel)
    for row, document in enumerate(documents):
        expected = alone(model, document)
        assert relative(packed[row], expected) <= BOUND
        assert relative(padded[row, : document.num_tokens], expected) <= BOUND


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_changing_one_document_leaves_the_next_bitwise_unchanged(
    models: dict[str, PreTrainedModel],
    documents: list[Example],
    kind: str,
    kernel: str,
    training: bool,
    checkpointing: bool,
) -> None:
    model = models[kind].train(training)
    if checkpointing:
        model.activation_checkpointing_enable()
    try:
        before, after = pack_rows(documents), pack_rows(documents)
        first = LENGTHS[0]
        after.input_ids_BT[0, :first] = (after.input_ids_BT[0, :first] + 11) % TINY_VOCAB
        with document_attention(model, kernel, functions=COMPILED):
            hidden_before, hidden_after = hidden_states(model, before), hidden_states(model, after)
        assert not torch.equal(hidden_before[0, :first], hidden_after[0, :first])
        assert torch.equal(hidden_before[0, first:], hidden_after[0, first:])
    finally:
        model.activation_checkpointing_disable()
        model.eval()


@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_mode_and_checkpointing_change_neither_output_nor_gradient(
    models: dict[str, PreTrainedModel], documents: list[Example], kind: str
) -> None:
    model, batch = models[kind], pack_rows(documents)
    weight = model.model.layers[0].self_attn.q_proj.weight
    found = []
    for training, checkpointing in ((False, False), (True, False), (True, True)):
        model.train(training)
        if checkpointing:
            model.activation_checkpointing_enable()
        with document_attention(model):
            hidden = hidden_states(model, batch)
            (gradient,) = torch.autograd.grad(hidden.square().sum(), weight)
        found.append((hidden.detach(), gradient))
    model.activation_checkpointing_disable()
    model.eval()
    for hidden, gradient in found[1:]:
        assert torch.equal(hidden, found[0][0])
        assert relative(gradient, found[0][1]) <= 1e-6


class ShapesMade(TorchDispatchMode):
    """Records the shape of each operation's result, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found += [tuple(part.shape) for part in tree_leaves(out) if isinstance(part, Tensor)]
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_attention_per_document_makes_no_tensor_of_the_rows_length_squared(
    models: dict[str, PreTrainedModel], documents: list[Example], kind: str, dtype: torch.dtype
) -> None:
    batch, squared = pack_rows(documents), {}
    assert batch.num_tokens == 41  # a size that nothing else in these models has
    for kernel in ("per_document", "sdpa"):
        model = deepcopy(models[kind]).to(dtype)
        with document_attention(model, kernel), ShapesMade() as made:
            hidden_states(model, batch).sum().backward()
        squared[kernel] = [shape for shape in made.found if shape.count(41) > 1]
    assert not squared["per_document"] and squared["sdpa"]


@pytest.mark.parametrize("kind", ["gemma", "llama", "qwen2", "qwen3"])
def test_without_windows_and_soft_caps_no_document_has_a_mask(
    models: dict[str, PreTrainedModel], documents: list[Example], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask has an element for each pair of tokens, and on some GPUs SDPA then takes its slowest kernel."""
    calls: list[dict[str, Any]] = []

    def recorded(*heads: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        return scaled_dot_product_attention(*heads, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", recorded)
    ours(models[kind], pack_rows(documents))
    assert len(calls) == len(LENGTHS) * models[kind].config.num_hidden_layers
    assert all(call["is_causal"] and call["attn_mask"] is None for call in calls)


def test_the_contents_of_padding_change_nothing(models: dict[str, PreTrainedModel], documents: list[Example]) -> None:
    for kernel in KERNELS:
        one, other = (ours(models["gemma"], pad_rows(documents, pad_token_id=pad), kernel) for pad in (0, 9))
        for row, length in enumerate(LENGTHS):
            assert torch.equal(one[row, :length], other[row, :length])


def test_several_packed_rows_with_padding(models: dict[str, PreTrainedModel], documents: list[Example]) -> None:
    model = models["gemma3_text"]
    rows = [pack_rows(documents[:2]), pack_rows(documents[2:])]
    width = max(row.num_tokens for row in rows)
    grow = [nn.ConstantPad1d((0, width - row.num_tokens), 0) for row in rows]
    batch = MicroBatch(
        input_ids_BT=torch.cat([pad(row.input_ids_BT) for pad, row in zip(grow, rows, strict=True)]),
        position_ids_BT=torch.cat([pad(row.position_ids_BT) for pad, row in zip(grow, rows, strict=True)]),
        targets_BT=torch.cat([pad(row.targets_BT) for pad, row in zip(grow, rows, strict=True)]),
        document_lengths=tuple(row.document_lengths[0] for row in rows),
        ids=(),
        num_targets=0,
        num_tokens=sum(row.num_tokens for row in rows),
    )
    for kernel in KERNELS:
        hidden = ours(model, batch, kernel)
        found = [
            piece
            for row, part in enumerate(rows)
            for piece in hidden[row, : part.num_tokens].split(part.document_lengths[0])
        ]
        for piece, document in zip(found, documents, strict=True):
            assert relative(piece, alone(model, document)) <= BOUND


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 4, 9])
def test_kernels_agree_forward_and_backward(window: int | None, softcap: float | None, groups: int) -> None:
    options: dict[str, Any] = {"sliding_window": window, "softcap": softcap, "groups": groups}
    out, gradients = attend(attend_block_mask, eager=True, **options)
    for function in (attend_per_document, attend_block_mask, attend_compiled):
        other_out, other_gradients = attend(function, **options)
        assert relative(other_out, out) <= BOUND
        for found, expected in zip(other_gradients, gradients, strict=True):
            assert relative(found, expected) <= BOUND


def reference_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """`varlen_attn` as torch documents it, token by token; asserts what the real kernel requires."""
    assert query.ndim == key.ndim == value.ndim == 3 and enable_gqa
    assert cu_seq_k is not None and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    bounds = cu_seq_q.tolist()
    assert bounds == cu_seq_k.tolist() and bounds[0] == 0 and bounds[-1] == query.shape[0]
    assert max_q == max_k == max(end - start for start, end in pairwise(bounds))
    assert scale is not None and window_size[1] == 0  # causal
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for part in (key, value))
    out = []
    for start, end in pairwise(bounds):
        for at in range(start, end):
            first = start if window_size[0] < 0 else max(start, at - window_size[0])
            scores = torch.einsum("hd,khd->hk", query[at], key[first : at + 1]) * scale
            out.append(torch.einsum("hk,khd->hd", scores.softmax(-1), value[first : at + 1]))
    return torch.stack(out)


@pytest.mark.parametrize("window", [None, 4])
def test_varlen_attn_is_called_as_torch_documents_it(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    found, gradients = attend(attend_varlen, sliding_window=window)
    expected, expected_gradients = attend(attend_block_mask, eager=True, sliding_window=window)
    assert relative(found, expected) <= BOUND
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, reference) <= BOUND


def test_with_varlen_packed_documents_of_a_model_equal_each_document_alone(
    models: dict[str, PreTrainedModel], documents: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    packed = ours(models["gemma3_text"], pack_rows(documents), "varlen")[0].split(LENGTHS)
    for row, document in enumerate(documents):
        assert relative(packed[row], alone(models["gemma3_text"], document)) <= BOUND


def test_enable_gqa_is_passed_only_where_varlen_attn_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_torch_2_11(*tensors: Any, scale: float | None, window_size: tuple[int, int]) -> Tensor:
        return reference_varlen(*tensors, scale=scale, window_size=window_size, enable_gqa=True)

    for kernel, expected in ((of_torch_2_11, {}), (reference_varlen, {"enable_gqa": True})):
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
        _shared_heads.cache_clear()
        assert _shared_heads() == expected
        attend(attend_varlen)
    monkeypatch.undo()
    _shared_heads.cache_clear()


@pytest.mark.parametrize("window", [None, 3])
def test_one_varlen_call_for_all_prompts_equals_attention_for_each(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    torch.manual_seed(0)
    lengths, heads = (4, 1, 7), [torch.randn(12, count, 8) for count in (4, 2, 2)]
    starts = torch.tensor([0, 4, 5, 12], dtype=torch.int32)
    found = attend_packed(*heads, lengths, starts=starts, scaling=0.3, window=window)
    expected = attend_documents(*heads, lengths, scaling=0.3, window=window)
    torch.testing.assert_close(found, expected)


def test_varlen_refuses_soft_capping() -> None:
    with pytest.raises(ValueError, match="eager"):
        attend(attend_varlen, softcap=2.0)


def test_the_padding_of_a_row_is_a_document_of_its_own() -> None:
    assert padded_lengths([(2, 3), (4,), (5,)], 5) == [2, 3, 4, 1, 5]


@pytest.mark.parametrize("kernel", list(DOCUMENT_ATTENTION))
def test_the_models_attention_setting_is_restored_also_after_an_error(
    models: dict[str, PreTrainedModel], kernel: str
) -> None:
    config = models["gemma"].config
    with document_attention(nn.Sequential(models["gemma"]), kernel):  # a module around it has no config
        assert config._attn_implementation != "eager"
    assert config._attn_implementation == "eager"
    with pytest.raises(RuntimeError), document_attention(models["gemma"], kernel):
        raise RuntimeError
    assert config._attn_implementation == "eager"


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
def test_varlen_is_used_in_16_bits_on_gpus_from_8_0_on(capability: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    has, is_new = has_varlen.__wrapped__, capability != (7, 5)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (has(gpu, torch.bfloat16), has(gpu, torch.float32), has(cpu, torch.bfloat16)) == (is_new, False, False)


@pytest.mark.parametrize("name", ["flex", "flash_attention_2"])
def test_an_unknown_function_and_one_that_ignores_documents_are_refused(
    models: dict[str, PreTrainedModel], name: str
) -> None:
    with pytest.raises(ValueError, match=name), document_attention(models["gemma"], name):
        pass


@pytest.mark.parametrize("function", [attend_per_document, attend_block_mask, attend_varlen, attend_compiled])
def test_a_mask_a_cache_and_wrong_lengths_are_refused(function: Callable[..., Any]) -> None:
    query, key, value = make_heads()
    mask = torch.ones(2, 1, 24, 24, dtype=torch.bool)
    with pytest.raises(ValueError, match="no mask"):
        function(nn.Module(), query, key, value, mask, document_lengths=DOCUMENTS)
    longer = [torch.cat([part, part], dim=2) for part in (key, value)]
    with pytest.raises(ValueError, match="no key-value cache"):
        function(nn.Module(), query, *longer, None, document_lengths=DOCUMENTS)
    for wrong in (((5, 9, 11), (1, 17)), ((5, 9, 10),)):
        with pytest.raises(ValueError, match="do not fit"):
            function(nn.Module(), query, key, value, None, document_lengths=wrong)
