"""Decoding steps as CUDA graphs: a step without prompts is one replay, whatever the model's number of layers.

Letters: S slots, R notes being written, K beams a note, M the R x K newest tokens, L keys read, H hidden size.

A graph has fixed shapes, so R is rounded up to a power of two and L to a multiple of ROUNDED_KEYS; hence there are few
graphs, and each serves many steps. Whatever differs between the steps of a graph is read from tensors that stay where
they are: the cache's own, and one with the tokens, positions and columns of all slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medsum_core.generation.kv_cache import KVCache, Step
from medsum_core.kernels.gpu.graphs import Record, Replay

ROUNDED_KEYS = 256


class Hidden(Protocol):
    """The layers of a decoder: writes the keys and values of all tokens (T,) to the cache.

    Returns the output (M, H) for the newest tokens and each prompt's last one.
    """

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, cache: KVCache, step: Step) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class _Graph:
    replay: Replay
    hidden_MH: Tensor  # each replay writes it


class GraphedSteps:
    """A `Hidden` that replays graphs of another one, except in steps with prompts, whose shapes are never the same.

    The output must be read before the next call. Graphs are recorded when they are first needed and belong to one
    cache: with another cache they are recorded anew, by another `Record`, since torch takes no further graph into a
    memory pool whose graphs are all gone.
    """

    _record: Record  # of the present cache

    def __init__(self, hidden: Hidden, make_record: Callable[[], Record]) -> None:
        self._hidden, self._make_record = hidden, make_record
        self._cache: KVCache | None = None
        self._inputs_3SK = torch.empty(0)
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, cache: KVCache, step: Step) -> Tensor:
        """See `Hidden`."""
        if step.prompt_lengths:
            return self._hidden(tokens_T, positions_T, cache, step)
        if cache is not self._cache:
            self._graphs, self._cache, self._record = {}, cache, self._make_record()
            self._inputs_3SK = torch.zeros(3, *cache.visible_SKC.shape[:2], dtype=torch.int64, device=tokens_T.device)
        tokens_RK, positions_RK = (tensor.view_as(step.columns_RK) for tensor in (tokens_T, positions_T))
        self._inputs_3SK[:, : step.num_rows] = torch.stack((tokens_RK, positions_RK, step.columns_RK))
        self._inputs_3SK[:, step.num_rows :].zero_()
        num_slots = len(cache.position_SC)
        num_rows = min(1 << (step.num_rows - 1).bit_length(), num_slots)
        num_keys = min(-(-step.num_keys // ROUNDED_KEYS) * ROUNDED_KEYS, cache.capacity)
        if (num_rows, num_keys) not in self._graphs:
            self._graphs[num_rows, num_keys] = self._graph(cache, num_rows, num_keys)
        graph = self._graphs[num_rows, num_keys]
        graph.replay()
        return graph.hidden_MH[: step.num_decoded]

    def _graph(self, cache: KVCache, num_rows: int, num_keys: int) -> _Graph:
        """Record the steps of up to `num_rows` notes and `num_keys` keys.

        Recording runs the present step, and its replay runs it again: both write the same keys to the same places.

        The rows beyond the notes being written have token, position and column 0. They write to the first column of
        slots that are not in use, where a note that starts there puts its prompt. That column is visible to them, and
        within any window of position 0: attention to nothing is NaN, and the cache must hold none (`KVCache.write`).
        To all others it is visible anyway, since their prompt begins there.
        """
        tokens_RK, positions_RK, columns_RK = self._inputs_3SK[:, :num_rows]
        outputs: list[Tensor] = []

        def run() -> None:
            cache.visible_SKC[:num_rows, :, 0].fill_(True)
            step = Step(
                num_rows=num_rows,
                num_beams=cache.num_beams,
                key_counts=(num_keys,) * num_rows,
                positions_R=positions_RK[:, 0],
                row_R1=torch.arange(num_rows, device=columns_RK.device)[:, None],
                columns_RK=columns_RK,
                prompt_lengths=(),
                prompt_starts=torch.zeros(1, dtype=torch.int32, device=columns_RK.device),
                first_position=0,  # no key is left out for its age but by the mask
            )
            outputs[:] = [self._hidden(tokens_RK.flatten(), positions_RK.flatten(), cache, step)]

        replay = self._record(run)
        return _Graph(replay=replay, hidden_MH=outputs[0])
