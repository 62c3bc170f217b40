"""Precision and recall of "unsupported" by kind, on the labelled pairs of dialogue and note in the tests.

    python benchmarks/labelled_pairs.py --half held_out

A planted fault counts as found where a flagged span touches it; a flagged span that touches none is a false alarm.
Rules were tuned on `dev` and `dev_more` alone: figures that are quoted are of `held_out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAIRS = ROOT / "tests" / "grounding" / "labelled_pairs"


def main() -> None:
    """Print the table, and with `--show` the ids of what was missed or flagged wrongly."""
    from medsum_core.grounding.check import check_note

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["dev", "dev_more", "held_out"], default="dev")
    parser.add_argument("--show", action="store_true", help="ids of missed faults and of false alarms")
    options = parser.parse_args()
    pairs = [json.loads(line) for line in (PAIRS / f"{options.half}.jsonl").read_text("utf-8").splitlines()]
    found: Counter[tuple[str, str]] = Counter()
    missed, wrong = [], []
    started = time.perf_counter()
    for pair in pairs:
        note, kind = pair["note"], pair["kind"]
        flagged = [(f.start, f.end) for f in check_note(note, pair["dialogue"]) if not f.is_supported]
        faults = [(note.index(text), note.index(text) + len(text)) for text, _ in pair["unsupported"]]
        hits = [any(a < d and c < b for c, d in flagged) for a, b in faults]
        alarms = [span for span in flagged if not any(a < span[1] and span[0] < b for a, b in faults)]
        found[kind, "faults"] += len(faults)
        found[kind, "found"] += sum(hits)
        found[kind, "alarms"] += len(alarms)
        missed += [pair["id"]] * (len(hits) - sum(hits))
        wrong += [pair["id"]] * len(alarms)
    seconds = time.perf_counter() - started
    kinds = [*dict.fromkeys(pair["kind"] for pair in pairs), "all"]
    for name in ("faults", "found", "alarms"):
        found["all", name] = sum(found[kind, name] for kind in kinds[:-1])
    print(f"{'kind':18}{'faults':>8}{'found':>8}{'alarms':>8}{'recall':>9}{'precision':>11}")
    for kind in kinds:
        hits, alarms = found[kind, "found"], found[kind, "alarms"]
        recall, precision = hits / found[kind, "faults"], hits / max(1, hits + alarms)
        print(f"{kind:18}{found[kind, 'faults']:8}{hits:8}{alarms:8}{recall:9.2f}{precision:11.2f}")
    print(f"{1000 * seconds / len(pairs):.1f} ms a pair")
    if options.show:
        print(f"missed: {' '.join(missed)}\nfalse alarms: {' '.join(wrong)}")


if __name__ == "__main__":
    main()
