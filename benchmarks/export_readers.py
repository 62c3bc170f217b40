"""The programs that `export.py` runs in environments of other versions; they import nothing of this project.

    python benchmarks/export_readers.py logits MODEL_FOLDER OUT.safetensors
    python benchmarks/export_readers.py peft BASE_FOLDER ADAPTER_FOLDER OUT.safetensors
    python benchmarks/export_readers.py gguf MODEL_FOLDER FILE.gguf OUT.safetensors
    python benchmarks/export_readers.py tokenizer NEW_FOLDER ROWS.csv

Each of the first three writes `logits_TV` (fp32) of the same token ids, and `ids_T` of the same text where it has a
tokenizer. The last writes the files of a small Gemma tokenizer as on the hub, with its sentencepiece model.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

NUM_IDS = 96
TEXT = "Doctor: Any fever,  or a cough?\n\nPatient: No. 37.2 °C \U0001f600<end_of_turn>\n"


def logits(folder: str, out: str) -> None:
    """A model folder and its tokenizer, as plain transformers reads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    _write(model, out, tokenizer=AutoTokenizer.from_pretrained(folder))


def peft(base: str, adapter: str, out: str) -> None:
    """The adapter over its base, as plain PEFT opens it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    _write(PeftModel.from_pretrained(model, adapter), out)


def gguf(folder: str, path: str, out: str) -> None:
    """The model of a GGUF file: Gemma 1 rebuilt from its tensors and keys, others as transformers reads their tensors.

    Those get the folder's configuration: the format leaves out what llama.cpp knows by family, such as which layers
    slide. Raises AssertionError where the file's tokens are not those of the folder's sentencepiece model, or where
    that has other ids for a text than the folder's tokenizer.
    """
    from gguf import GGUFReader
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    reader = GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    pieces = SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
    assert tokens[: len(pieces)] == [pieces.id_to_piece(number) for number in range(len(pieces))]
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False).input_ids
    assert pieces.encode(TEXT) == ids, f"{pieces.encode(TEXT)} and {ids}"
    if reader.fields["general.architecture"].contents() == "gemma":
        model = _gemma(reader)
    else:
        file = Path(path)
        options: Any = {"dtype": torch.float32, "attn_implementation": "eager"}
        options |= {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
        tensors = AutoModelForCausalLM.from_pretrained(file.parent, **options).state_dict()
        config = AutoConfig.from_pretrained(folder, dtype=torch.float32)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model.load_state_dict(tensors)
    _write(model, out)


def tokenizer(folder: str, rows: str) -> None:
    """The files of a Gemma tokenizer of 500 pieces, made by transformers 4.57 from a sentencepiece model."""
    import csv

    from sentencepiece import SentencePieceTrainer
    from transformers import GemmaTokenizerFast

    with open(rows, encoding="utf-8", newline="") as file:
        lines = [line for row in csv.DictReader(file) for line in row["dialogue"].splitlines() if line]
    model = io.BytesIO()
    pieces = {f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        **{f"{name}_id": number for number, name in enumerate(("pad", "eos", "bos", "unk"))},
        **pieces,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path = Path(folder) / "tokenizer.model"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    turns = ["<start_of_turn>", "<end_of_turn>"]
    GemmaTokenizerFast(vocab_file=str(path), additional_special_tokens=turns).save_pretrained(folder)


def _gemma(reader: Any) -> Any:
    """Gemma 1 from a GGUF file's tensors and keys; its norm weights are those of transformers plus 1."""
    from gguf import dequantize
    from transformers import GemmaConfig, GemmaForCausalLM

    keys = {name.removeprefix("gemma."): field.contents() for name, field in reader.fields.items()}
    tensors = {one.name: torch.from_numpy(dequantize(one.data, one.tensor_type).copy()) for one in reader.tensors}
    config = GemmaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=keys["embedding_length"],
        intermediate_size=keys["feed_forward_length"],
        num_hidden_layers=keys["block_count"],
        num_attention_heads=keys["attention.head_count"],
        num_key_value_heads=keys["attention.head_count_kv"],
        head_dim=keys["attention.key_length"],
        rms_norm_eps=keys["attention.layer_norm_rms_epsilon"],
        max_position_embeddings=keys["context_length"],
        hidden_activation="gelu_pytorch_tanh",
        attn_implementation="eager",
    )
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    layer = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_output": "self_attn.o_proj",
        **{f"attn_{one}": f"self_attn.{one}_proj" for one in "qkv"},
        **{f"ffn_{one}": f"mlp.{one}_proj" for one in ("gate", "up", "down")},
    }
    for number in range(config.num_hidden_layers):
        names |= {f"blk.{number}.{here}": f"model.layers.{number}.{there}" for here, there in layer.items()}
    state = {
        f"{names[name.removesuffix('.weight')]}.weight": tensor - 1 if name.endswith("norm.weight") else tensor
        for name, tensor in tensors.items()
    }
    model = GemmaForCausalLM(config)
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    return model


def _write(model: Any, out: str, *, tokenizer: Any = None) -> None:
    ids_1T = torch.randint(6, 400, (1, NUM_IDS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tensors = {"logits_TV": model.eval()(ids_1T, use_cache=False).logits[0].contiguous()}
    if tokenizer is not None:
        tensors["ids_T"] = torch.tensor(tokenizer(TEXT).input_ids)
        turn = [{"role": "user", "content": TEXT}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        tensors["prompt_T"] = torch.tensor(tokenizer(prompt, add_special_tokens=False).input_ids)
    save_file(tensors, out, metadata={"made_by": json.dumps(sys.argv[1])})


if __name__ == "__main__":
    {"logits": logits, "peft": peft, "gguf": gguf, "tokenizer": tokenizer}[sys.argv[1]](*sys.argv[2:])
