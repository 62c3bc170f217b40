"""A stand-in for CUDA graphs on a CPU: records a function's operations and repeats them on the same tensors.

What a graph can't repeat shows here too: a number that was read by Python keeps its value, a tensor that was made
outside of torch's operations keeps its content, and inputs that were replaced instead of written to are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.unique")


class Operations(TorchDispatchMode):
    """The operations of a block, with the tensors that they took and made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert not str(func).startswith(READS), f"a CUDA graph can't contain {func}: it reads a value of the GPU"
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def repeat(self) -> None:
        """Run them again, in order; each result is written to the tensor of the first time."""
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                if func.is_view:
                    continue
                again = func(*args, **kwargs)
                pairs = zip(tree_leaves(result), tree_leaves(again), strict=True)
                for old, new in pairs:
                    if isinstance(old, Tensor) and not old.is_set_to(new):
                        old.copy_(new)


def record(function: Callable[[], Any]) -> Callable[[], None]:
    """See `kernels.gpu.graphs.Record`."""
    function()
    operations = Operations()
    with operations:
        function()
    return operations.repeat


class Borrowed:
    """A record that keeps nothing alive, as a CUDA graph: a replay only checks that what it would read still exists.

    That is the memory which the function took and did not make: weights, inputs, sums.
    """

    def __init__(self) -> None:
        self.num_tensors: list[int] = []  # of each recording

    def __call__(self, function: Callable[[], Any]) -> Callable[[], None]:
        function()
        operations = Operations()
        with operations:
            function()
        taken: dict[int, StorageWeakRef] = {}
        made: set[int] = set()
        for func, args, kwargs, result in operations.calls:
            # On a CPU temporaries come from `kernels/cpu/arena.py`, not from one of torch's operations.
            inputs = () if str(func).startswith("aten.lift_fresh") else (args, kwargs)
            for storage in _storages(inputs):
                if storage._cdata not in made:
                    taken.setdefault(storage._cdata, StorageWeakRef(storage))
            made |= {storage._cdata for storage in _storages(result)} - taken.keys()
        self.num_tensors.append(len(taken))

        def replay() -> None:
            num_freed = sum(reference.expired() for reference in taken.values())
            assert not num_freed, f"a replay would read {num_freed} tensors that are gone"

        return replay


def _storages(values: Any) -> list[torch.UntypedStorage]:
    """Of all tensors but a CPU's packed weights, which have none."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
