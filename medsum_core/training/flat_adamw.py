"""Paged 8-bit AdamW in one call for all large parameters: same bits, without waiting for the GPU after each parameter.

bitsandbytes synchronises after every parameter, 252 times an update of Gemma 2B's adapter. Its arithmetic works on
elements and on blocks of 256, so parameters of whole blocks, concatenated in one buffer, get the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from bitsandbytes.optim.adamw import PagedAdamW8bit
from torch import Tensor, nn

State = dict[str, Any]  # of one parameter
BLOCK = 256  # elements that share a scale
STATE_SIZES = {"state1": 1, "state2": 1, "absmax1": BLOCK, "absmax2": BLOCK}  # elements of a parameter for one of these


class FlatPagedAdamW8bit(PagedAdamW8bit):
    """`PagedAdamW8bit` with the same groups, states and results, but fewer calls in `step`.

    The large parameters of a group become views of one buffer. If one of them has no gradient, no longer is in the
    buffer, or has had another number of updates than the others, they are updated one by one, as by the library.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        min_8bit_size: int = self.args.min_8bit_size  # type: ignore[attr-defined]  # elements; set by name
        self._flats = [_Flat(group["params"], min_8bit_size=min_8bit_size) for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        joined = []
        for number, (flat, group) in enumerate(zip(self._flats, self.param_groups, strict=True)):
            states = [self.state.get(part, {}) for part in flat.parts]
            if flat.may_join(states):
                self._join(flat, states, number)
                joined.append((flat, group, group["params"]))
                group["params"] = [flat.whole, *flat.others]
        loss: float | None = super().step(closure)
        for flat, group, parameters in joined:
            group["params"] = parameters
            flat.whole.grad = None
            flat.keep(self.state.pop(flat.whole))
            self.state.update({part: flat.state | views for part, views in zip(flat.parts, flat.views, strict=True)})
        return loss

    def _join(self, flat: _Flat, states: Sequence[State], number: int) -> None:
        """Set the gradient of `flat.whole` and, after the first update, its state."""
        flat.whole.grad = torch.cat([part.grad.flatten() for part in flat.parts if part.grad is not None])
        if not states[0]:
            return
        if not flat.holds(states):  # they were loaded from a checkpoint, or come from updates one by one
            self.init_state(self.param_groups[number], flat.whole, number, 0)
            flat.keep(self.state[flat.whole])
            flat.fill(states)
        self.state[flat.whole] = flat.state


class _Flat:
    """The large parameters of a group concatenated in `whole`; `views` are their slices of the state of `whole`.

    `min_8bit_size`: elements from which on a parameter has 8-bit state; below, bitsandbytes keeps fp32 state.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, min_8bit_size: int) -> None:
        joins = [p.numel() >= min_8bit_size and p.numel() % BLOCK == 0 for p in parameters]  # large, of whole blocks
        self.parts = [p for p, joined in zip(parameters, joins, strict=True) if joined]
        self.others = [p for p, joined in zip(parameters, joins, strict=True) if not joined]
        self.state: State = {}
        self.views: list[dict[str, Tensor]] = []
        if self.parts:
            self.whole = nn.Parameter(torch.cat([part.detach().flatten() for part in self.parts]))
            for part, piece in zip(self.parts, self._pieces(self.whole.detach()), strict=True):
                part.data = piece
        self._addresses = [part.data_ptr() for part in self.parts]

    def may_join(self, states: Sequence[State]) -> bool:
        """Whether one update of `whole` equals an update of each part."""
        has_gradients = all(part.grad is not None for part in self.parts)
        same_step = len({state.get("step") for state in states}) == 1  # False without parts
        return same_step and has_gradients and [part.data_ptr() for part in self.parts] == self._addresses

    def holds(self, states: Sequence[State]) -> bool:
        """Whether these states of the parts are the current views."""
        pairs = zip(states, self.views, strict=True)
        return bool(self.views) and all(state[key] is view for state, views in pairs for key, view in views.items())

    def keep(self, state: State) -> None:
        """Store the state of `whole` and make the parts' views of it."""
        if not self.state or state["state1"] is not self.state["state1"]:
            pieces = {key: self._pieces(state[key], size) for key, size in STATE_SIZES.items()}
            self.views = [{key: pieces[key][place] for key in pieces} for place in range(len(self.parts))]
        self.state = state

    def fill(self, states: Sequence[State]) -> None:
        """Copy the parts' states into that of `whole`."""
        if self.whole.is_cuda:  # a kernel zeroes paged memory asynchronously: wait before the CPU writes
            torch.cuda.synchronize()
        for state, views in zip(states, self.views, strict=True):
            for key, view in views.items():
                view.copy_(state[key])
        self.state["step"] = states[0]["step"]

    def _pieces(self, tensor: Tensor, size: int = 1) -> list[Tensor]:
        """The slice of a flat tensor of each part; `size`: parameter elements per element of the tensor."""
        pieces = list(tensor.split([part.numel() // size for part in self.parts]))
        if size == 1:
            pieces = [piece.view(part.shape) for part, piece in zip(self.parts, pieces, strict=True)]
        if getattr(tensor, "is_paged", False):  # the library's attributes for managed memory
            for piece in pieces:
                piece.is_paged, piece.page_deviceid = True, tensor.page_deviceid  # type: ignore[attr-defined]
        return pieces
