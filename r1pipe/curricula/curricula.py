"""Curricula: which problems a rollout has, how much of their solutions it is shown, what it keeps.

`next(number)` gives the draws of a rollout, `observe(groups)` takes what was sampled of them and
returns the groups to train on, and `state()` is what a checkpoint keeps: with `restore(state)` a
run goes on exactly. After each rollout only `news()` is taken, what has changed of it: a state may
have a million problems, a rollout some hundreds. All ranks see the same groups, so all have the
same state.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.method_params.policies import GrpoParams
from r1pipe.records import Group, Problem

FILE = "curriculum.json"
"""In a checkpoint: the state of the curriculum."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A problem of a rollout."""

    problem: Problem
    revealed: float = 0.0
    """Share of its solution's tokens that the policy is given; it writes the rest."""


class Curriculum:
    """Problems in a seeded order, epoch by epoch; nothing is shown, all is trained on."""

    name = ""
    """Of its parameters in `GrpoParams`; none for this one."""

    def __init__(self, order: Iterator[list[Problem]], params: GrpoParams) -> None:
        self.params = params
        self.drawn = 0
        """Batches of problems that were drawn."""
        self._order = order

    def next(self, number: int) -> list[Draw]:
        """Return the draws of a rollout, or more of them if it asks again."""
        self.drawn += 1
        return [Draw(problem, self.share(problem, number)) for problem in next(self._order)]

    def share(self, problem: Problem, number: int) -> float:
        """Return how much of a problem's solution a rollout shows."""
        return 0.0

    def observe(self, groups: Sequence[Group]) -> list[Group]:
        """Take what was sampled; return the groups to train on."""
        return list(groups)

    def state(self) -> JsonObject:
        """Return what a checkpoint keeps, as JSON values."""
        return {"drawn": self.drawn}

    def news(self) -> JsonObject:
        """Return what of the state has changed since this was asked, or since the beginning."""
        return {"drawn": self.drawn}

    def restore(self, state: JsonObject) -> None:
        """Go on from what `state` gave; called once, before anything is drawn."""
        self.skip(state["drawn"])

    def skip(self, count: int) -> None:
        """Leave out so many batches of problems."""
        for _ in range(count):
            next(self._order)
        self.drawn += count


class DynamicSampling(Curriculum):
    """DAPO's dynamic sampling (arXiv:2503.14476, Eq. 11): groups of equal rewards are not kept, and
    more problems are drawn in their place."""

    name = "dynamic_sampling"

    def observe(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups whose rewards differ."""
        return [group for group in groups if not is_flat(group)]


def is_flat(group: Group) -> bool:
    """Return whether all completions of a group, and all their steps, have the same reward."""
    rewards = {rollout.reward for rollout in group.rollouts}
    of_steps = {reward for rollout in group.rollouts for _, reward in rollout.steps}
    return len(rewards) == 1 and len(of_steps) <= 1


@dataclass(slots=True)
class Interval:
    """Between which shares of a solution a problem is at the edge of what the policy can do."""

    low: float
    high: float

    def take(self, revealed: float, is_success: bool) -> None:
        """Narrow it: after a success show less, after a failure more.

        A failure with nothing shown says nothing: its bound would be 0.
        """
        if is_success:
            self.low, self.high = 0.0, revealed
        elif revealed:
            self.low = revealed


class AdaBack(Curriculum):
    """A stochastic search, for each problem, of the share to show (arXiv:2506.18110).

    The share is uniform in the problem's interval, and sometimes 0, as it is when the model is
    used. A problem that comes for the first time takes the moving averages of all intervals.
    """

    name = "adaback"

    def __init__(self, order: Iterator[list[Problem]], params: GrpoParams) -> None:
        super().__init__(order, params)
        assert params.adaback is not None
        self.settings = params.adaback
        self.average = Interval(0.0, 1.0)
        self.intervals: dict[str, Interval] = {}
        self._moved: set[str] = set()
        """Problems whose intervals are news."""

    def share(self, problem: Problem, number: int) -> float:
        """Return a share that depends on seed, rollout, problem and interval alone."""
        if problem.solution is None:
            return 0.0
        rng = random.Random(f"{self.params.seed}:revealed:{number}:{_key(problem)}")
        between = self.intervals.get(_key(problem), self.average)
        share = rng.uniform(between.low, between.high)
        return 0.0 if rng.random() < self.settings.zero_frac else share

    def observe(self, groups: Sequence[Group]) -> list[Group]:
        """Move the interval of every problem by its group's mean reward, then the averages."""
        weight, average = self.settings.average_weight, self.average
        for group in groups:
            if group.problem.solution is None:
                continue
            reward = sum(rollout.reward for rollout in group.rollouts) / len(group.rollouts)
            key = _key(group.problem)
            own = self.intervals.setdefault(key, Interval(average.low, average.high))
            self._moved.add(key)
            own.take(group.revealed, reward >= self.settings.threshold)
            average.low += weight * (own.low - average.low)
            average.high += weight * (own.high - average.high)
        return list(groups)

    def state(self) -> JsonObject:
        """Return the intervals and their averages too."""
        return super().state() | self._of(self.intervals)

    def news(self) -> JsonObject:
        """Return the averages, and the intervals that have moved."""
        moved, self._moved = self._moved, set()
        return super().news() | self._of(sorted(moved))

    def _of(self, keys: Iterable[str]) -> JsonObject:
        found = {key: self.intervals[key] for key in keys}
        intervals = {key: [each.low, each.high] for key, each in found.items()}
        return {"average": [self.average.low, self.average.high], "intervals": intervals}

    def restore(self, state: JsonObject) -> None:
        """Go on from what `state` gave."""
        super().restore(state)
        self.average = Interval(*state["average"])
        self.intervals = {key: Interval(*each) for key, each in state["intervals"].items()}


class R3(Curriculum):
    """Slices of fixed size (R3, arXiv:2402.05808): a solution is cut into `num_slices`, and all but
    some of them are shown: at random, or stage by stage, first all but one."""

    name = "r3"

    def share(self, problem: Problem, number: int) -> float:
        """Return a multiple of 1 / num_slices, below 1."""
        assert self.params.r3 is not None
        slices = self.params.r3.num_slices
        if problem.solution is None:
            return 0.0
        if self.params.r3.is_staged:
            count = self.params.num_steps // self.params.minibatches_per_rollout
            return (slices - 1 - number * slices // count) / slices
        rng = random.Random(f"{self.params.seed}:revealed:{number}:{_key(problem)}")
        return rng.randrange(slices) / slices


CURRICULA: Sequence[type[Curriculum]] = (DynamicSampling, AdaBack, R3)
"""By the name of their parameters; without any of these it is the plain order."""


def _key(problem: Problem) -> str:
    return f"{problem.id}:{problem.prompt}"


def curriculum_of(
    params: GrpoParams, order: Iterator[list[Problem]], problems: Sequence[Problem]
) -> Curriculum:
    """Return the curriculum that the parameters name.

    Raises StageError if it shows solutions and no problem has one.
    """
    chosen = next((each for each in CURRICULA if getattr(params, each.name)), Curriculum)
    if chosen in (AdaBack, R3) and all(problem.solution is None for problem in problems):
        raise StageError(
            f"params.{chosen.name} shows parts of worked solutions, and none of the problems has"
            " one; name their column (columns.solution of kind problems), or set solutions: true"
            " where the world makes them"
        )
    return chosen(order, params)


class CurriculumState:
    """What a checkpoint keeps of a curriculum: its state after the last whole rollout."""

    def __init__(self, write: Callable[[], bool] = lambda: True) -> None:
        self.state: JsonObject | None = None
        """None until a rollout is done, and after a checkpoint that has none."""
        self._writes = write

    def resumed(self, curriculum: Curriculum, done: int) -> Curriculum:
        """Return a curriculum after `done` rollouts, where the last checkpoint left it."""
        if self.state is None:
            curriculum.skip(done)
        else:
            curriculum.restore(self.state)
        return curriculum

    def take(self, news: JsonObject) -> None:
        """Take the news of a rollout, in the order of rollouts; its numbers replace those here, and
        what goes by problem is added to it."""
        state = self.state = self.state or {}
        for name, value in news.items():
            if isinstance(value, dict):
                state.setdefault(name, {}).update(value)
            else:
                state[name] = value

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint folder, on one rank."""
        if self.state is not None and self._writes():
            (folder / FILE).write_text(json.dumps(self.state), "utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        path = folder / FILE
        self.state = json.loads(path.read_text("utf-8")) if path.exists() else None


def shown_frac(groups: Sequence[Group]) -> Mapping[str, float]:
    """Return what is logged of a curriculum that shows solutions: how much it shows on average, and
    the pass rate of groups that were shown nothing, if there are any."""
    revealed = [group.revealed for group in groups]
    found = {"revealed_frac": sum(revealed) / len(revealed)}
    bare = [r for group in groups if not group.revealed for r in group.rollouts]
    if bare:
        found["pass_rate_unrevealed"] = sum(r.verdict == "correct" for r in bare) / len(bare)
    return found
