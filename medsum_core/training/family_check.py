"""For an untested model family: check that this loop's loss and notes equal those of the model's own code.

Letters: B rows, T positions. Some families do more after the last layer than this code knows of, such as adding a bias
to their logits: without this check the loop would silently train on another loss than the model's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from medsum_core.data.collator import pad_rows
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.errors import InputError
from medsum_core.generation.decoding_check import check_decoding, failing_as_input_error
from medsum_core.kernels import Kernels
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import autocast, causal_model, evaluation_mode, head_softcap, head_weight
from medsum_core.training.loss import note_token_nll

NUM_ROWS = 2
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}  # relative, rounding of activations included


@torch.no_grad()
def check_family(model: PeftModel, rows: Sequence[Example], *, kernels: Kernels, attention: str) -> None:
    """Compare loss and notes of the shortest rows with those of the model's own forward pass and `generate`.

    Raises InputError with both numbers where they differ, and with the reason where the family's code does not run.
    """
    shortest = sorted(rows, key=lambda row: row.num_tokens)[:NUM_ROWS]
    with failing_as_input_error(causal_model(model), "trained"):
        ours, theirs = _losses(model, shortest, kernels=kernels, attention=attention)
    if not abs(ours - theirs) <= BOUNDS.get(causal_model(model).dtype, 1e-3) * theirs:
        raise InputError(
            f"--model_name_or_path: {model.config.model_type} is no tested family, and this loop's loss on "
            f"{len(shortest)} rows is {ours:.4f} where the model's own is {theirs:.4f}: it can't be trained here"
        )
    check_decoding(model, [row.prompt_ids for row in shortest], decoder=kernels.decoder)


def _losses(model: PeftModel, rows: Sequence[Example], *, kernels: Kernels, attention: str) -> tuple[float, float]:
    """(loss of this loop, loss of the model's own forward pass), each the mean over the rows' targets, nats."""
    batch = pad_rows(rows, pad_token_id=0).to(model.device)
    lengths_B1 = torch.tensor([[row.num_tokens] for row in rows], device=model.device)
    attention_mask_BT = (torch.arange(batch.input_ids_BT.shape[1], device=model.device) < lengths_B1).long()
    with evaluation_mode(model):
        with document_attention(model, attention, functions=kernels.attention):
            hidden_BTH = kernels.hidden_states(model, batch)
        ours = note_token_nll(hidden_BTH, batch.targets_BT, head_weight(model), softcap=head_softcap(model)).mean()
        with autocast(model):
            logits_BTV = model(
                input_ids=batch.input_ids_BT, attention_mask=attention_mask_BT, use_cache=False
            ).logits.float()
    theirs = cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE_INDEX)
    return ours.item(), theirs.item()
