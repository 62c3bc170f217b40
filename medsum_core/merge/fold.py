"""The adapter summed into its 16-bit base, and the files of the sum: kept only if they still say the same.

Never into 4 bits: the sum would have to be quantised anew, which changes the model by far more than the merge does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from medsum_core.data.prompt import PromptRenderer
from medsum_core.errors import InputError
from medsum_core.merge.parity import Parity, ParityError, Reading, compare
from medsum_core.model.base import load_base
from medsum_core.quiet_libraries import quiet_libraries

REASON_4BIT = (
    "an adapter is merged into 16-bit weights only: a sum kept in 4 bits would be quantised anew, and that changes the "
    "model by more than the merge does"
)


def refuse_quantised(name: str, config: Any) -> None:
    """Raise InputError for a base whose own files are quantised."""
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{name}: this base is itself quantised; {REASON_4BIT}")


def fold(model: PeftModel) -> PreTrainedModel:
    """W + s B A by PEFT: summed in fp32, rounded once to the base's dtype. The base is changed, the adapter taken out.

    Raises InputError for weights in 4 bits.
    """
    if any(hasattr(parameter, "quant_state") for parameter in model.parameters()):
        raise InputError(REASON_4BIT)
    # safe_merge would round s B A to bf16 before the sum, and the sum again.
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=False)
    return merged.eval()


def save_behind_gate(
    merged: PreTrainedModel,
    readings: Sequence[Reading],
    output: Path,
    *,
    renderer: PromptRenderer,
    max_new_tokens: int,
) -> Parity:
    """Write the folder beside its place, compare the model that is in it, and only then rename it.

    It holds bf16 safetensors, the tokenizer with its chat template, and a generation configuration that ends notes
    where this project does. Private to its owner: weights can remember what they were trained on. `merged` ends on the
    CPU. Raises ParityError beyond the gate's bounds, InputError if the system refuses to write; nothing stays then.
    """
    device, draft = merged.device, None
    nn.Module.to(merged, "cpu")  # a small card has no room for it and for the one that is read back
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
        _save(merged, draft, renderer=renderer, max_new_tokens=max_new_tokens)
        parity = compare(load_base(str(draft), precision="bf16", offline=True, device=device), readings)
        if not parity.holds:
            raise ParityError(f"{parity.line()}; the merged model is not what base and adapter are, so it was removed")
        with suppress(FileNotFoundError):
            output.rmdir()  # an empty folder may stand in the place
        os.rename(draft, output)
    except OSError as error:
        raise InputError(f"--output_dir {output}: can't be written ({error.strerror or error})") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return parity


def _save(merged: PreTrainedModel, folder: Path, *, renderer: PromptRenderer, max_new_tokens: int) -> None:
    merged.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=list(renderer.stop_token_ids),
        pad_token_id=renderer.pad_token_id,
    )
    with quiet_libraries():
        merged.save_pretrained(folder)
        renderer.tokenizer.save_pretrained(folder)
