"""A policy, its teacher, and every token of the vocabulary after each prefix of a few rollouts.

On-policy distillation has the sampled token where TRL sums over the vocabulary. Each token once,
weighed by its probability, is the expectation over what the policy samples: TRL's sum.
"""

from __future__ import annotations

import math
from pathlib import Path

from fixed_batch import TEMPERATURE, Gradients, policy, rollouts
from tiny import frozen_logprobs, problems, stage, tokenizer, update_policy
from torch import Tensor

from r1pipe.method_params.policies import GrpoParams
from r1pipe.records import Group, Rollout
from r1pipe.rl.credits import TeacherCredit
from r1pipe.rl.estimators import ESTIMATORS
from r1pipe.train.batching import Batching
from r1pipe.train.reference import Reference

TEACHER_SEED = 12
NUM_ROLLOUTS = 4
LOSSES = {"reverse_kl": 1.0}
"""Name -> TRL's `beta`."""
GOLDEN = Path(__file__).with_name("trl_distil_golden.json")
"""What TRL 1.16 gave: the loss, the gradient's norm, and a few of its elements."""


def completions() -> list[Rollout]:
    """Return ragged rollouts; what the policy says of their tokens is not in them."""
    return rollouts()[:NUM_ROLLOUTS]


def next_tokens() -> list[Rollout]:
    """Return a rollout of one token for every token of the vocabulary after every prefix."""
    vocab = policy().get_output_embeddings().out_features
    prefixes = [
        [*made.prompt_ids, *made.completion_ids[:place]]
        for made in completions()
        for place in range(len(made.completion_ids))
    ]
    return [Rollout(prefix, [token]) for prefix in prefixes for token in range(vocab)]


def distil_params() -> GrpoParams:
    """Return the parameters of on-policy distillation, as its stage hands them to the loop."""
    given = {"seed": 3, "format": "chat", "num_steps": 1, "problems_per_step": 1, "group_size": 2}
    more = {"optimizer": {"lr": 1e-3}, "max_tokens": 16, "temperature": TEMPERATURE}
    chosen: GrpoParams = stage("on-policy-distil").params(**given, **more).as_grpo()
    return chosen


def settled(made: list[Rollout], batching: Batching) -> list[Rollout]:
    """Return rollouts with the advantages that the teacher gives them."""
    rows = frozen_logprobs(policy(), made, TEMPERATURE, batching)
    for rollout, row in zip(made, rows, strict=True):
        rollout.streams["sampler_logprobs"] = row
    teacher = Reference(policy(seed=TEACHER_SEED))
    credit = TeacherCredit(ESTIMATORS["group"], distil_params(), teacher, batching)
    credit.settle([Group(problems(1)[0], made)])
    return made


def our_loss(name: str, micro_batch_tokens: int = 20_000) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of one update on all next tokens.

    The update has the mean over rollouts, so that each is weighed by its probability times the
    size of the vocabulary.
    """
    assert name in LOSSES
    batching = Batching(micro_batch_tokens, "padded", tokenizer().pad_token_id)
    made = settled(next_tokens(), batching)
    size = len(made) / sum(len(each.completion_ids) for each in completions())
    for each in made:
        (logprob,) = each.streams["sampler_logprobs"]
        each.streams["advantage"][0] *= math.exp(logprob) * size
    engine = Gradients(policy())
    measures = update_policy(engine, made, None, distil_params(), batching, 0.0)
    return measures["loss"], engine.found
