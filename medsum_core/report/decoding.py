"""How the report's notes are decoded: chosen by the memory that is free after training, not by training's settings."""

from __future__ import annotations

from functools import partial

from medsum_core.device import find_device
from medsum_core.generation.decoding_memory import DecodingChoice, decide_for
from medsum_core.generation.generate import Decoder
from medsum_core.model.lora import dequantize_base
from medsum_core.training.plan import Plan
from medsum_core.training.run import Run


def prepare_decoding(plan: Plan, run: Run) -> tuple[DecodingChoice, Decoder | None]:
    """The choice and a decoder that follows it.

    Training is over: the run can accumulate no more gradients, and on the reference path the base is dequantised.
    """
    model, data = run.config.model, run.config.data
    run.accumulate = None  # its graphs keep the memory of activations, which notes can use
    in_4bit = model.load_in_4bit and model.dequantize != "on"
    decoder = run.kernels.decoder
    choice = decide_for(
        plan.base_config,
        find_device(run.accelerator.local_process_index),
        precision=model.precision,
        asked=None,
        load_in_4bit=in_4bit,
        has_own_weights=decoder is not None,
        is_loaded=True,
        prompt_tokens=data.max_prompt_tokens,
        new_tokens=data.max_new_tokens,
        num_beams=1,
    )
    if decoder is not None:
        return choice, partial(decoder, dense=choice.dense)
    if choice.dense:
        dequantize_base(run.model)
    return choice, None
