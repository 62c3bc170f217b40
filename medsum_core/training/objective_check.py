"""An objective of a user's own, checked before the first update.

Letters: T positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor

from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.errors import InputError
from medsum_core.kernels import GRAPHS, OWN_OBJECTIVE
from medsum_core.model.forward import head_softcap, head_weight
from medsum_core.training.loss import Objective, note_nll, with_options

NUM_TARGETS = (3, 5)  # of the two rows; a mean over the targets is their sum divided by 8
TOLERANCE = 0.1  # relative; rounding to 16 bits stays far below, a mean far above


def check_objective(objective: Objective, model: PeftModel, *, kernels: str) -> None:
    """Raise InputError for an objective whose loss of two rows is not the sum of their losses, such as a mean.

    The gradient of a window would depend on how it is cut into micro-batches, and a mean be divided twice. The rows are
    random; the state of torch's generators does not change.
    """
    if objective is note_nll:
        return
    if kernels == GRAPHS:
        raise InputError(OWN_OBJECTIVE)
    head_VH, chance = head_weight(model), torch.Generator().manual_seed(0)
    rows = []
    for num_targets in NUM_TARGETS:
        hidden_1TH = torch.randn(1, num_targets + 1, head_VH.shape[1], generator=chance)
        targets_1T = torch.randint(len(head_VH), (1, num_targets + 1), generator=chance)
        targets_1T[:, -1] = IGNORE_INDEX
        rows.append((hidden_1TH.to(head_VH), targets_1T.to(head_VH.device)))

    def loss(hidden_1TH: Tensor, targets_1T: Tensor) -> float:
        checked, softcap = with_options(objective), head_softcap(model)
        return checked(hidden_1TH.requires_grad_(), targets_1T, head_VH, softcap=softcap).item()

    separately = [loss(*row) for row in rows]
    together = loss(*(torch.cat(parts, 1).detach() for parts in zip(*rows, strict=True)))
    if abs(together - sum(separately)) > TOLERANCE * sum(map(abs, separately)):
        raise InputError(
            f"the objective's loss of two rows is {together:.4g}, and {separately[0]:.4g} and {separately[1]:.4g} of "
            "each alone: it must return the loss summed over the targets, not a mean"
        )
