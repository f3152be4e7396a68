"""GRPO: Algorithm 1 of DeepSeekMath (arXiv:2402.03300), with R1's refresh of the reference.

The numbers in brackets are the lines of the paper's algorithm, here in short:

     1  the policy starts as the model given     7  sample G completions of each problem
     2  for every iteration:                     8  reward them
     3    the reference becomes the policy       9  advantages inside each group, by token
     4    for every step:                       10  for every GRPO iteration:
     5      draw a batch of problems            11    update the policy (Eq. 3, gradient Eq. 21)
     6      the sampler becomes the policy      12  go on training the reward model

Departures, which are R1's (arXiv:2501.12948v2, section 2.2 and A.3): line 3 is reached by a count
of updates; line 10 goes once over the rollout, in minibatches; there is no line 12, since rewards
come from rules, or from reward models that stay as they are.

# N trained tokens of a micro-batch
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from r1pipe.chat import Format
from r1pipe.errors import Interrupted, Paused
from r1pipe.generate.following import Followed
from r1pipe.generate.protocol import Generator, SamplingParams
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.records import FinishReason, Group, Problem, Rollout
from r1pipe.rl.adapter_reference import AdapterReference
from r1pipe.rl.curricula import Curriculum, CurriculumState, Draw, curriculum_of, shown_frac
from r1pipe.rl.estimators import RATIOS, SURROGATES
from r1pipe.rl.gathering import gather_groups
from r1pipe.rl.losses import (
    MAX_LOG_RATIO,
    TokenLoss,
    grpo_token_loss,
    log_ratio,
    token_weights,
    truncated_weights,
)
from r1pipe.rl.params import GrpoParams, StopWhen
from r1pipe.rl.reference import Reference
from r1pipe.rl.rollouts import (
    RewardFn,
    assign_advantages,
    assign_kl_advantages,
    assign_step_advantages,
    problems_of_rollouts,
    rollout_metrics,
    sample_groups,
    score_groups,
    subtract_kl,
)
from r1pipe.rl.steps import StepFn, assign_steps, rule_steps
from r1pipe.rl.watch import Watch
from r1pipe.settings import format_of
from r1pipe.stage import Context
from r1pipe.text import visible
from r1pipe.train.batching import Batching, MicroBatch, count_loss_tokens, micro_batches
from r1pipe.train.engine import Loss
from r1pipe.train.logprobs import completion_logprobs, token_logprobs
from r1pipe.train.loop import Trainer, Update

NUM_SAMPLE_ROWS = 4
MISMATCH = ("mismatch_kl", "mismatch_ratio_max")
"""Metrics that compare the log-probabilities of sampler and trainer under the same weights."""


@dataclass
class Grpo:
    """One run: who samples, who trains, and what the KL term pulls towards."""

    context: Context
    params: GrpoParams
    tokenizer: Tokenizer
    batching: Batching
    trainer: Trainer
    generator: Generator
    reference: Reference | AdapterReference | None
    reward_models: Mapping[str, RewardFn] = field(default_factory=dict)
    """Task -> reward model that takes the place of the accuracy reward."""
    stop_when: StopWhen = field(default_factory=StopWhen)
    score_steps: StepFn = rule_steps
    """Of process supervision."""
    memory: CurriculumState = field(default_factory=CurriculumState)
    """Of the curriculum, in checkpoints."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.params, self.stop_when)

    @property
    def format(self) -> Format:
        """The format of prompts and completions."""
        return format_of(self.params.format, self.params.prompt)

    def train(self, problems: Sequence[Problem], general: Sequence[Problem] = ()) -> None:
        """Train the policy, rollout by rollout; `general` problems join as `preference` says.

        Checkpoints are taken between rollouts, so that no rollout is ever stored.
        """
        params, trainer, reference = self.params, self.trainer, self.reference
        per_rollout = params.minibatches_per_rollout
        done, count = trainer.step // per_rollout, params.num_steps // per_rollout
        order = problems_of_rollouts(problems, general, params)
        curriculum = curriculum_of(params, order, problems)
        if self.memory.state is not None:
            curriculum.restore(self.memory.state)
        else:
            curriculum.skip(done)
        for number in range(done, count):  # [4]
            draws = curriculum.next(number)  # [5]
            started = time.perf_counter()
            self.generator.load_weights(trainer.engine.weights())  # [6]
            groups, metrics = self.roll_out_or_stop(draws, number, curriculum)  # [7] [8] [9]
            self.generator.sleep()
            sampled_s = (time.perf_counter() - started) / per_rollout
            for minibatch in self.minibatches(groups, number):  # [10]
                metrics = self.update(minibatch, metrics, sampled_s)  # [11]
                if reference is not None and trainer.step % params.reference_refresh_steps == 0:
                    reference.refresh(trainer.engine.weights())  # [3]
            if number % 10 == 0:
                self.keep_samples(groups, number)
            self.memory.state = curriculum.state()
            self.look_out()
            trainer.checkpoint()
        if not trainer.has_moved:
            self.context.warn("the policy is unchanged: no update had a gradient")

    def roll_out_or_stop(
        self, draws: Sequence[Draw], number: int, curriculum: Curriculum
    ) -> tuple[list[Group], Mapping[str, float]]:
        """Roll out; if that is interrupted, save first what the updates before it have done."""
        try:
            return self.roll_out_enough(draws, number, curriculum)
        except Interrupted:
            self.trainer.save_once()
            raise

    def roll_out_enough(
        self, draws: Sequence[Draw], number: int, curriculum: Curriculum
    ) -> tuple[list[Group], Mapping[str, float]]:
        """Roll out until the curriculum has kept as many groups as there are draws.

        Returns them, and the metrics of all that was sampled. If the last draw has not brought
        enough, groups that were not kept fill the rollout.
        """
        wanted, sampled, kept = len(draws), list[Group](), list[Group]()
        for again in range(self.params.dynamic_sampling or 1):
            groups = self.roll_out(curriculum.next(number) if again else draws, number, again)
            sampled += groups
            kept += curriculum.observe(groups)
            if len(kept) >= wanted:
                break
        self.watch.groups = sampled
        metrics = rollout_metrics(sampled)
        if self.params.adaback or self.params.r3:
            metrics |= shown_frac(sampled)
        if len(sampled) > wanted:
            metrics["draws"] = len(sampled) / wanted
            others = [group for group in sampled if all(group is not each for each in kept)]
            kept = [*kept, *others][:wanted]
            self.assign(kept)  # the batch is another
        return kept, metrics

    def assign(self, groups: Sequence[Group]) -> None:
        """Give every token of a rollout its advantage."""
        assign = assign_advantages if self.params.process is None else assign_step_advantages
        assign(groups, self.params.estimator)

    def roll_out(self, draws: Sequence[Draw], number: int, again: int = 0) -> list[Group]:
        """Sample, reward and normalise; each rank samples and rewards its share of the problems."""
        params, ranks = self.params, self.context.ranks
        problems = [draw.problem for draw in draws]
        revealed = [draw.revealed for draw in draws]
        sampling = SamplingParams(params.temperature, params.top_p, params.max_tokens)
        groups = sample_groups(  # [7]
            Followed(self.generator, self.context),
            self.tokenizer,
            problems,
            params.group_size,
            sampling,
            self.format,
            [params.seed, number, *([again] if again else [])],
            ranks=ranks,
            revealed=revealed if any(revealed) else (),
        )
        models, limit = self.reward_models, params.max_tokens
        score_groups(groups, params.rewards, self.format, models, limit)  # [8]
        if params.process is not None:
            has_outcome = any(params.rewards.values())
            name = "process" if params.process == "model" else "steps"
            assign_steps(groups, self.tokenizer, self.score_steps, name, has_outcome=has_outcome)
        groups = gather_groups(ranks, problems, groups)
        for group, share in zip(groups, revealed, strict=True):
            group.revealed = share
        rollouts, rows = [r for group in groups for r in group.rollouts], list[list[float]]()
        if params.kl_in != "loss" and self.reference is not None:
            rows = self.reference.logprobs(rollouts, params.temperature, self.batching)
        if rows and params.kl_in == "reward":
            subtract_kl(rollouts, rows, params.kl_coef)
        self.assign(groups)  # [9]
        if rows and params.kl_in == "advantage":
            assign_kl_advantages(rollouts, rows, params.kl_coef)
        return groups

    def minibatches(self, groups: Sequence[Group], number: int) -> list[list[Rollout]]:
        """Split a rollout at random into minibatches whose sizes differ by one at most.

        Truncated importance sampling needs the trainer's log-probabilities of the weights that
        sampled. The only update of a rollout has those weights itself.
        """
        params, count = self.params, self.params.minibatches_per_rollout
        rollouts = trained_rollouts(groups, params)
        if params.sampler_truncation is not None and count > 1:
            rows = completion_logprobs(
                self.trainer.engine, rollouts, params.temperature, self.batching
            )
            for rollout, row in zip(rollouts, rows, strict=True):
                rollout.streams["old_logprobs"] = row
        random.Random(f"{params.seed}:{number}").shuffle(rollouts)
        return [rollouts[i::count] for i in range(count)]

    def update(
        self, rollouts: Sequence[Rollout], metrics: Mapping[str, float], sampled_s: float = 0.0
    ) -> Mapping[str, float]:
        """Make one optimizer step on a minibatch (an empty one: none) and log it.

        Returns the metrics of the rollout for its other minibatches: the mismatch of sampler and
        trainer is that of the first one, unless the trainer's `old_logprobs` are there.
        """
        started, params = time.perf_counter(), self.params
        if self.reference is not None and params.loss_kl_coef:
            rows = self.reference.logprobs(rollouts, params.temperature, self.batching)
            for rollout, row in zip(rollouts, rows, strict=True):
                rollout.streams["reference_logprobs"] = row
        assign_weights(rollouts, params)
        trained = with_gradient(rollouts, params.loss_kl_coef)
        num_tokens = count_loss_tokens(trained)
        for index, rollout in enumerate(trained):  # sequences are told apart by it
            rollout.index = index
        update = Update(
            micro_batches(trained, self.batching),
            partial(grpo_loss, params=params, num_tokens=num_tokens, num_rollouts=len(trained)),
            num_tokens=sum(map(len, rollouts)),
            trained_tokens=sum(map(len, trained)),
            seconds=sampled_s + time.perf_counter() - started,
            name_of=lambda index: self.problem_of(trained[index]),
        )
        measures = self.trainer.update(update, metrics)
        self.watch.take(measures | dict(metrics))
        if any("old_logprobs" in rollout.streams for rollout in rollouts):
            return metrics
        return {name: measures[name] for name in MISMATCH if name in measures} | dict(metrics)

    def problem_of(self, rollout: Rollout) -> str:
        """Return the name of the problem that a rollout of the last sampling answers."""
        groups = self.watch.groups
        found = (g.problem.id for g in groups if any(each is rollout for each in g.rollouts))
        return f"problem {visible(next(found, 'unknown'))}"

    def look_out(self) -> None:
        """Warn of what looks wrong after a rollout; raise Paused if `run.stop_when` says so."""
        trainer = self.trainer
        for text in self.watch.new_warnings():
            self.context.warn(f"step {trainer.step}: {text}")
        reason = self.watch.reason_to_pause()
        if reason is not None and trainer.step < self.params.num_steps:
            trainer.save()
            raise Paused(
                f"{self.context.name}: paused after step {trainer.step} by run.stop_when: {reason}"
            )

    def keep_samples(self, groups: Sequence[Group], number: int) -> None:
        """Keep a few completions for `r1pipe show`."""
        for group in groups[:NUM_SAMPLE_ROWS]:
            rollout = group.rollouts[0]
            self.context.sample(
                rollout=number,
                prompt=group.problem.prompt,
                gold=group.problem.gold,
                completion=rollout.text,
                reward=rollout.reward,
                advantage=rollout.streams["advantage"][0],
            )


def grpo_loss(
    model: LanguageModel,
    batch: MicroBatch,
    *,
    params: GrpoParams,
    num_tokens: int,
    num_rollouts: int,
) -> Loss:
    """Return what a micro-batch adds to the loss of its minibatch, and what is logged of it.

    `num_tokens` and `num_rollouts` count those of the whole minibatch that are trained, as the
    stream `weight` does, so micro-batching changes nothing.
    """
    logprobs = token_logprobs(model, batch, params.temperature)  # [N], as all below
    sampler_logprobs = batch.at_trained("sampler_logprobs")
    has_old = "old_logprobs" in batch.streams
    old_logprobs = batch.at_trained("old_logprobs") if has_old else logprobs.detach()
    limit = params.sampler_truncation
    token = grpo_token_loss(
        logprobs,
        sampler_logprobs if limit is None else old_logprobs,
        batch.at_trained("reference_logprobs") if params.loss_kl_coef else None,
        batch.at_trained("advantage"),
        clip_low=params.clip_low,
        clip_high=params.clip_high,
        kl_coef=params.loss_kl_coef,
        ratio_of=RATIOS[params.ratio](batch, num_rollouts),
        surrogate=SURROGATES[params.surrogate],
        weights=1.0 if limit is None else truncated_weights(old_logprobs, sampler_logprobs, limit),
    )
    return _measured(
        (token.loss * batch.at_trained("weight")).sum(),
        token,
        log_ratio(old_logprobs, sampler_logprobs),
        num_tokens,
    )


def _measured(loss: Tensor, token: TokenLoss, mismatch: Tensor, num_tokens: int) -> Loss:
    """Return a micro-batch's loss with what is logged of its tokens."""
    means = {
        "kl": token.kl,
        "clip_frac": token.is_clipped,
        "ratio_mean": token.ratio,
        "mismatch_kl": torch.expm1(mismatch) - mismatch,
    }
    peaks = {
        "ratio_max": token.ratio,
        "mismatch_ratio_max": mismatch.abs().clamp(max=MAX_LOG_RATIO).exp(),
    }
    return Loss(
        loss,
        sums={name: float(values.sum()) / num_tokens for name, values in means.items()},
        peaks={name: float(v.max()) for name, v in peaks.items() if len(v)},  # of a shard: none
    )


def trained_rollouts(groups: Sequence[Group], params: GrpoParams) -> list[Rollout]:
    """Return the rollouts that enter the loss, numerator and denominator alike.

    `truncated: score` keeps completions that were cut, with the reward they got; `mask` leaves them
    out of both.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if params.truncated == "score":
        return rollouts
    return [r for r in rollouts if r.finish_reason is not FinishReason.LENGTH]


def assign_weights(rollouts: Sequence[Rollout], params: GrpoParams) -> None:
    """Give every token of a minibatch its weight in the loss."""
    if not rollouts:
        return
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    weights = token_weights(
        torch.tensor(lengths, dtype=torch.float32),
        params.aggregation,
        num_sequences=len(lengths),
        num_tokens=sum(lengths),
        constant=params.max_tokens,
    )
    for rollout, length, weight in zip(rollouts, lengths, weights.tolist(), strict=True):
        rollout.streams["weight"] = [weight] * length


def with_gradient(rollouts: Sequence[Rollout], kl_coef: float) -> Sequence[Rollout]:
    """Return the rollouts that have a gradient: without a KL term those with an advantage.

    If none has, one stays: the step is that of a gradient of zeros, whose momentum goes on.
    """
    if kl_coef:
        return rollouts
    return [r for r in rollouts if any(r.streams["advantage"])] or rollouts[:1]
