"""Draw the learning curves of a run: reward and pass rate of every GRPO stage.

usage: python benchmarks/draw_curves.py STORE OUT.png [--profile laptop]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from r1pipe.store.store import Store

STAGES = {
    "zero": "R1-Zero (base)",
    "reasoning-rl": "reasoning RL",
    "alignment-rl": "alignment RL",
    "student-rl": "control: RL on the student",
}
SERIES = {
    "pass_rate": "correct",
    "reward_format": "format reward",
    "reward_language": "language reward",
    "reward_preference": "preference reward",
}


def main() -> None:
    """Read the metrics beside the newest result of each stage and draw one panel per stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="laptop")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    figure, axes = plt.subplots(1, len(STAGES), figsize=(14, 3.4), sharey=True)
    for axis, (stage, title) in zip(axes, STAGES.items(), strict=True):
        records = [
            record
            for record in store.records()
            if record.stage_name == stage and record.profile == arguments.profile
        ]
        rows = store.metrics(max(records, key=lambda record: record.created))
        for name, label in SERIES.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("update")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean of the rollout")
    handles: dict[str, object] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(handles))
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
