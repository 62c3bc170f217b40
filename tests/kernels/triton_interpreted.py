"""The Triton kernels, run by Triton's interpreter on CPU tensors, against numba's, torch's and transformers' functions.

Triton reads TRITON_INTERPRET once, when it is imported: `test_triton.py` runs this file in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import triton
from support import tiny_model
from test_dropout import (  # noqa: F401  these laws hold for Triton's masks too
    test_a_copy_and_the_tensor_itself_lose_the_same_elements,
    test_a_mask_is_a_pure_function_of_its_seed,
)
from test_joined_products import test_each_projection_has_a_mask_of_its_own_forward_and_backward  # noqa: F401
from test_lora_linear import test_dropout_uses_one_mask_forward_and_backward  # noqa: F401
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch.nn.functional import gelu, silu
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm, apply_rotary_pos_emb
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from triton.runtime import interpreter
from windows import make_example, make_run, relative, tuned

from medsum_core.kernels.gpu import elementwise
from medsum_core.kernels.layers import gated_mlp, triton_choice
from medsum_core.kernels.layers.dropout import DroppedElements
from medsum_core.kernels.layers.rms_norm import frozen_rms_norm, use_fast_norms
from medsum_core.kernels.layers.rotation import rotate
from train_loop import train_step

# Two roundings; in fp32, other orders of sums and another exponential function.
BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
PHILOX_POSITIONS = [540, 741, 794, 1212, 1564, 1630, 1685]  # the same list is in tests/whole/test_cuda.py
by_dtype = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(triton_choice, "DEVICE_KINDS", ("cpu",))
    # The twin of fp16 norms is an operator that torch has on GPUs only; its decomposition takes its place.
    backward = decomposition_table[torch.ops.aten._fused_rms_norm_backward.default]
    monkeypatch.setattr(torch.ops.aten, "_fused_rms_norm_backward", backward)
    monkeypatch.setattr(interpreter, "_convert_float", partial(_convert_float, interpreter._convert_float))
    triton_choice.use_triton(True)
    yield
    triton_choice.use_triton(False)


def _convert_float(plain: Any, values: Any, source: Any, target: Any, rounding: Any) -> Any:
    """The interpreter truncates to bf16, where a GPU rounds to nearest."""
    if target == triton.language.bfloat16:
        return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    return plain(values, source, target, rounding)


def with_twin(compute: Callable[[], Any]) -> tuple[Any, Any]:
    """The results of Triton's functions and of their twins: numba's, or for fp16 torch's."""
    found = compute()
    triton_choice.use_triton(False)
    return found, compute()


def check_twin(found: Tensor, twin: Tensor) -> None:
    """Other orders of sums change few elements; a rounding too many or too few would change far more."""
    assert found.dtype == twin.dtype and found.shape == twin.shape
    assert relative(found, twin) <= BOUNDS[found.dtype]
    if found.dtype != torch.float32:
        assert (found != twin).double().mean() <= 0.03


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(scale).to(dtype)


def test_the_kernels_are_interpreted() -> None:
    assert type(elementwise._gated).__name__ == "InterpretedFunction"


@by_dtype
@pytest.mark.parametrize("norm_class", [GemmaRMSNorm, LlamaRMSNorm])
def test_norms_equal_those_of_transformers_and_their_twins(norm_class: Any, dtype: torch.dtype) -> None:
    model = nn.Sequential(norm_class(72)).to(dtype).requires_grad_(False)
    model[0].weight.copy_(draw(72, seed=5))
    x, dy = (draw(2, 3, 72, dtype=dtype, seed=seed, scale=30.0) for seed in (6, 7))
    expected = model(x)
    wide = x.double().requires_grad_()
    exact = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    exact = exact * (model[0].weight.double() + (norm_class is GemmaRMSNorm))
    (exact_dx,) = torch.autograd.grad(exact, wide, dy.double())
    use_fast_norms(model)
    norm = frozen_rms_norm(model[0])

    def compute() -> tuple[Tensor, ...]:
        y, inverse_rms = norm.forward(x)
        assert torch.equal(norm.output(x, inverse_rms), y) and torch.equal(model(x), y)
        return y, inverse_rms, norm.backward(dy, x, inverse_rms)

    found, twin = with_twin(compute)
    for one, other in zip(found, twin, strict=True):
        check_twin(one, other)
    check_twin(found[0], expected)
    assert relative(found[2], exact_dx) <= BOUNDS[dtype]


def test_a_wider_weight_widens_the_output_as_in_transformers() -> None:
    model = nn.Sequential(LlamaRMSNorm(8)).requires_grad_(False)
    x = draw(3, 8, dtype=torch.bfloat16)
    expected = model(x)
    use_fast_norms(model)
    assert expected.dtype == torch.float32
    check_twin(model(x), expected)


@pytest.mark.filterwarnings("ignore:overflow")  # in the interpreter's exp, for -60
@by_dtype
@pytest.mark.parametrize("name", ["GELUTanh", "SiLU"])
def test_gated_products_equal_those_of_torch_and_their_twins(name: str, dtype: torch.dtype) -> None:
    activation = gated_mlp.ACTIVATION_FUNCTIONS[name]
    gate, up, dy = (draw(3, 401, dtype=dtype, seed=seed, scale=2.0) for seed in (2, 3, 4))  # more than a block
    gate[0, :3] = torch.tensor([0.0, 60.0, -60.0])
    wide = [tensor.double().requires_grad_() for tensor in (gate, up)]
    exact = (gelu(wide[0], approximate="tanh") if name == "GELUTanh" else silu(wide[0])) * wide[1]
    expected = [exact, *torch.autograd.grad(exact, wide, dy.double())]

    def compute() -> tuple[Tensor, ...]:
        product = gated_mlp._product(gate, up, activation)
        return product, *gated_mlp._product_backward(gate, up, dy, activation)

    found, twin = with_twin(compute)
    for one, reference in zip(found, expected, strict=True):
        assert relative(one, reference) <= BOUNDS[dtype]
    if dtype != torch.float16:  # torch's own rounds the gradient once more
        for one, other in zip(found, twin, strict=True):
            check_twin(one, other)


@by_dtype
@pytest.mark.parametrize("shared", [True, False])  # one position's angles for all rows, or for each
def test_rotation_equals_that_of_transformers_forward_and_backward(shared: bool, dtype: torch.dtype) -> None:
    heads_BNTD = draw(2, 3, 5, 12, dtype=dtype)  # transposed below: not contiguous
    angles = draw(1 if shared else 2, 5, 6, seed=3, scale=3.0).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    dout = draw(2, 5, 3, 12, dtype=dtype, seed=4)
    wide = heads_BNTD.double().requires_grad_()
    exact, _ = apply_rotary_pos_emb(wide, wide, cos.double(), sin.double())
    (exact_dx,) = torch.autograd.grad(exact, wide, dout.double().transpose(1, 2))
    x_BTND = heads_BNTD.transpose(1, 2).requires_grad_()
    found = rotate(x_BTND, cos, sin)
    (dx,) = torch.autograd.grad(found, x_BTND, dout)
    assert found.dtype == dx.dtype == dtype
    assert relative(found.transpose(1, 2), exact) <= BOUNDS[dtype]
    assert relative(dx.transpose(1, 2), exact_dx) <= BOUNDS[dtype]


def dropped(size: int, rate: float, seed: int) -> DroppedElements:
    return DroppedElements(size, rate=rate, seed=seed, device=torch.device("cpu"))


def keep(size: int, rate: float, seed: int) -> Tensor:
    """1 where an element stays, 0 where it is dropped."""
    return dropped(size, rate, seed).without(torch.ones(size))


def test_elements_are_dropped_at_the_requested_rate_and_independently() -> None:
    size, rate = 30_000, 0.3
    gone = 1 - keep(size, rate, 2**61 + 7).double()
    assert abs(float(gone.mean()) - rate) < 5 * (rate * (1 - rate) / size) ** 0.5
    for distance in (1, 2, 3, 4, elementwise.BLOCK // 4, elementwise.BLOCK):
        both = float((gone[distance:] * gone[:-distance]).mean())
        assert abs(both - rate**2) < 5 * (rate**2 / size) ** 0.5, distance


def test_dropout_masks_follow_philox() -> None:
    def draw_four(counter: int, seed: int) -> list[int]:
        """Philox4x32-10, Salmon et al. 2011."""
        low, words, keys = 2**32 - 1, [counter, 0, 0, 0], [seed & (2**32 - 1), seed >> 32]
        for _ in range(10):
            first, third = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
            words = [(third >> 32) ^ words[1] ^ keys[0], third & low, (first >> 32) ^ words[3] ^ keys[1], first & low]
            keys = [(keys[0] + 0x9E3779B9) & low, (keys[1] + 0xBB67AE85) & low]
        return words

    seed, rate = 2**61 + 5, 0.002
    draws = [number for counter in range(750) for number in draw_four(counter, seed)]
    uniform = [min(number, 2**32 - 1 - number) / 2**31 for number in draws]
    expected = [place for place, number in enumerate(uniform) if number < rate]
    assert (keep(3000, rate, seed) == 0).nonzero().flatten().tolist() == expected == PHILOX_POSITIONS


def test_a_mask_depends_on_seed_and_position_alone() -> None:
    longest, others = keep(3000, 0.3, 5), [keep(3000, 0.3, seed) for seed in (6, 5 + 2**32, 5 + 2**61)]
    for size in (0, 1, 1023, 1025):
        assert torch.equal(keep(size, 0.3, 5), longest[:size])
    assert all(0.35 < float((longest != other).double().mean()) < 0.49 for other in others)  # independent: 0.42


def test_repeated_rows_get_masks_of_their_own() -> None:
    for shape in ((1, 7), (1, 30, 50), (1, 32, 32)):  # with less than a block, with an end within one, with none
        x = draw(*shape).expand(3, *shape[1:])
        assert torch.equal(dropped(x.numel(), 0.3, 4).without(x), x * keep(x.numel(), 0.3, 4).view_as(x))


@by_dtype
def test_every_use_of_a_mask_drops_the_same_elements(dtype: torch.dtype) -> None:
    x, total = draw(30, 50, dtype=dtype), draw(30, 50, dtype=dtype, seed=2)
    mask, drawn = keep(1500, 0.3, 9).view(30, 50).to(dtype), dropped(1500, 0.3, 9)
    expected = torch.addcmul(total, x, mask)
    assert torch.equal(drawn.without(x), x * mask)
    drawn.add_kept_to(total, x.clone())
    assert torch.equal(total, expected)
    assert drawn.zero_(x) is x and torch.equal(x == 0, mask == 0)


def gradient(kernels: str, kind: str) -> list[Tensor]:
    run = make_run(tuned(tiny_model(kind), kernels=kernels), pack_tokens=96, kernels=kernels)
    assert not train_step(run, [make_example(3, 2, seed=1)], learning_rate=0.0).skipped
    return run.optimizer.gradients  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("kind", ["gemma3_text", "llama"])  # both kinds of norms and of activations, and norms of heads
def test_a_models_gradient_equals_that_of_the_numba_kernels(kind: str) -> None:
    found = gradient("triton", kind)
    assert triton_choice.triton_for(torch.device("cpu")) is not None
    expected = gradient("fast", kind)
    assert triton_choice.triton_for(torch.device("cpu")) is None
    assert relative(found, expected) <= 2e-5


def test_fp64_is_refused() -> None:
    with pytest.raises(TypeError, match="--kernels fast"):
        elementwise.gated(*[torch.ones(2, dtype=torch.float64)] * 2, 1.0, 0.0)
