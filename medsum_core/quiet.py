"""Silence for the libraries' own progress bars and log lines, so that what a person reads is what concerns them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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
