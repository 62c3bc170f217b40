"""Whether the loop uses images: a random model, trained on drawn images, against its answers without them.

    python benchmarks/images.py --folder WORK

Draws the fictional set (`medsum_core/images/drawn.py`), makes a small Gemma 3 of random weights with a tokenizer of the
set's words, and trains it with the unchanged `train_loop.py`: an adapter of full rank on a random language model. The
tower stays random, since the loop never trains it; its features suffice for such simple images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_loop
from medsum_core.images.drawn import ANSWERS, SIDE, write_set
from medsum_core.tasks.find import find_task

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
HIDDEN, LAYERS, PATCH, TOKENS = 64, 2, 8, 64
RECIPE = """--task vqa-rad --load_in_4bit false --precision fp32 --offline true --prompt_style plain
    --lora_r 64 --lora_alpha 64 --lora_dropout 0 --learning_rate 3e-3 --lr_scheduler_type cosine --warmup_steps 20
    --optim adamw_torch --gradient_accumulation_steps 16 --max_length 160 --max_new_tokens 8 --pack_tokens 1280
    --eval_strategy no --save_strategy no"""


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE of the set's own words, about one token a word."""
    task = find_task("vqa-rad")
    texts = [task.instruction, *ANSWERS, *(answer for some in ANSWERS.values() for answer in some), "Question: Answer:"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *(" " + text for text in texts)], trainer)
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=list(SPECIALS[4:]),
        clean_up_tokenization_spaces=False,
        **names,
    )


def random_base(folder: Path, *, seed: int) -> None:
    """A small Gemma 3 of random weights with its tower, tokenizer and image processor."""
    tokenizer = word_tokenizer()
    torch.manual_seed(seed)
    text = {
        "vocab_size": 600, "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "query_pre_attn_scalar": 32,
        "max_position_embeddings": 1024, "sliding_window": 512, "initializer_range": 0.06,
        "layer_types": ["full_attention"] * LAYERS, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    }  # fmt: skip
    vision = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": SIDE, "patch_size": PATCH},
        mm_tokens_per_image=TOKENS,
        boi_token_index=4,
        eoi_token_index=5,
        image_token_index=6,
        tie_word_embeddings=True,
    )
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():  # transformers initialises it with zeros, which would hide every image
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=HIDDEN**-0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_pan_and_scan=False).save_pretrained(folder)


def learn(work: Path, *more: str, rows: int = 200, epochs: int = 20, seed: int = 0) -> str:
    """Draw, build and train in a new folder; returns the report's part on whether the model uses its images."""
    write_set(work / "drawn", rows=rows, seed=seed)
    random_base(work / "base", seed=seed)
    files = f"--train_file {work}/drawn/train.csv --validation_file {work}/drawn/valid.csv"
    places = f"--output_dir {work}/run --model_name_or_path {work}/base --image_features {work}/features"
    train_loop.main([*f"{RECIPE} {files} {places} --num_train_epochs {epochs}".split(), *more])
    report = (work / "run" / "report.md").read_text()
    return report[report.index("### Does it look") : report.index("## Facts")]


def main() -> None:
    """The command line; flags that are not named here go to train_loop.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    values, more = parser.parse_known_args()
    print(learn(values.folder, *more, rows=values.rows, epochs=values.epochs, seed=values.seed))


if __name__ == "__main__":
    main()
