"""When GRPO samples and when it trains, in turn and ahead, on a line for each rollout.

    PYTHONPATH=.:tests python benchmarks/ahead.py [--rollouts 6] [--cluster]

A Qwen3 of 2.4M parameters, 16 problems with 8 completions of up to 64 tokens a rollout. With
`--cluster` the samplers are actors of Ray. On two cores that sampling and training share, little
can be gained; the pictures show what overlaps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tiny import FakeContext, grpo_params, problems, stage, tokenizer
from trainers_data import SHAPE

from r1pipe.models.policy import load_model, new_model, save_model
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy

WIDTH = 72


def chosen(staleness: int, rollouts: int) -> Any:
    """Return the parameters of a run."""
    return grpo_params(
        num_steps=rollouts,
        problems_per_step=16,
        group_size=8,
        minibatches_per_rollout=1,
        max_tokens=64,
        kl_coef=0.0,
        optimizer={"lr": 1e-4},
        sampler_truncation=2.0,
        staleness=staleness,
    )


def trained(folder: Path, staleness: int, rollouts: int, run: Any) -> tuple[float, list[Any]]:
    """Train; return the seconds and the times of sampling and training."""
    context = FakeContext(folder / f"work-{staleness}")
    policy = load_model(folder / "policy")
    with opened(context, policy, tokenizer(), chosen(staleness, rollouts), run) as grpo:
        began = time.perf_counter()
        train_policy(grpo, problems(64))
        seconds = time.perf_counter() - began
    return seconds, context.notes.get("timeline", [])


def drawn(rows: list[Any]) -> str:
    """Return a line for each rollout: s while it is sampled, T while it is trained on."""
    end = max(row["trained_to"] for row in rows)
    lines = []
    for row in rows:
        line = [" "] * (WIDTH + 1)
        for letter, since, until in (
            ("s", "sampled_from", "sampled_to"),
            ("T", "trained_from", "trained_to"),
        ):
            for place in range(int(row[since] / end * WIDTH), int(row[until] / end * WIDTH) + 1):
                line[place] = letter
        lines.append(f"{row['rollout']:3} |{''.join(line)}|")
    return "\n".join(lines) + f"\n     0{f'{end:.1f} s':>{WIDTH}}"


def main() -> None:
    """Print times and timelines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=6)
    parser.add_argument("--cluster", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"micro_batch_tokens": 2048, "max_batch": 64, "workers": 1}
    if asked.cluster:
        settings["generator"] = {"backend": "transformers", "cluster": "ray", "data_parallel": 1}
    run = stage("grpo").run_model.model_validate(settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(new_model(tokenizer(), **SHAPE), tokenizer(), folder / "policy")
        for staleness in (0, 1):
            seconds, rows = trained(folder, staleness, asked.rollouts, run)
            print(f"\nstaleness {staleness}: {seconds:.2f} s for {asked.rollouts} rollouts")
            if rows:
                print(drawn(rows))


if __name__ == "__main__":
    main()
