"""How our cost grows with the tokens of a row and with the number of rows: random rows, a new process for each."""

from __future__ import annotations

import argparse
import random
import tempfile
from typing import Any

from train_sides import WINDOW_ROWS, our_run, train_windows

ROW_TOKENS = (128, 512, 1024, 4096)
ROWS_OF_A_LENGTH = 4  # one row a micro-batch
ROW_FACTORS = (1, 4, 16)  # windows of rows of the first length
NOTE_SHARE = 5  # a fifth of a row's tokens are the note's, as in MTS-Dialog


def growth_sides() -> list[str]:
    """Names of the processes to run: `grow:TOKENS:ROWS`."""
    lengths = [f"grow:{tokens}:{ROWS_OF_A_LENGTH}" for tokens in ROW_TOKENS]
    return lengths + [f"grow:{ROW_TOKENS[0]}:{factor * WINDOW_ROWS}" for factor in ROW_FACTORS]


def run_grown(args: argparse.Namespace, side: str) -> dict[str, Any]:
    """One of `growth_sides`: rows of that length, that many, packed to the recipe's 1,024 tokens or the row's."""
    tokens, num_rows = (int(part) for part in side.split(":")[1:])
    with tempfile.TemporaryDirectory() as folder:
        run = our_run(args, folder, "--max_length", str(max(1024, tokens)), "--gradient_checkpointing", "off")
        if num_rows == ROWS_OF_A_LENGTH:
            run.pack_tokens = tokens
        vocabulary = run.model.config.get_text_config().vocab_size
        return train_windows(run, [random_row(number, tokens, vocabulary) for number in range(num_rows)])


def random_row(number: int, num_tokens: int, vocabulary: int) -> Any:
    """Random ids, the last fifth of them the note."""
    from medsum_core.data.masking import IGNORE_INDEX, Example

    chance = random.Random(number)
    ids = [chance.randrange(1000, vocabulary - 1000) for _ in range(num_tokens)]
    prompt = num_tokens - num_tokens // NOTE_SHARE
    targets = [IGNORE_INDEX] * (prompt - 1) + ids[prompt:] + [1]
    return Example(
        id=str(number),
        input_ids=tuple(ids),
        targets=tuple(targets),
        num_prompt_tokens=prompt,
        num_turns_dropped=0,
    )
