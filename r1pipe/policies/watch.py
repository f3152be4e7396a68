"""What looks wrong while a policy is trained: warned of at once, or a reason to pause.

Everything here reads what is logged of an update; nothing decides a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from r1pipe.audit.reasons import example_lines, reason_of
from r1pipe.chat import AnyFormat
from r1pipe.method_params.runs import StopWhen
from r1pipe.records import FinishReason, Group, Problem, Rollout

WARN_WHEN = StopWhen(flat_updates=5, still_updates=20, truncated=0.95, filled=0.5, kl=2.0)
"""When a run is warned of; `run.stop_when` says when it pauses."""
SLOW_REWARDS = ("format", "language")
"""Rewards that a policy of its format has learnt early, or never."""


def has_signal(metrics: Mapping[str, float]) -> bool:
    """Return whether the rewards of an update differed where the method compares them."""
    return metrics.get("flat_group_frac", 0.0) < 1.0 and metrics.get("rewards_std", 1.0) > 0.0


@dataclass
class Streaks:
    """How many updates in a row each limit has been met."""

    limits: StopWhen
    counts: Counter[str] = field(default_factory=Counter)
    still: dict[str, float] = field(default_factory=dict)

    def take(self, metrics: Mapping[str, float]) -> None:
        """Count an update by its metrics."""
        limits = self.limits
        self._count("flat", metrics.get("flat_group_frac", 0.0) == 1.0)
        self._count("equal", metrics.get("rewards_std", 1.0) == 0.0)
        cut, kl = metrics.get("truncated_frac", 0.0), metrics.get("kl", 0.0)
        self._count("truncated", limits.truncated is not None and cut >= limits.truncated)
        filled = metrics.get("filled_frac", 0.0)
        self._count("filled", limits.filled is not None and filled >= limits.filled)
        self._count("kl", limits.kl is not None and kl > limits.kl)
        for name in SLOW_REWARDS:
            value = metrics.get(f"reward_{name}", 1.0)
            if value != self.still.get(name):
                self.counts[name] = 0
            self.still[name] = value
            self._count(name, value < 1.0)

    def met(self) -> dict[str, int]:
        """Return the limits that are met, with the number of updates that they took."""
        limits = self.limits
        needed = {
            "flat": limits.flat_updates,
            "equal": limits.flat_updates,
            "truncated": limits.in_a_row if limits.truncated is not None else None,
            "filled": limits.in_a_row if limits.filled is not None else None,
            "kl": limits.in_a_row if limits.kl is not None else None,
            **dict.fromkeys(SLOW_REWARDS, limits.still_updates),
        }
        return {
            name: self.counts[name]
            for name, count in needed.items()
            if count is not None and self.counts[name] >= count
        }

    def _count(self, name: str, is_met: bool) -> None:
        self.counts[name] = self.counts[name] + 1 if is_met else 0


class Watch:
    """Follows the updates of one run; after a resume it counts from zero again."""

    def __init__(
        self, num_updates: int, max_tokens: int, fmt: AnyFormat, stop_when: StopWhen
    ) -> None:
        self.max_tokens, self.format = max_tokens, fmt
        self.groups: Sequence[Group] = []
        """Of the present rollout."""
        few = min(WARN_WHEN.flat_updates or 0, num_updates)
        warn_when = WARN_WHEN.model_copy(update={"flat_updates": few, "in_a_row": few})
        self._warned, self._stops = Streaks(warn_when), Streaks(stop_when)
        self._said: set[str] = set()
        self._metrics: Mapping[str, float] = {}

    def take(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one update."""
        self._metrics = metrics
        self._warned.take(metrics)
        self._stops.take(metrics)

    def new_warnings(self) -> list[str]:
        """Return what looks wrong and did not before."""
        met = self._warned.met()
        new = [self._text(name, count) for name, count in met.items() if name not in self._said]
        self._said = set(met)
        return new

    def reason_to_pause(self) -> str | None:
        """Return what `run.stop_when` pauses for, or None."""
        return next((self._text(*each) for each in self._stops.met().items()), None)

    def nothing_learned(self, num_updates: int) -> str:
        """Say of a run whose rewards never differed why that is likely, and what to set."""
        found = f" (at last {self._rewards()})" if self.groups else ""
        return (
            "completions that are compared with one another had the same reward, in each of"
            f" {num_updates} updates{found}. {self._likely_cause()}. `r1pipe try` shows completions"
            f" with their rewards, and run.stop_when.flat_updates: {WARN_WHEN.flat_updates} pauses"
            " such a run early"
        )

    def _likely_cause(self) -> str:
        """Return why the rewards of the present groups do not differ, and what to set."""
        rollouts = [rollout for _, rollout in self._pairs()]
        verdicts = Counter(str(each.verdict) for each in rollouts if each.verdict is not None)
        count = verdicts.total()
        if self._metrics.get("truncated_frac", 0.0) >= 0.5:
            cause = f"completions are cut off at params.max_tokens ({self.max_tokens}): set more"
        elif not rollouts:
            cause = "problems that are far too hard or too easy, or completions that are cut off"
        elif not count:
            cause = "params.rewards asks for what all completions do alike: add another reward"
        elif verdicts["correct"] == count:
            cause = "the problems are too easy: set inputs.problems to harder ones"
        elif verdicts["correct"]:
            cause = (
                "each problem is solved always or never: set a larger params.group_size, or"
                " inputs.problems to others"
            )
        elif verdicts["no_answer"] > count / 2:
            cause = (
                "completions do not answer in the format that is asked for: set params.format or"
                " params.prompt to one that the model knows, or fine-tune it first"
            )
        else:
            cause = (
                "the problems are too hard for the model: set inputs.problems to easier ones, a"
                " larger params.group_size, or fine-tune it first"
            )
        return f"Likely cause: {cause}"

    def _text(self, name: str, count: int) -> str:
        said = {
            "flat": self._flat,
            "equal": self._equal,
            "truncated": self._truncated,
            "filled": self._filled,
            "kl": self._kl,
        }
        return said[name](count) if name in said else self._still(name, count)

    def _flat(self, count: int) -> str:
        head = f"only flat groups for {_updates(count)}: all completions of a problem get the same"
        return f"{head} reward, so nothing is learned ({self._rewards()}); {self._others()}"

    def _equal(self, count: int) -> str:
        return (
            f"one reward for all completions, for {_updates(count)}: advantages are the critic's"
            f" errors alone, so nothing is learned of the rewards ({self._rewards()});"
            f" {self._others()}"
        )

    def _others(self) -> str:
        """Return what to take in place of the present problems, and an example."""
        rollouts = [rollout for _, rollout in self._pairs()]
        few = "each problem is too easy or too hard: take others"
        if all(rollout.verdict == "correct" for rollout in rollouts):
            few = "the problems are too easy: take harder ones"
        elif not any(rollout.verdict == "correct" for rollout in rollouts):
            few = (
                "take easier problems, more max_tokens, another format or prompt, or fine-tune the"
                " model first; `r1pipe try` shows its completions"
            )
        return f"{few}.{self._example()}"

    def _truncated(self, count: int) -> str:
        frac, limit = self._metrics.get("truncated_frac", 0.0), self.max_tokens
        return (
            f"{frac:.0%} of the completions are cut off at max_tokens ({limit}), for"
            f" {_updates(count)}: give more tokens, or see whether the model ever ends its"
            f" completions.{self._example(is_cut=True)}"
        )

    def _filled(self, count: int) -> str:
        draws, filled = self._metrics.get("draws", 1.0), self._metrics.get("filled_frac", 0.0)
        return (
            f"flat groups fill {filled:.0%} of the rollout after its last draw of"
            f" params.dynamic_sampling, for {_updates(count)}: {draws:.0f} times the completions"
            " were sampled, and most of them teach nothing; take problems that the policy sometimes"
            f" solves ({self._rewards()})"
        )

    def _kl(self, count: int) -> str:
        return (
            f"the policy is far from its reference, KL {self._metrics.get('kl', 0.0):.3g} per"
            f" token, for {_updates(count)}: a lower params.optimizer.lr or a higher kl_coef keeps"
            " it near"
        )

    def _still(self, name: str, count: int) -> str:
        value = self._metrics.get(f"reward_{name}", 0.0)
        return (
            f"the reward '{name}' has not moved from {value:.3g} for {_updates(count)}: the policy"
            f" does not find what it asks for.{self._example()}"
        )

    def _rewards(self) -> str:
        prefix = "reward_"
        means = [
            f"{name.removeprefix(prefix)} {value:.3g}"
            for name, value in self._metrics.items()
            if name.startswith(prefix)
        ]
        verdicts = Counter(str(rollout.verdict) for _, rollout in self._pairs())
        found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        cut = self._metrics.get("truncated_frac", 0.0)
        return f"mean rewards: {', '.join(means)}; {found}; {cut:.0%} truncated"

    def _pairs(self) -> list[tuple[Problem, Rollout]]:
        return [(group.problem, rollout) for group in self.groups for rollout in group.rollouts]

    def _example(self, is_cut: bool = False) -> str:
        """Return one of the present completions, if possible one that was cut or earned nothing."""

        def place(pair: tuple[Problem, Rollout]) -> tuple[bool, float]:
            rollout = pair[1]
            return is_cut and rollout.finish_reason is not FinishReason.LENGTH, rollout.reward

        if not self.groups:
            return ""
        problem, rollout = min(self._pairs(), key=place)
        reason = reason_of(
            rollout.text,
            problem.gold,
            str(rollout.verdict),
            rollout.finish_reason.value,
            self.format,
        )
        return "\n".join([" An example:", *example_lines(problem.prompt, rollout.text, reason)])


def _updates(count: int) -> str:
    return f"{count} update{'s' if count > 1 else ''} in a row"
