"""A merged folder for other programs: names of transformers 4.57 and 5, the base's own files, tokenizer.model.

`benchmarks/export.py` loads such folders with these versions and with llama.cpp's converter.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CORPUS, tiny_config, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from medsum_core.data.prompt import build_renderer
from medsum_core.merge.both_spellings import spell_config, with_old_rope_names
from medsum_core.merge.fold import save_if_equal
from medsum_core.merge.parity import NoteLogits, ParityError
from medsum_core.merge.sentencepiece_file import sentencepiece_bytes
from medsum_core.model.local_files import text_files

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def export(base: Path, out: Path, *, kind: str = "gemma", tokenizer: Any = None) -> Path:
    """A merged folder of an unchanged model with the base's files."""
    model = tiny_model(kind, dtype=torch.bfloat16)
    row = (2, 40, 41)
    with torch.no_grad():
        logits = model.float()(torch.tensor([row])).logits[0]
    expected = [NoteLogits(token_ids=row, logits_TV=logits)]
    renderer = build_renderer(tokenizer or AutoTokenizer.from_pretrained(base))
    model = model.to(torch.bfloat16)
    save_if_equal(model, expected, out, renderer=renderer, max_new_tokens=8, text_files=text_files(str(base)))
    return out


def gemma_tokenizer() -> Tokenizer:
    """A BPE with byte fallback that treats text as Gemma's does, of fewer than 512 pieces."""
    turns = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *turns, *bytes_]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in bytes_]
    return Tokenizer.from_str(json.dumps(values))


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, bytes and little-endian floats."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = 4 if key & 7 == 5 else varint()
        piece, position = data[position : position + length], position + length
        yield key >> 3, struct.unpack("<f", piece)[0] if key & 7 == 5 else piece


def encode(data: bytes, text: str) -> list[int]:
    """sentencepiece's BPE, written plainly: merge the neighbours whose piece scores highest, until none is a piece."""
    rows = [dict(fields(value)) for field, value in fields(data) if field == 1]
    pieces = [row[1].decode() for row in rows]
    number = {piece: index for index, piece in enumerate(pieces)}
    scores = {row[1].decode(): row[2] for row in rows if row[3] == 1}
    whole = [piece for piece, row in zip(pieces, rows, strict=True) if row[3] == 4]
    symbols, text = [], text.replace(" ", "\u2581")
    while text:
        found = next((piece for piece in whole if text.startswith(piece)), text[0])
        symbols.append(found)
        text = text[len(found) :]
    while True:
        pairs = [(scores.get(a + b, -1e9), -i) for i, (a, b) in enumerate(itertools.pairwise(symbols))]
        best, place = max(pairs, default=(-1e9, 0))
        if best == -1e9:
            break
        symbols[-place : -place + 2] = [symbols[-place] + symbols[-place + 1]]
    ids = [[number[one]] if one in number else [number[f"<0x{b:02X}>"] for b in one.encode()] for one in symbols]
    return [one for some in ids for one in some]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma"])
def test_rotary_settings_are_written_under_the_names_of_both_versions(tmp_path: Path, kind: str) -> None:
    for rope in ({"rope_type": "default", "rope_theta": 500_000.0}, LLAMA3):
        config = tiny_config(kind, rope_parameters=dict(rope))
        config.save_pretrained(tmp_path)
        spell_config(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())
        assert values["rope_theta"] == 500_000.0 and values["rope_parameters"] == rope
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        assert values.get("rope_scaling") == (scaling if rope is LLAMA3 else None)
        assert AutoConfig.from_pretrained(tmp_path).to_dict()["rope_parameters"] == rope


def test_rotary_settings_of_sliding_layers_have_a_name_of_their_own(tmp_path: Path) -> None:
    config = tiny_config("gemma3_text")
    config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    config.save_pretrained(tmp_path)
    spell_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["rope_theta"], values["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert values["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters
    inside = with_old_rope_names({"text_config": config.to_dict(), "vision_config": {"hidden_size": 8}})
    assert inside["text_config"]["rope_local_base_freq"] == 10_000.0 and "rope_theta" not in inside["vision_config"]


def test_old_names_that_this_version_reads_differently_are_left_out_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_config("llama", rope_parameters=dict(LLAMA3)).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()

    def wrong(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}

    monkeypatch.setattr("medsum_core.merge.both_spellings.with_old_rope_names", wrong)
    spell_config(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    assert "the merged model is for 5" in capsys.readouterr().err


def test_the_bases_own_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """As on the hub: `tokenizer.model`, a configuration of transformers 4, and processor files."""
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": f"<{role}>" for role in ("bos", "eos", "unk", "pad")},
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
        "added_tokens_decoder": {},
    }
    (base / "tokenizer_config.json").write_text(json.dumps(named))
    (base / "tokenizer.model").write_bytes(b"pieces")
    for name in ("preprocessor_config.json", "processor_config.json", "special_tokens_map.json"):
        (base / name).write_text("{}  ")
    merged = export(base, tmp_path / "merged")
    copied = {path.name: path.read_bytes() for path in base.iterdir()}
    assert len(copied) == 7
    assert {name: (merged / name).read_bytes() for name in copied} == copied
    assert {path.name for path in merged.iterdir()} - set(copied) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert AutoModelForCausalLM.from_pretrained(merged).dtype == torch.bfloat16


def test_a_tokenizer_saved_by_transformers_5_gets_the_names_of_4(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    before = json.loads((base / "tokenizer_config.json").read_text())
    assert before["tokenizer_class"] == "TokenizersBackend" and isinstance(before["extra_special_tokens"], list)
    merged = export(base, tmp_path / "merged")
    after = json.loads((merged / "tokenizer_config.json").read_text())
    assert after.pop("tokenizer_class") == "PreTrainedTokenizerFast" and "extra_special_tokens" not in after
    assert after.pop("additional_special_tokens") == before["extra_special_tokens"]
    assert after.items() <= before.items()
    assert not (merged / "tokenizer.model").exists()  # sentencepiece has no byte-level BPE


def test_a_tokenizer_that_is_not_the_bases_leaves_nothing(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_tokenizer().save_pretrained(base)
    shutil.copytree(base, tmp_path / "changed")
    path = tmp_path / "changed" / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"<pad>"', '"<unk>"'))
    with pytest.raises(ParityError, match="tokenizer"):
        export(tmp_path / "changed", tmp_path / "merged", tokenizer=AutoTokenizer.from_pretrained(base))
    assert not (tmp_path / "merged").exists()


def test_a_sentencepiece_model_is_made_from_a_gemma_tokenizer(tmp_path: Path) -> None:
    """Its pieces, merged by their scores, give the ids that the tokenizer gives; a byte-level BPE has none."""
    base = tmp_path / "base"
    named = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "unk", "pad")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=gemma_tokenizer(), **named)
    tokenizer.chat_template = tiny_tokenizer().chat_template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.save_pretrained(base)
    data = (export(base, tmp_path / "merged") / "tokenizer.model").read_bytes()
    texts = [*CORPUS, "  two  spaces\n\nDoctor:\té \U0001f600", "<start_of_turn>user\nAny cough?<end_of_turn>\n"]
    for text in texts:
        assert encode(data, text) == tokenizer(text, add_special_tokens=False).input_ids
    trainer = dict(fields(next(value for field, value in fields(data) if field == 2)))
    assert (trainer[3], trainer[4], trainer[35]) == (2, len(tokenizer), 1)
    assert [trainer[40 + index] for index in range(4)] == [3, 2, 1, 0]  # unk, bos, eos, pad
    kinds = [dict(fields(value))[3] for field, value in fields(data) if field == 1]
    assert kinds[:8] == [3, 3, 3, 2, 4, 4, 6, 6]
    values = json.loads((base / "tokenizer.json").read_text())
    merges = values["model"]["merges"]
    values["model"]["merges"] = [*merges, merges[0]]  # not in the order of its pieces
    (base / "tokenizer.json").write_text(json.dumps(values))
    assert sentencepiece_bytes(base) is None
    tiny_tokenizer().save_pretrained(base)
    assert sentencepiece_bytes(base) is None
