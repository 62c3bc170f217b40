"""Precision and recall of "unsupported" by kind of fact, on the labelled pairs of dialogue and note of the tests.

    python benchmarks/labelled_pairs.py --half held_out

By span: a planted fault is found where a flagged span touches it; a flagged span that touches none is a false alarm.
By pair: a note with a fault is found where anything in it is flagged; a flagged note without a fault is a false alarm.
Rules were tuned on the files named `dev`: figures that are quoted are of `held_out`.
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
    halves = ["dev", "dev_more", "dev_fresh", *(f"dev_fresh_{number}" for number in range(2, 7)), "held_out"]
    parser.add_argument("--half", choices=halves, default="dev")
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
        found[kind, "faulty"] += bool(faults)
        found[kind, "caught"] += bool(faults and flagged)
        found[kind, "wronged"] += bool(flagged and not faults)
        missed += [pair["id"]] * (len(hits) - sum(hits))
        wrong += [pair["id"]] * len(alarms)
    seconds = time.perf_counter() - started
    kinds = [*dict.fromkeys(pair["kind"] for pair in pairs), "all"]
    for name in ("faults", "found", "alarms", "faulty", "caught", "wronged"):
        found["all", name] = sum(found[kind, name] for kind in kinds[:-1])
    print(f"{'':18}{'by span':>24}{'':18}{'by pair':>24}")
    print(f"{'kind':18}" + 2 * f"{'faults':>8}{'found':>8}{'alarms':>8}{'recall':>8}{'precision':>11}")
    for kind in kinds:
        line = f"{kind:18}"
        for faults, right, alarms in (("faults", "found", "alarms"), ("faulty", "caught", "wronged")):
            total, hits, false = (found[kind, name] for name in (faults, right, alarms))
            line += f"{total:8}{hits:8}{false:8}{hits / total:8.2f}{hits / max(1, hits + false):11.2f}"
        print(line)
    print(f"{1000 * seconds / len(pairs):.1f} ms a pair")
    if options.show:
        print(f"missed: {' '.join(missed)}\nfalse alarms: {' '.join(wrong)}")


if __name__ == "__main__":
    main()
