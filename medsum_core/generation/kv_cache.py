"""The key-value cache of decoding, and attention over it. Nothing in it is concatenated, repeated or moved by beams.

Letters: S slots, R notes being written, K beams a note, C keys that a slot can hold, L keys read, T tokens of this
forward pass, H query heads, G key-value heads, D head size, V vocabulary.

Each note has a slot; the notes being written fill slots 0 to R-1:

    slot   [ prompt | K tokens of the 1st step | K tokens of the 2nd step | ... ]

A prompt is stored once for all its beams. A beam reads the keys it descends from: reordering beams rearranges
`visible_SKC`, a table of booleans, and leaves the keys where they are. Greedy decoding is K = 1.

One forward pass is one packed row (`Step`): the R x K newest tokens, then whole prompts of notes that start now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from medsum_core.device import arithmetic_dtype
from medsum_core.model.attention import IMPLEMENTATION_PREFIX, attend_documents, attend_packed, has_varlen

# With all rows in one call each reads as many keys as the longest has, which took a third of a step's time.
MIN_ROWS_AT_A_TIME = 4
ALIGNED_KEYS = 8  # CUDA's attention kernels read masks from aligned addresses only


@dataclass(frozen=True, kw_only=True)
class Step:
    """The input of one forward pass: R x K tokens of notes being written, then N whole prompts, concatenated.

    `columns_RK` are the slots' places for the new keys; `prompt_lengths` has N entries, for slots R to R+N-1.
    """

    num_rows: int
    num_beams: int
    key_counts: tuple[int, ...]  # keys in each of the R slots, the new ones included
    positions_R: Tensor
    row_R1: Tensor
    columns_RK: Tensor
    prompt_lengths: tuple[int, ...]
    prompt_starts: Tensor  # int32, of the N prompts from the first one on, and where the last one ends
    first_position: int  # the least of `positions_R`
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by sliding window, made once for all layers

    @property
    def num_keys(self) -> int:
        """L: the most keys in any slot."""
        return max(self.key_counts)

    @property
    def read_M(self) -> Tensor:  # noqa: N802 - a shape
        """Positions whose logits are needed: the R x K newest tokens and each prompt's last one."""
        ends_N = self.prompt_starts[1:].long() + self.num_decoded - 1
        return torch.cat((torch.arange(self.num_decoded, device=ends_N.device), ends_N))

    @property
    def num_decoded(self) -> int:
        """R x K: also the position where the prompts begin."""
        return self.num_rows * self.num_beams


class KVCache:
    """Keys and values of every layer, (S, C, G, D) each, allocated at a layer's first use and written in place."""

    def __init__(self, num_slots: int, num_beams: int, capacity: int, *, device: torch.device) -> None:
        self.num_beams = num_beams
        self.capacity = capacity
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.position_SC = torch.zeros(num_slots, capacity, dtype=torch.int64, device=device)
        self.visible_SKC = torch.zeros(num_slots, num_beams, capacity, dtype=torch.bool, device=device)
        self._beam_K = torch.arange(num_beams, device=device)

    def begin_step(
        self,
        positions: Sequence[int],
        columns: Sequence[int],
        prompt_lengths: Sequence[int],
        *,
        one_column: Sequence[bool],
    ) -> Step:
        """Prepare one forward pass: each note's newest tokens stand at its position and are stored from its column on.

        A beam attends to its own new token and what it attended to before; all beams of a note attend to its prompt.
        Where `one_column`, the token is the prompt's last one for all beams, and is stored once.
        """
        device, num_rows = self.position_SC.device, len(positions)
        positions_R = torch.tensor(positions, dtype=torch.int64, device=device)
        spread_R = torch.tensor([not shared for shared in one_column], dtype=torch.int64, device=device)
        columns_RK = torch.tensor(columns, dtype=torch.int64, device=device)[:, None]
        columns_RK = columns_RK + self._beam_K * spread_R[:, None]
        row_R1 = torch.arange(num_rows, device=device)[:, None]
        self.position_SC[row_R1, columns_RK] = positions_R[:, None]
        self.visible_SKC[row_R1, self._beam_K, columns_RK] = True
        for slot, length in enumerate(prompt_lengths, start=num_rows):
            self.position_SC[slot, :length] = torch.arange(length, device=device)
            self.visible_SKC[slot] = False
            self.visible_SKC[slot, :, :length] = True
        return Step(
            num_rows=num_rows,
            num_beams=self.num_beams,
            key_counts=tuple(column + self.num_beams for column in columns),
            first_position=min(positions, default=0),
            positions_R=positions_R,
            row_R1=row_R1,
            columns_RK=columns_RK,
            prompt_lengths=tuple(prompt_lengths),
            prompt_starts=torch.tensor([0, *accumulate(prompt_lengths)], dtype=torch.int32, device=device),
        )

    def reorder_beams(self, parents_RK: Tensor) -> None:
        """Beam k of note r continues beam `parents_RK[r, k]`."""
        visible_RKC = self.visible_SKC[: len(parents_RK)]
        index_RKC = parents_RK[:, :, None].expand_as(visible_RKC)
        self.visible_SKC[: len(parents_RK)] = visible_RKC.gather(1, index_RKC)

    def go_back(self, slot: int, num_prompt_tokens: int, beams_KT: Sequence[Sequence[int]]) -> None:
        """Remove all tokens of a note's beams but the first T, the last of which the next forward pass computes again.

        `beams_KT`: see `Trail`. Without any token, the newest is the prompt's last one.
        """
        num_kept = len(beams_KT[0]) - 1
        self.visible_SKC[slot] = False
        self.visible_SKC[slot, :, : num_prompt_tokens + min(num_kept, 0)] = True
        if num_kept > 0:
            device = self.visible_SKC.device
            beams_KN = torch.tensor([beams[:num_kept] for beams in beams_KT], device=device)
            columns_KN = num_prompt_tokens + torch.arange(num_kept, device=device) * self.num_beams + beams_KN
            self.visible_SKC[slot].scatter_(1, columns_KN, True)

    def move_slot(self, source: int, target: int, num_keys: int) -> None:
        """Move a note, which has `num_keys` keys, into another slot."""
        for tensor_SCGD in (*self.keys.values(), *self.values.values()):
            tensor_SCGD[target, :num_keys] = tensor_SCGD[source, :num_keys]
        self.position_SC[target] = self.position_SC[source]
        self.visible_SKC[target] = self.visible_SKC[source]

    def write(self, layer: int, key_TGD: Tensor, value_TGD: Tensor, step: Step) -> None:
        """Store the keys and values of this forward pass."""
        if layer not in self.keys:
            shape = (len(self.position_SC), self.capacity)
            # Zeros instead of uninitialised memory: a masked key has weight 0, and 0 times a stray NaN would be NaN.
            self.keys[layer] = key_TGD.new_zeros(*shape, *key_TGD.shape[1:])
            self.values[layer] = value_TGD.new_zeros(*shape, *value_TGD.shape[1:])
        for cached_SCGD, new_TGD in ((self.keys[layer], key_TGD), (self.values[layer], value_TGD)):
            decoded = new_TGD[: step.num_decoded].unflatten(0, (step.num_rows, step.num_beams))
            cached_SCGD[step.row_R1, step.columns_RK] = decoded
            start = step.num_decoded
            for slot, length in enumerate(step.prompt_lengths, start=step.num_rows):
                cached_SCGD[slot, :length] = new_TGD[start : start + length]
                start += length

    def mask(self, step: Step, *, window: int | None, dtype: torch.dtype, group: int) -> Tensor:
        """(R, 1, K x H/G, L): 0 where a beam attends to a key, -inf elsewhere."""
        if window not in step.masks:
            visible_RKL = self.visible_SKC[: step.num_rows, :, : step.num_keys]
            if window is not None:
                age_RL = step.positions_R[:, None] - self.position_SC[: step.num_rows, : step.num_keys]
                visible_RKL = visible_RKL & (age_RL < window)[:, None]
            mask_RKL = torch.zeros(visible_RKL.shape, dtype=dtype, device=visible_RKL.device)
            mask_RKL.masked_fill_(~visible_RKL, float("-inf"))
            step.masks[window] = mask_RKL.repeat_interleave(group, dim=1)[:, None]
        return step.masks[window]


@contextmanager
def cached_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, `model(..., kv_cache=cache, decoding_step=step)` stores its keys and values in `cache`."""
    name = f"{IMPLEMENTATION_PREFIX}decoding"
    AttentionInterface.register(name, attend_cached)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attend_cached(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None,
    *,
    kv_cache: KVCache,
    decoding_step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    image_runs: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`attend` with the interface of transformers: (1, T, H, D) and no weights."""
    if attention_mask is not None:
        raise ValueError("decoding makes its own masks: pass none")
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query_1HTD, key_1GTD, value_1GTD))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    options: dict[str, Any] = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    if image_runs is not None:
        runs_T = image_runs[0, decoding_step.num_decoded :]
        options |= {"attend_prompts": partial(attend_documents, image_runs=runs_T), "prompts_are_causal": False}
    return attend(kv_cache, layer, query, key, value, decoding_step, **options)[None], None


def attend(
    cache: KVCache,
    layer: int,
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    step: Step,
    *,
    only_last: bool = False,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    attend_prompts: Callable[..., Tensor] = attend_documents,
    prompts_are_causal: bool = True,
) -> Tensor:
    """Attention of one packed forward pass, (T, H, D): prompts attend to themselves, new tokens to their slot.

    `attend_prompts`: replaces `model.attention.attend_documents`, on devices without a variable-length kernel, and
    where prompts are not causal throughout, as with images. With `only_last` the queries, and so the output, are those
    of the new tokens and each prompt's last one.
    """
    dtype = query_THD.dtype
    compute = arithmetic_dtype(query_THD.device, dtype)
    query, key, value = (tensor.to(compute) for tensor in (query_THD, key_TGD, value_TGD))
    cache.write(layer, key, value, step)
    options: dict[str, Any] = {"scaling": scaling, "softcap": softcap}
    parts, place = [], step.num_decoded
    if step.num_rows:
        parts.append(_attend_slots(query[:place], cache, layer, step, window=window, **options))
    if step.prompt_lengths and not only_last:
        prompts = (tensor[place:] for tensor in (query, key, value))
        if prompts_are_causal and softcap is None and has_varlen(query.device, compute):
            attend_prompts = partial(attend_packed, starts=step.prompt_starts)
        parts.append(attend_prompts(*prompts, step.prompt_lengths, window=window, **options))
    elif only_last:
        for number, length in enumerate(step.prompt_lengths, start=place):
            span = slice(place, place + length)
            parts.append(_attend_last(query[number, None], key[span], value[span], window=window, **options))
            place += length
    out_THD = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out_THD.to(dtype)


def _attend_last(
    query_1HD: Tensor,
    key_LGD: Tensor,
    value_LGD: Tensor,
    *,
    window: int | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """A prompt's last token attends to the prompt, within its window: (1, H, D)."""
    first = max(0, len(key_LGD) - window) if window else 0
    query_1GQD = query_1HD.unflatten(1, (key_LGD.shape[1], -1))
    key, value = (tensor[first:].transpose(0, 1)[None] for tensor in (key_LGD, value_LGD))
    return _attend_part(query_1GQD, key, value, None, scaling=scaling, softcap=softcap).flatten(1, 2)


def _attend_slots(
    query_THD: Tensor,
    cache: KVCache,
    layer: int,
    step: Step,
    *,
    window: int | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """The newest tokens of all beams attend to their slots, (R x K, H, D). Beams and grouped heads share one read."""
    rows, beams, size = step.num_rows, step.num_beams, query_THD.shape[2]
    num_groups = cache.keys[layer].shape[2]
    group = query_THD.shape[1] // num_groups
    query = query_THD.reshape(rows, beams, num_groups, group, size).transpose(1, 2)
    query_RGQD = query.reshape(rows, num_groups, beams * group, size)  # Q = K x H/G
    mask_R1QL = cache.mask(step, window=window, dtype=query.dtype, group=group)
    # Keys before the oldest window: a key's column is never before its position.
    first = max(0, step.first_position - window + 1) if window else 0
    first -= first % ALIGNED_KEYS
    pieces = []
    for part in _row_parts(rows, query.device):
        last = max(step.key_counts[part])
        key, value = (cached[layer][part, first:last].transpose(1, 2) for cached in (cache.keys, cache.values))
        mask = mask_R1QL[part, :, :, first:last]
        pieces.append(_attend_part(query_RGQD[part], key, value, mask, scaling=scaling, softcap=softcap))
    out = torch.cat(pieces).view(rows, num_groups, beams, group, -1).transpose(1, 2)  # values may be narrower than keys
    return out.reshape(rows * beams, num_groups * group, -1)


def _row_parts(num_rows: int, device: torch.device) -> list[slice]:
    """Slots, a few at a time on a CPU, so that each part reads no more keys than its own longest note has."""
    size = max(MIN_ROWS_AT_A_TIME, torch.get_num_threads()) if device.type == "cpu" else num_rows
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _attend_part(
    query_RGQD: Tensor,
    key_RGLD: Tensor,
    value_RGLD: Tensor,
    mask_R1QL: Tensor | None,
    *,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query_RGQD, key_RGLD, value_RGLD, attn_mask=mask_R1QL, scale=scaling)
    scores = query_RGQD @ key_RGLD.transpose(2, 3) * (scaling if scaling is not None else query_RGQD.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if mask_R1QL is not None:
        scores = scores + mask_R1QL
    return scores.softmax(-1, dtype=torch.float32).to(query_RGQD.dtype) @ value_RGLD
