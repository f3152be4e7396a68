"""Time every function that reads text of a model on one unit of text repeated, to 128 kB.

    PYTHONPATH=. python benchmarks/linear_text.py [--chars 131072] [--above 0.25]

Prints CPU seconds: for each function the slowest text, and every text that took more than `--above`
with its time at half the length, where a linear function takes half.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from linear_texts import FUNCTIONS, NUM_CHARS, seconds, texts


def main() -> None:
    """Measure all, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chars", type=int, default=NUM_CHARS)
    parser.add_argument("--above", type=float, default=0.25)
    options = parser.parse_args()
    shorter = dict(texts(options.chars // 2))
    for name, function in FUNCTIONS.items():
        worst = (0.0, "")
        for which, given in texts(options.chars):
            spent = seconds(function, given)
            worst = max(worst, (spent, which))
            if spent > options.above:
                half = seconds(function, shorter[which])
                print(f"    {spent:.2f} s ({half:.2f} s for half)  {which}", flush=True)
        print(f"{name:16} {worst[0]:.3f} s  {worst[1]}", flush=True)
    print(f"{len(FUNCTIONS)} functions, {len(shorter)} texts each")


if __name__ == "__main__":
    main()
