"""Two updates of every method at the tiniest size, for one process and for several ranks."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from test_dpo import rows
from test_reward_model_kinds import STEPS
from test_reward_model_kinds import train as train_reward_model
from tiny import MAX_CHARS, SMALL_RUN, problems, save_policy, stage

from r1pipe.launch.rank_context import RankContext
from r1pipe.rows import write_problems, write_rows
from r1pipe.stage import Inputs
from r1pipe.tasks.table import TASKS
from r1pipe.tasks.world import Noise


class Method(NamedTuple):
    """A stage, what tells it from the smallest one of its kind, and how its ranks divide it.

    Inputs are named as their folders are, but for `name=folder`.
    """

    kind: str
    zero_stage: int
    params: dict[str, Any]
    inputs: tuple[str, ...] = ("model", "problems")


ROLLOUT = SMALL_RUN | {"num_steps": 2}
"""One rollout, on which the second update has ratios that are not 1."""
ROLLOUTS = ROLLOUT | {"minibatches_per_rollout": 1}
"""Two rollouts, so that what a curriculum saw in the first decides the second."""
GRPO = ROLLOUT | {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.05}
IN_REWARD = GRPO | {"kl_in": "reward"}
PAIRS = {"seed": 1, "num_epochs": 1, "batch_size": 4, "optimizer": {"lr": 1e-3}}
METHODS = {
    "on-policy-distil": Method("on-policy-distil", 3, ROLLOUT, ("model", "problems", "teacher")),
    "process-model": Method(
        "grpo",
        2,
        GRPO | {"process": "model", "rewards": {"accuracy": 0.0}},
        ("model", "problems", "process"),
    ),
    "gspo": Method("grpo", 3, GRPO | {"ratio": "sequence"}),
    "cispo": Method("grpo", 2, GRPO | {"surrogate": "cispo", "aggregation": "token-mean"}),
    "dr-grpo": Method(
        "grpo", 3, GRPO | {"advantage": "group-mean", "aggregation": "constant", "kl_coef": 0.0}
    ),
    "rloo": Method(
        "grpo",
        3,
        IN_REWARD
        | {"advantage": "leave-one-out", "surrogate": "none", "aggregation": "sequence-sum"},
    ),
    "reinforce-plus-plus": Method("grpo", 2, IN_REWARD | {"advantage": "batch"}),
    "truncated-sampler": Method("grpo", 3, GRPO | {"sampler_truncation": 2.0}),
    "online-rft": Method("online-rft", 2, ROLLOUT),
    "adaback": Method(
        "grpo", 2, GRPO | ROLLOUTS | {"adaback": {"threshold": 0.3}}, ("model", "problems=solved")
    ),
    "dynamic-sampling": Method(
        "grpo", 3, GRPO | ROLLOUTS | {"dynamic_sampling": 4, "group_size": 2, "kl_coef": 0.0}
    ),
    "dpo": Method(
        "dpo",
        3,
        PAIRS | {"max_tokens": 100, "beta": 2.0, "aggregation": "sequence-mean"},
        ("model", "rows"),
    ),
    "reward-model": Method(
        "reward-model",
        3,
        PAIRS | {"objective": "pairwise", "reads": "completion"},
        ("model", "rows"),
    ),
}


def prepare(folder: Path) -> None:
    """Write what the methods read: a policy, a teacher, problems with solutions, pairs, and a
    process reward model."""
    save_policy(folder / "model")
    save_policy(folder / "teacher", seed=2)
    rng, some = random.Random(1), problems(12, max_chars=MAX_CHARS)
    write_problems(folder / "problems", some)
    # the text that is rewarded begins with what is shown
    longer = problems(12, max_chars=3 * MAX_CHARS)
    solved = [replace(p, solution=TASKS[p.task].solve(p, rng, Noise()).thought) for p in longer]
    write_problems(folder / "solved", solved)
    write_rows(folder / "rows", rows(8))
    scored = train_reward_model(folder / "rm", folder / "model", STEPS, "process", num_epochs=4)
    scored.output("model").rename(folder / "process")


def train(name: str, context: Any, folder: Path, engine: dict[str, Any]) -> Path:
    """Make the two updates of a method; return the model."""
    method = METHODS[name]
    kind = stage(method.kind)
    run = kind.run_model(engine=engine, micro_batch_tokens=120)
    pairs = (each.partition("=") for each in method.inputs)
    inputs = Inputs({name: folder / (other or name) for name, _, other in pairs})
    kind.run(context, kind.params(**method.params), run, inputs)
    model: Path = context.output("model")
    return model


class Part(RankContext):
    """The context of one of several stages that share their ranks."""

    def __init__(self, whole: RankContext, name: str) -> None:
        work = Path(whole._job.work) / name
        job = replace(whole._job, name=name, work=str(work), outputs=["model"])
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
        super().__init__(whole._folder, job, whole.ranks)

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        """Record metrics under the name of the method."""
        super().log(step, total, **{f"{self.name} {name}": each for name, each in values.items()})


def train_all(context: Any, inputs: Inputs) -> None:
    """Train by every method, one after the other, on the ranks of a stage."""
    from r1pipe.train import deepspeed_setup

    deepspeed_setup.PERSISTENT_NUMBERS = 0  # so that ZeRO 3 divides small parameters too
    folder = inputs.path("folder")
    for name, method in METHODS.items():
        engine = {
            "backend": "deepspeed",
            "num_processes": context.ranks.size,
            "zero_stage": method.zero_stage,
        }
        train(name, Part(context, name), folder, engine)
