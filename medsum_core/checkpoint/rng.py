"""The state of all random generators of a process as plain JSON values: reading them runs no code, unlike pickle."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from medsum_core.errors import InputError


def capture_rng() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators (CPU and, if there is one, the current CUDA device)."""
    numpy_state: Any = np.random.get_state(legacy=True)
    algorithm, keys, position, has_gauss, cached_gaussian = numpy_state
    version, words, next_gauss = random.getstate()
    return {
        "python": [version, list(words), next_gauss],
        "numpy": [algorithm, keys.tolist(), position, has_gauss, cached_gaussian],
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": _to_hex(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set every generator to a state of `capture_rng`. Raises InputError when one is missing or unusable."""
    try:
        version, words, next_gauss = state["python"]
        random.setstate((version, tuple(words), next_gauss))
        algorithm, keys, position, has_gauss, cached_gaussian = state["numpy"]
        np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), position, has_gauss, cached_gaussian))
        torch.set_rng_state(_from_hex(state["torch"]))
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(_from_hex(state["cuda"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint's random state cannot be restored ({error}): choose another one") from error


def start_rng(*numbers: int) -> None:
    """Seed every generator from `numbers`, such as those of a run, an update and a process."""
    (seed,) = np.random.SeedSequence(numbers).generate_state(1)
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))  # CUDA's too


def _to_hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
