"""Time every function that reads text of a model on one unit of text repeated, to 128 kB.

    PYTHONPATH=. python benchmarks/linear_text.py [--chars 131072] [--above 0.25]

Prints CPU seconds: for each function the slowest text, and every text that took more than `--above`
with its time at half the length, where a linear function takes half.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from linear_texts import FUNCTIONS, NUM_CHARS, PLACES, UNITS, repeated


def seconds(function: Callable[[str], object], given: str) -> float:
    """Return the CPU seconds of one call."""
    began = time.process_time()
    function(given)
    return time.process_time() - began


def main() -> None:
    """Measure all, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chars", type=int, default=NUM_CHARS)
    parser.add_argument("--above", type=float, default=0.25)
    options = parser.parse_args()
    for name, function in FUNCTIONS.items():
        worst = (0.0, "", "")
        for place in PLACES:
            for unit in UNITS:
                spent = seconds(function, repeated(unit, options.chars, place))
                worst = max(worst, (spent, unit, place))
                if spent > options.above:
                    half = seconds(function, repeated(unit, options.chars // 2, place))
                    print(
                        f"    {spent:.2f} s ({half:.2f} s for half)  {unit!r} {place}", flush=True
                    )
        print(f"{name:16} {worst[0]:.3f} s  {worst[1]!r} {worst[2]}", flush=True)
    print(f"{len(FUNCTIONS)} functions, {len(UNITS) * len(PLACES)} texts each")


if __name__ == "__main__":
    main()
