"""How often does the text detector call a healthy text a loop, and how many loops does it find?

Run: PYTHONPATH=.:kernels:oracles python benchmarks/text.py [--out FILE]

The healthy texts and the loops of `benchmarks/text_cases` were written before the detector was run on any of them; the
texts of `known` are those that it once got wrong. A loop counts as found where it is said to begin within four rounds
and 80 tokens of where it does (a fuzzy one is known to a few blocks and rounds).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.text_cases import (
    blocks,
    degenerate,
    forms,
    healthy,
    known,
    later,
    notation,
    planted,
    records,
    wandering,
)
from parity.text import find_loop, split_text


def alarms() -> dict[str, Any]:
    """By set: texts, and those that are called a loop."""
    found = {}
    sets = {
        "known": known, "speech": healthy, "records": records, "later": later, "forms": forms, "notation": notation,
        "blocks": blocks,
    }  # fmt: skip
    for name, cases in sets.items():
        loud = [one for one, make in cases.TEXTS.items() if find_loop(split_text(make())) is not None]
        found[name] = {"texts": len(cases.TEXTS), "alarms": loud}
    return found


def finds() -> dict[str, Any]:
    """By kind: loops, those not found, and those said to begin elsewhere."""
    sets = {"": [*degenerate.texts(), *degenerate.drawn()], ", second set": list(planted.texts())}
    sets[", third set"] = list(wandering.texts())
    kinds: dict[str, dict[str, Any]] = defaultdict(lambda: {"texts": 0, "missed": [], "elsewhere": []})
    for one, of in ((one, of) for of, texts in sets.items() for one in texts):
        here = kinds[one.kind + of]
        here["texts"] += 1
        loop, start = find_loop(split_text(one.text)), len(split_text(one.text[: one.start]))
        if loop is None:
            here["missed"].append(one.name)
        elif abs(loop.start - start) > 4 * loop.period + 80:
            here["elsewhere"].append(f"{one.name}: said {loop.start}, is {start}")
    return dict(kinds)


def main() -> None:
    """Print both, and write them where asked."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    start = time.process_time()
    found: dict[str, Any] = {"healthy": alarms(), "loops": finds()}
    found["cpu_seconds"] = round(time.process_time() - start, 1)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
