"""Other ways from rewards to the advantages of tokens: by steps, or by a reference or teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from r1pipe.method_params.policies import GrpoParams
from r1pipe.models.interfaces import Tokenizer
from r1pipe.records import Group, Rollout, Step
from r1pipe.rewards.metrics import rollout_metrics, without_groups
from r1pipe.rl.estimators import ESTIMATORS
from r1pipe.rl.objective import Credit, Estimator, eps_of
from r1pipe.rl.ppo import Critic, ValueCredit
from r1pipe.supervision.steps import StepFn, assign_steps
from r1pipe.train.batching import Batching
from r1pipe.train.reference import Anchor


def credit_of(
    params: GrpoParams,
    tokenizer: Tokenizer,
    score_steps: StepFn,
    reference: Anchor | None,
    batching: Batching,
    critic: Critic | None = None,
) -> Credit:
    """Return what gives the tokens of a rollout their advantages, as the parameters say."""
    if critic is not None:
        return ValueCredit(critic, reference, params.temperature, batching)
    estimator = ESTIMATORS[params.estimator]
    if params.process is not None:
        name = "process" if params.process == "model" else "steps"
        has_outcome = any(params.rewards.values())
        return StepCredit(estimator, tokenizer, score_steps, name, has_outcome)
    if reference is None or params.kl_in == "loss":
        return Credit(estimator)
    kind = KlCredit if params.kl_in == "reward" else TeacherCredit
    return kind(estimator, params, reference, batching)


@dataclass
class StepCredit(Credit):
    """Process supervision (arXiv:2402.03300, section 4.1.3)."""

    estimator: Estimator
    tokenizer: Tokenizer
    score: StepFn
    name: str
    """Of the mean reward of the steps, among the rewards."""
    has_outcome: bool
    """Whether the rewards of the completion are one more step."""

    def reward(self, groups: Sequence[Group]) -> None:
        """Reward every step of what this rank has sampled."""
        assign_steps(groups, self.tokenizer, self.score, self.name, has_outcome=self.has_outcome)

    def assign(self, groups: Sequence[Group]) -> None:
        """Give every token the advantage that the steps of its group make."""
        assign_step_advantages(groups, self.estimator)


@dataclass
class KlCredit(Credit):
    """A reward less the KL to the reference: `kl_in: reward`."""

    estimator: Estimator
    params: GrpoParams
    reference: Anchor
    batching: Batching

    def settle(self, groups: Sequence[Group]) -> None:
        """Take the KL off the rewards, then give every token its advantage."""
        rollouts, rows = self.reference_rows(groups)
        subtract_kl(rollouts, rows, self.params.kl_coef)
        self.assign(groups)

    def reference_rows(self, groups: Sequence[Group]) -> tuple[list[Rollout], list[list[float]]]:
        """Return all rollouts, and the reference's log-probabilities of each one's tokens."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return rollouts, self.reference.logprobs(rollouts, self.params.temperature, self.batching)


class TeacherCredit(KlCredit):
    """The KL to a teacher alone, token by token: `kl_in: advantage`."""

    def settle(self, groups: Sequence[Group]) -> None:
        """Give every token its advantage; that of the rewards is logged only."""
        rollouts, rows = self.reference_rows(groups)
        assign_kl_advantages(rollouts, rows, self.params.kl_coef)

    def measures(self, groups: Sequence[Group]) -> dict[str, float]:
        """Return what is logged of a rollout: its KL to the teacher by token, and no groups, as
        nothing is learned from their rewards."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        num_tokens = sum(
            len(r.completion_ids) if r.trained is None else sum(r.trained) for r in rollouts
        )
        kl = -sum(rollout.rewards["kl"] for rollout in rollouts) / max(1, num_tokens)
        return without_groups(rollout_metrics(groups)) | {"teacher_kl": kl}


def subtract_kl(rollouts: Sequence[Rollout], rows: Sequence[Sequence[float]], coef: float) -> None:
    """Take the k1 estimate of KL(policy || reference) off every reward, by the reference's rows.

    k1 of a completion is the sum of log policy - log reference over its tokens, at the weights
    that sampled it (arXiv:2402.14740, section 2.1). It is among the rewards as `kl`, negative.
    """
    for rollout, row in zip(rollouts, rows, strict=True):
        rollout.rewards["kl"] = kl_of(rollout, row)
        rollout.reward += coef * rollout.rewards["kl"]


def kl_of(rollout: Rollout, row: Sequence[float]) -> float:
    """Return the sum of log reference - log policy over the tokens that the policy sampled."""
    own, mask = rollout.streams["sampler_logprobs"], rollout.trained
    if mask is None:
        return sum(row) - sum(own)
    return sum(t - s for t, s, is_own in zip(row, own, mask, strict=True) if is_own)


def assign_kl_advantages(
    rollouts: Sequence[Rollout], rows: Sequence[Sequence[float]], coef: float
) -> None:
    """Give every token, as its advantage, log teacher - log policy at the weights that sampled it,
    by the teacher's rows; what rewards made of it is gone.

    In expectation that is the gradient of the reverse KL to the teacher, token by token, each on
    the prefix that the policy itself has written.
    """
    for rollout, row in zip(rollouts, rows, strict=True):
        own = rollout.streams["sampler_logprobs"]
        rollout.streams["advantage"] = [coef * (t - s) for t, s in zip(row, own, strict=True)]
        rollout.rewards["kl"] = kl_of(rollout, row)


def assign_step_advantages(groups: Sequence[Group], estimator: Estimator) -> None:
    """Give every token the advantage that the steps of its group make.

    The rewards of all steps of all completions of a group are normalised together.
    """
    by_count: dict[int, list[Group]] = {}
    for group in groups:
        by_count.setdefault(sum(len(r.steps) for r in group.rollouts), []).append(group)
    for alike in by_count.values():
        rows = [[reward for r in g.rollouts for _, reward in r.steps] for g in alike]
        eps = torch.tensor([[eps_of(group)] for group in alike], dtype=torch.float64)
        table = estimator(torch.tensor(rows, dtype=torch.float64), eps)
        for group, row in zip(alike, table.tolist(), strict=True):
            normalised = iter(row)
            for rollout in group.rollouts:
                steps = [(end, next(normalised)) for end, _ in rollout.steps]
                length = len(rollout.completion_ids)
                rollout.streams["advantage"] = advantages_of_steps(steps, length)


def advantages_of_steps(steps: Sequence[Step], length: int) -> list[float]:
    """Return the advantages of a completion's tokens, given its steps with normalised rewards.

    A token has the sum of those of the steps that end at it or after it (arXiv:2402.03300, section
    4.1.3).

    >>> advantages_of_steps([(2, 1.0), (3, -1.0)], 4)
    [0.0, 0.0, -1.0, 0.0]
    """
    row, total, token = list[float](), 0.0, length
    for end, value in reversed(steps):
        row += [total] * (token - end)
        total, token = total + value, end
    return [*row, *[total] * token][::-1]
