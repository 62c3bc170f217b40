"""A stand-in for CUDA graphs on a CPU: records a function's operations and repeats them on the same tensors.

What a graph can't repeat shows here too: a number that was read by Python keeps its value, a tensor that was made
outside of torch's operations keeps its content, and inputs that were replaced instead of written to are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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
