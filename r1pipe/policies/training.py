"""A run of GRPO seen from outside: what is kept of it, what is warned of, and when it pauses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from r1pipe.errors import Paused
from r1pipe.generate.protocol import LosingGenerator
from r1pipe.method_params.runs import StopWhen
from r1pipe.policies.watch import Watch, has_signal
from r1pipe.records import Group, Problem, RolloutBatch
from r1pipe.rl.grpo import Grpo
from r1pipe.stage import Context

SAMPLES_EVERY, NUM_SAMPLE_ROWS = 10, 4


def train_policy(
    grpo: Grpo,
    problems: Sequence[Problem],
    general: Sequence[Problem] = (),
    stop_when: StopWhen | None = None,
) -> None:
    """Train to the last update; warn of what looks wrong.

    Raises Paused, with all saved, where `stop_when` (of the run) says so.
    """
    num_steps, max_tokens = grpo.params.num_steps, grpo.params.max_tokens
    watch = Watch(num_steps, max_tokens, grpo.format, stop_when or StopWhen())
    try:
        with closing(grpo.train(problems, general)) as batches:
            for batch in batches:
                if batch.number % SAMPLES_EVERY == 0:
                    keep_samples(grpo.context, batch.groups, batch.number)
                look_out(grpo, watch, batch)
    finally:
        tell_losses(grpo)
    if not grpo.trainer.has_signal:
        grpo.context.note(nothing_learned=watch.nothing_learned(num_steps))
    if not grpo.trainer.has_moved:
        grpo.context.warn("the policy is unchanged: no update had a gradient")


def look_out(grpo: Grpo, watch: Watch, batch: RolloutBatch) -> None:
    """Warn of what looks wrong after a batch; raise Paused if there is a reason to pause."""
    trainer = grpo.trainer
    tell_losses(grpo)
    watch.groups = batch.sampled
    for metrics in batch.updates:
        watch.take(metrics)
        trainer.has_signal |= has_signal(metrics)
    for text in watch.new_warnings():
        grpo.context.warn(f"step {trainer.step}: {text}")
    reason = watch.reason_to_pause()
    if reason is not None and trainer.step < grpo.params.num_steps:
        trainer.save_now()
        raise Paused(
            f"{grpo.context.name}: paused after step {trainer.step} by run.stop_when: {reason}"
        )


def tell_losses(grpo: Grpo) -> None:
    """Warn of engines that the sampler has lost."""
    if isinstance(grpo.generator, LosingGenerator):
        while grpo.generator.losses:
            grpo.context.warn(grpo.generator.losses.pop(0))


def keep_samples(context: Context, groups: Sequence[Group], number: int) -> None:
    """Keep a few completions for `r1pipe show`."""
    for group in groups[:NUM_SAMPLE_ROWS]:
        rollout = group.rollouts[0]
        context.sample(
            rollout=number,
            prompt=group.problem.prompt,
            gold=group.problem.gold,
            completion=rollout.text,
            verdict=None if rollout.verdict is None else str(rollout.verdict),
            reward=rollout.reward,
            rewards=rollout.rewards,
            advantage=rollout.streams["advantage"][0],
        )
