"""The choice between the reference path and the fast kernels. No other module of this folder is imported from outside.

`reference` is transformers' and PEFT's own modules under plain autograd: nothing of this folder runs, and numba is not
imported. `fast` replaces the forward of the decoder's layers by functions that save less for the backward pass,
computes two micro-batches at a time on a CPU, and decodes with packed weights (README.md beside this file). `triton` is
`fast` on CUDA with norms, gated products, rotation and dropout as one Triton kernel each, `graphs` is `triton` replayed
from CUDA graphs. All give the same loss, gradient and notes up to rounding: tests/kernels/test_reference.py,
triton_interpreted.py, test_graph_accumulator.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from medsum_core.errors import InputError

if TYPE_CHECKING:  # the start of a script must stay quick: torch is imported later
    from torch import Tensor

    from medsum_core.data.collator import MicroBatch

REFERENCE, FAST, TRITON, GRAPHS = "reference", "fast", "triton", "graphs"
TRITON_PATHS = (TRITON, GRAPHS)
FAST_PATHS = (FAST, *TRITON_PATHS)
# Model types whose equality with the reference path is tested in tests/kernels/test_reference.py.
FAST_MODEL_TYPES = ("gemma", "gemma2", "gemma3_text", "llama")
OWN_OBJECTIVE = "--kernels graphs: takes the loop's own objective only; use --kernels triton"
GRAPH_ATTENTION = ("varlen", "sdpa", "eager")  # those that read the starts of documents on the GPU alone


class Accumulate(Protocol):
    """Sets each parameter's `.grad` to the gradient of the micro-batches' summed loss divided by `num_targets`."""

    def __call__(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        num_targets: int,
        objective: Callable[..., Tensor],
        reads_targets_only: bool,
    ) -> Tensor:
        """The summed loss, () float32. `reads_targets_only`: the objective reads no position without a target."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The functions that differ between the paths; None: the caller uses its own plain implementation."""

    name: str
    apply: Callable[..., None]  # (model, keep_dense=): called once, after the adapter is attached
    recompute: Callable[..., None]  # (model, longer_than=): activations are computed again in the backward pass
    hidden_states: Callable[..., Tensor]  # (model, batch) -> (B, T, H), for evaluation
    attention: Mapping[str, Any] = field(default_factory=dict)  # attention functions by name, instead of the plain ones
    head: Any = None  # a `training.loss.HeadArithmetic`
    decoder: Callable[..., AbstractContextManager[Any]] | None = None  # (model, dense=) -> decoding's forward pass
    accumulator: Callable[..., Accumulate] | None = None
    saved_attention_tokens: int = 0  # attention weights of documents up to this length are saved for the backward pass
    token_multiple: int = 1  # a micro-batch is padded to a multiple of this
    warm_up: Callable[..., None] | None = None  # compiles the functions before the run calls them


def resolve(asked: str, *, device_kind: str, model_type: str) -> str:
    """`auto` becomes `fast` on a CPU for the families whose equality test is in the suite, else `reference`.

    On CUDA `auto` is `reference` until all paths are measured on a GPU. Raises InputError for another path that is not
    available.
    """
    has_numba = find_spec("numba") is not None
    if asked == "auto":
        return FAST if device_kind == "cpu" and model_type in FAST_MODEL_TYPES and has_numba else REFERENCE
    if asked == REFERENCE:
        return asked
    if model_type not in FAST_MODEL_TYPES:
        raise InputError(
            f"--kernels {asked}: {model_type} is not among the tested families ({', '.join(FAST_MODEL_TYPES)}); "
            "use --kernels reference"
        )
    if not has_numba:
        raise InputError(f"--kernels {asked}: needs numba: pip install 'medsum-core[cpu]', or use --kernels reference")
    if asked in TRITON_PATHS:
        _check_triton(asked, device_kind)
    return asked


def check_settings(
    kernels: str, *, attention: str, pack_tokens: int, gradient_checkpointing: str, use_dora: bool
) -> None:
    """Raise InputError for resolved settings that `graphs` can't take: a graph would repeat what Python read once."""
    refusals = {
        f"--attention {attention} looks at the lengths of documents": attention not in GRAPH_ATTENTION,
        "it needs packed rows, without --pack_tokens 0": pack_tokens == 0,
        f"it recomputes no activations (--gradient_checkpointing {gradient_checkpointing})": (
            gradient_checkpointing != "off"
        ),
        "DoRA draws its dropout from torch's generator": use_dora,
    }
    if kernels == GRAPHS and (reasons := [reason for reason, holds in refusals.items() if holds]):
        raise InputError(f"--kernels graphs: {reasons[0]}; use --kernels triton")


def _check_triton(kernels: str, device_kind: str) -> None:
    problem = None
    if device_kind != "cuda":
        problem = f"needs a CUDA GPU, and this run is on {device_kind}"
    elif find_spec("triton") is None:
        problem = "needs the package triton, which torch for CUDA brings with it on Linux (pip install triton)"
    elif not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        problem = "needs a C compiler, with which Triton builds what starts a kernel: install gcc"
    if problem is not None:
        raise InputError(f"--kernels {kernels}: {problem}; or use --kernels fast")


def choose(name: str, device_kind: str = "cpu") -> Kernels:
    """The kernels of that name. Modules of the paths other than `reference` are only imported here.

    Raises InputError where numba finds no folder for its compiled code.
    """
    if name == REFERENCE:
        return _reference()
    if name in FAST_PATHS:
        try:
            kernels = _fast(device_kind, name)
            return _with_graphs(kernels) if name == GRAPHS else kernels
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            raise InputError(
                f"--kernels {name}: numba finds no folder for compiled code; set NUMBA_CACHE_DIR to one that can be "
                "written to, or use --kernels reference"
            ) from error
    raise ValueError(f"unknown kernels {name!r}: one of {', '.join((REFERENCE, *FAST_PATHS))}")


def set_up_process() -> None:
    """Set the process's memory options for the fast kernels; call it from a script before numpy and torch are imported.

    They are options of the C library's heap and of oneDNN's caches, without effect on a GPU or the reference path.
    """
    from medsum_core.kernels.cpu.malloc import limit_onednn_caches, use_one_heap

    use_one_heap()
    limit_onednn_caches()


def _reference() -> Kernels:
    from medsum_core.model.forward import autocast, hidden_states, no_adapter_casts, recompute_activations
    from medsum_core.model.lora import dequantize_base

    def apply(model: Any, *, keep_dense: bool) -> None:
        if keep_dense:
            dequantize_base(model)

    def autocast_hidden_states(model: Any, batch: MicroBatch) -> Tensor:
        with no_adapter_casts(model), autocast(model):
            return hidden_states(model, batch)

    return Kernels(name=REFERENCE, apply=apply, recompute=recompute_activations, hidden_states=autocast_hidden_states)


def _fast(device_kind: str, name: str) -> Kernels:
    from medsum_core.kernels.accumulate import FastAccumulator
    from medsum_core.kernels.cpu.document_attention import SAVED_TOKENS, attend_per_document
    from medsum_core.kernels.cpu.head import CpuHead
    from medsum_core.kernels.cpu.warm_up import compile_kernels
    from medsum_core.kernels.decoding.decoder_layers import packed_decoder
    from medsum_core.kernels.layers import apply_fast_layers, hidden_states, recompute_activations

    on_cpu = device_kind == "cpu"
    return Kernels(
        name=name,
        apply=partial(apply_fast_layers, fewer_launches=not on_cpu, triton=name in TRITON_PATHS),
        recompute=recompute_activations,
        hidden_states=hidden_states,
        attention={"per_document": attend_per_document} if on_cpu else {},
        head=CpuHead() if on_cpu else None,
        decoder=packed_decoder,
        accumulator=FastAccumulator,
        saved_attention_tokens=SAVED_TOKENS if on_cpu else 0,
        warm_up=compile_kernels if on_cpu else None,
    )


def _with_graphs(kernels: Kernels) -> Kernels:
    from medsum_core.kernels.decoding.decoder_layers import packed_decoder
    from medsum_core.kernels.gpu import graphs
    from medsum_core.kernels.gpu.buckets import TOKENS
    from medsum_core.kernels.gpu.graph_accumulator import GraphAccumulator

    def accumulator(model: Any, parameters: Any, *, pack_tokens: int, num_concurrent: int, **how: Any) -> Accumulate:
        return GraphAccumulator(model, parameters, record=graphs.CudaGraphs(), **how)

    decoder = partial(packed_decoder, record=graphs.CudaGraphs)
    return replace(kernels, accumulator=accumulator, decoder=decoder, token_multiple=TOKENS)
