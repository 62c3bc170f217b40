"""Make a model folder readable by transformers 4.57 and 5: fields that 5 has renamed are written under both names.

vLLM and text-generation-inference environments still use 4.57. It reads rotary positions from `rope_theta`,
`rope_local_base_freq` and `rope_scaling`, silently ignores `rope_parameters`, and supports neither the class
`TokenizersBackend` nor a list of `extra_special_tokens`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME

from medsum_core.files import write_text_atomic
from medsum_core.model.base import load_config
from medsum_core.model.local_files import CHAT_TEMPLATE, OLD_CHAT_TEMPLATE

OWN_KEYS = ("rope_theta", "partial_rotary_factor")  # 4.57 has them beside `rope_scaling`, not inside
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"  # two names of one class in 5
NEW_TOKENS, OLD_TOKENS = "extra_special_tokens", "additional_special_tokens"


def spell_config(folder: Path) -> None:
    """Add the names of 4.57 to the folder's `config.json`, if this transformers still reads the same from it.

    If the two versions have no common form, the file is left unchanged and a line is printed on stderr.
    """
    path = folder / CONFIG_NAME
    written = path.read_text(encoding="utf-8")
    before = load_config(str(folder), offline=True).to_dict()
    _write(path, with_old_rope_names(json.loads(written)))
    after = load_config(str(folder), offline=True).to_dict()
    if not _holds(before, after):
        write_text_atomic(path, written)
        print(
            f"{CONFIG_NAME}: the rotary positions of {before.get('model_type')} have no spelling that transformers 4 "
            "and 5 both read; the merged model is for 5",
            file=sys.stderr,
        )


def spell_tokenizer_config(folder: Path) -> None:
    """Give the folder's `tokenizer_config.json` the names of 4.57 where it has those of 5; others stay as they are."""
    path = folder / TOKENIZER_CONFIG_FILE
    if not path.exists():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    spelled = dict(values)
    if spelled.get("tokenizer_class") == NEW_CLASS:
        spelled["tokenizer_class"] = OLD_CLASS
    if isinstance(spelled.get(NEW_TOKENS), list):
        spelled[OLD_TOKENS] = spelled.pop(NEW_TOKENS)
    if spelled != values:
        _write(path, spelled)


def put_chat_template(folder: Path, text: str) -> None:
    """Make the text the only chat template of the folder: readers disagree on which of several files comes first."""
    (folder / OLD_CHAT_TEMPLATE).unlink(missing_ok=True)
    path = folder / TOKENIZER_CONFIG_FILE
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if values.pop("chat_template", None) is not None:
        _write(path, values)
    write_text_atomic(folder / CHAT_TEMPLATE, text)


def with_old_rope_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's JSON, and each configuration inside it, with `rope_parameters` also under the names of 4.57."""
    spelled = {
        name: with_old_rope_names(value) if name.endswith("_config") and isinstance(value, dict) else value
        for name, value in values.items()
    }
    rope = values.get("rope_parameters")
    if not isinstance(rope, dict):
        return spelled
    # By kind of layer: 4.57 gives names of their own to the sliding layers, the plain names are the others'.
    full = rope.get("full_attention", rope)
    spelled |= {name: full[name] for name in OWN_KEYS if name in full}
    if isinstance(sliding := rope.get("sliding_attention"), dict) and "rope_theta" in sliding:
        spelled["rope_local_base_freq"] = sliding["rope_theta"]
    if full.get("rope_type", "default") != "default":
        spelled["rope_scaling"] = {name: value for name, value in full.items() if name not in OWN_KEYS}
    return spelled


def _holds(before: Any, after: Any) -> bool:
    """Whether all of `before` is in `after`, which may name more."""
    if not isinstance(before, dict):
        return bool(before == after)
    return isinstance(after, dict) and all(name in after and _holds(before[name], after[name]) for name in before)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
