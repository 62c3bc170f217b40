"""Suppress libraries' progress bars, log lines and warnings, and their download of native code from a hub on import."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

KERNELS_LOGGER = "bitsandbytes.backends.cpu.ops"
KERNELS_LINE = "Failed to load CPU gemm_4bit_forward from kernels-community"
NOISY_LOGGERS = ("transformers", "bitsandbytes", "peft", "accelerate", "datasets", "huggingface_hub")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide loading bars, library log lines below ERROR and Python warnings while the block runs; then restore them."""
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    bars_were_on = transformers_logging.is_progress_bar_enabled()
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars_were_on:
            transformers_logging.enable_progress_bar()


def refuse_hub_kernels() -> None:
    """Make `import kernels` fail in this process, whether the package is installed, imported already or a plain folder.

    Through it bitsandbytes downloads native code from a hub during its own import, and transformers imports it where it
    is installed. Nothing here uses it. None in `sys.modules` makes Python raise ModuleNotFoundError for a module.
    """
    sys.modules["kernels"] = None  # type: ignore[assignment]


def hide_missing_kernels_line() -> None:
    """Hide bitsandbytes' advice, at its import on CPUs with AVX512-BF16, to `pip install kernels`; nothing else of it.

    That package would download native code from the hub at every import, so it is refused (`refuse_hub_kernels`); and
    the kernel in question is never used here (`keep_4bit_differentiable`). Other reasons for its failure are shown.
    """
    logging.getLogger(KERNELS_LOGGER).addFilter(_is_not_the_missing_kernels_line)  # a second time changes nothing


def _is_not_the_missing_kernels_line(record: logging.LogRecord) -> bool:
    reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
    is_missing = isinstance(reason, ModuleNotFoundError) and reason.name == "kernels"
    return not (is_missing and str(record.msg).startswith(KERNELS_LINE))
