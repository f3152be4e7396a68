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
come from rules, or from reward models that stay as they are. With `params.staleness` lines 5 to 9
are ahead of the others (`policies/ahead.py`).

`rl/rollouts.py` has lines 7 and 8, `rl/objective.py` lines 9 and 11.
"""

from __future__ import annotations

import collections.abc
import random
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from r1pipe.chat import Format
from r1pipe.curricula.curricula import Curriculum, CurriculumState, Draw, curriculum_of, shown_frac
from r1pipe.curricula.order import problems_of_rollouts
from r1pipe.generate.driven import followed
from r1pipe.generate.gathering import gather_groups
from r1pipe.generate.in_process import context_of
from r1pipe.generate.protocol import Generator, SamplingParams
from r1pipe.generate.tools import ToolGenerator
from r1pipe.method_params.policies import GrpoParams
from r1pipe.models.interfaces import Tokenizer
from r1pipe.ranks import Ranks
from r1pipe.records import Group, Problem, Rollout, RolloutBatch
from r1pipe.rewards.metrics import problem_of
from r1pipe.rewards.model import RewardFn
from r1pipe.rl.estimators import RATIOS, SURROGATES
from r1pipe.rl.objective import MISMATCH, Credit, grpo_loss, trained_rollouts, with_gradient
from r1pipe.rl.rollouts import sample_groups, score_groups
from r1pipe.settings import format_of
from r1pipe.stage import Context
from r1pipe.train.aggregation import assign_weights
from r1pipe.train.batching import Batching, count_loss_tokens, micro_batches
from r1pipe.train.logprobs import completion_logprobs
from r1pipe.train.loop import Trainer, Update
from r1pipe.train.reference import Anchor


class BatchSource(Protocol):
    """Has the batches of a run sampled: when each is trained on, or before."""

    def batches(
        self, grpo: Grpo, curriculum: Curriculum, numbers: range
    ) -> AbstractContextManager[Iterator[RolloutBatch]]:
        """Give the batches of these numbers, one after the other."""

    def ranks(self, context: Context) -> Ranks:
        """Return the ranks that sample a batch together, each a share of it."""

    def follow(self, generator: Generator, context: Context) -> Generator:
        """Return a generator as whoever waits for its completions follows it."""


class InTurn:
    """Samples and rewards each batch when it is wanted, with the policy as it is."""

    @contextmanager
    def batches(
        self, grpo: Grpo, curriculum: Curriculum, numbers: range
    ) -> Iterator[Iterator[RolloutBatch]]:
        """Give batches that are made while the training waits."""

        def sampled(number: int) -> RolloutBatch:
            draws = curriculum.next(number)  # [5]
            started = time.perf_counter()
            with grpo.trainer.saved_if_stopped():
                grpo.generator.load_weights(grpo.trainer.engine.weights())  # [6]
                batch = grpo.roll_out_enough(draws, number, curriculum)  # [7] [8] [9]
            grpo.generator.sleep()
            batch.seconds = time.perf_counter() - started
            return batch

        yield map(sampled, numbers)

    def ranks(self, context: Context) -> Ranks:
        """Return all ranks of the trainer."""
        return context.ranks

    def follow(self, generator: Generator, context: Context) -> Generator:
        """Return a generator that shows how far it is, and can be stopped."""
        return followed(generator, context)


@dataclass
class Grpo:
    """One run: who samples, who trains, and what the KL term pulls towards."""

    context: Context
    params: GrpoParams
    tokenizer: Tokenizer
    batching: Batching
    trainer: Trainer
    generator: Generator
    reference: Anchor | None
    credit: Credit
    reward_models: Mapping[str, RewardFn] = field(default_factory=dict)
    """Task -> reward model that takes the place of the accuracy reward."""
    memory: CurriculumState = field(default_factory=CurriculumState)
    """Of the curriculum, in checkpoints."""
    batch_source: BatchSource = field(default_factory=InTurn)
    """Who samples the batches, and when."""

    @property
    def format(self) -> Format:
        """The format of prompts and completions."""
        return format_of(self.params.format, self.params.prompt)

    def train(
        self, problems: Sequence[Problem], general: Sequence[Problem] = ()
    ) -> collections.abc.Generator[RolloutBatch, None, None]:
        """Train the policy, batch by batch; `general` problems join as `preference` says.

        Checkpoints are taken between batches, so that no rollout is ever stored.
        """
        params, trainer, reference = self.params, self.trainer, self.reference
        per_rollout = params.minibatches_per_rollout
        done, count = trainer.step // per_rollout, params.num_steps // per_rollout
        order = problems_of_rollouts(problems, general, params)
        curriculum = self.memory.resumed(curriculum_of(params, order, problems), done)
        with self.batch_source.batches(self, curriculum, range(done, count)) as batches:
            for batch in batches:  # [4], with [5] [6] [7] [8] [9]
                for minibatch in self.minibatches(batch.groups, batch.number):  # [10]
                    self.update(minibatch, batch)  # [11]
                    if reference is not None and trainer.step % params.reference_refresh_steps == 0:
                        reference.refresh(trainer.engine.weights())  # [3]
                self.memory.take(batch.curriculum)
                yield batch
                trainer.checkpoint()

    def roll_out_enough(
        self, draws: Sequence[Draw], number: int, curriculum: Curriculum
    ) -> RolloutBatch:
        """Roll out until the curriculum has kept as many groups as there are draws.

        If the last of several draws has not brought enough, groups that were not kept fill the
        batch; with one draw they are left out.
        """
        wanted, sampled, kept = len(draws), list[Group](), list[Group]()
        for again in range(self.params.dynamic_sampling or 1):
            groups = self.roll_out(curriculum.next(number) if again else draws, number, again)
            sampled += groups
            kept += curriculum.observe(groups)
            if len(kept) >= wanted:
                break
        metrics = self.credit.measures(sampled)
        if self.params.adaback or self.params.r3:
            metrics |= shown_frac(sampled)
        if len(sampled) > wanted:
            metrics["draws"] = len(sampled) / wanted
            places = set(map(id, kept))
            others = [group for group in sampled if id(group) not in places]
            if len(kept) < wanted:
                metrics["filled_frac"] = 1 - len(kept) / wanted
            kept = [*kept, *others][:wanted]
            self.credit.assign(kept)  # the batch is another
        return RolloutBatch(number, kept, sampled, metrics, curriculum.news())

    def roll_out(self, draws: Sequence[Draw], number: int, again: int = 0) -> list[Group]:
        """Sample, reward and normalise; each rank samples and rewards its share of the problems."""
        params, ranks, fmt = self.params, self.batch_source.ranks(self.context), self.format
        problems = [draw.problem for draw in draws]
        sampling = SamplingParams(params.temperature, params.top_p, params.max_tokens)
        sampler = self.generator
        if params.tools is not None:
            positions = context_of(self.trainer.engine.model.config)
            sampler = ToolGenerator(sampler, self.tokenizer, params.tools, positions)
        groups = sample_groups(  # [7]
            self.batch_source.follow(sampler, self.context),
            self.tokenizer,
            problems,
            params.group_size,
            sampling,
            fmt,
            [params.seed, number, *([again] if again else [])],
            ranks=ranks,
            revealed=[draw.revealed for draw in draws],
        )
        score_groups(groups, params.rewards, fmt, self.reward_models, params.max_tokens)  # [8]
        self.credit.reward(groups)
        groups = gather_groups(ranks, problems, groups)
        for group, draw in zip(groups, draws, strict=True):
            group.revealed = draw.revealed
        self.credit.settle(groups)  # [9]
        return groups

    def minibatches(self, groups: Sequence[Group], number: int) -> list[list[Rollout]]:
        """Split a batch at random into minibatches whose sizes differ by one at most.

        Truncated importance sampling needs the log-probabilities of the policy before the first
        update on the batch. The only update of a batch has those weights itself.
        """
        params, count = self.params, self.params.minibatches_per_rollout
        rollouts = trained_rollouts(groups, params)
        if params.sampler_truncation is not None and count > 1:
            rows = completion_logprobs(
                self.trainer.engine, rollouts, params.temperature, self.batching
            )
            for rollout, row in zip(rollouts, rows, strict=True):
                rollout.streams["old_logprobs"] = array("d", row)
        random.Random(f"{params.seed}:{number}").shuffle(rollouts)
        return [rollouts[i::count] for i in range(count)]

    def update(self, rollouts: Sequence[Rollout], batch: RolloutBatch) -> None:
        """Make one optimizer step on a minibatch of a batch (an empty one: none) and log it.

        The mismatch of sampler and trainer is that of the batch's first minibatch, unless the
        trainer's `old_logprobs` are there.
        """
        started, params = time.perf_counter(), self.params
        if self.reference is not None and params.loss_kl_coef:
            rows = self.reference.logprobs(rollouts, params.temperature, self.batching)
            for rollout, row in zip(rollouts, rows, strict=True):
                rollout.streams["reference_logprobs"] = array("d", row)
        assign_weights(rollouts, params.aggregation, params.max_tokens)
        trained = with_gradient(rollouts, params.loss_kl_coef, params.entropy_coef or 0.0)
        num_tokens = count_loss_tokens(trained)
        for index, rollout in enumerate(trained):  # sequences are told apart by it
            rollout.index = index
        sampled_s = batch.seconds / params.minibatches_per_rollout
        at_level = RATIOS[params.ratio]
        update = Update(
            micro_batches(trained, self.batching),
            partial(
                grpo_loss,
                params=params,
                ratio_level=lambda ratios, part: at_level(ratios, part, len(trained)),
                surrogate=SURROGATES[params.surrogate],
                num_tokens=num_tokens,
            ),
            num_tokens=sum(map(len, rollouts)),
            trained_tokens=sum(map(len, trained)),
            seconds=sampled_s + time.perf_counter() - started,
            name_of=lambda index: problem_of(trained[index], batch.sampled),
        )
        learned = self.credit.learn(rollouts, self.trainer.step)
        measures = self.trainer.update(update, dict(batch.metrics) | learned)
        batch.updates.append(measures | dict(batch.metrics))
        if not any("old_logprobs" in rollout.streams for rollout in rollouts):
            first = {name: measures[name] for name in MISMATCH if name in measures}
            batch.metrics = first | dict(batch.metrics)
