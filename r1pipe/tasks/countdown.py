"""Countdown: make the target from the given numbers with + and -, each number once.

The thought tries sign patterns one after the other and holds each result against the target:
`3+4=7+2=9?5 no 3+4=7-2=5?5 yes`. Level: the count of numbers less one.
"""

from __future__ import annotations

import itertools
import random

from r1pipe.records import Problem
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise, word

PROMPTS = {"en": "use {} to make {}", "zh": "用 {} 凑 {}"}
NO, YES = {"en": " no ", "zh": "错"}, {"en": " yes", "zh": "对"}
MAX_TRIES = 3


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return `level` + 1 numbers from 1 to 4 and a target that some signs reach in this order."""
    numbers = [rng.randrange(1, 5) for _ in range(level + 1)]
    signs = [rng.choice("+-") for _ in range(level)]
    target = partial_sums(numbers, signs)[-1]
    content = f"{' '.join(map(str, numbers))} = {target}"
    return Problem(
        id=problem_id("countdown", content),
        task="countdown",
        prompt=PROMPTS[language].format(" ".join(map(str, numbers)), target),
        gold=expression(numbers, signs),
        language=language,
        checker="countdown",
        level=level,
        meta={"numbers": numbers, "target": target},
    )


def expression(numbers: list[int], signs: list[str]) -> str:
    """Write the numbers with the signs between them."""
    return str(numbers[0]) + "".join(f"{s}{n}" for s, n in zip(signs, numbers[1:], strict=True))


def partial_sums(numbers: list[int], signs: list[str]) -> list[int]:
    """Return the value after each operation."""
    sums = itertools.accumulate(
        (n if s == "+" else -n for s, n in zip(signs, numbers[1:], strict=True)),
        initial=numbers[0],
    )
    return list(sums)[1:]


def attempt(numbers: list[int], signs: list[str], rng: random.Random, noise: Noise) -> list[int]:
    """Return the value after each operation as an imperfect author writes it."""
    values, value = [], numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        value = value + number if sign == "+" else value - number
        if noise.wrong_step and rng.random() < noise.wrong_step:
            value += rng.choice((-2, -1, 1, 2))
        values.append(value)
    return values


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Try sign patterns until one seems to reach the target; the last try is answered anyway."""
    numbers, target = list(problem.meta["numbers"]), problem.meta["target"]
    patterns = [list(p) for p in itertools.product("+-", repeat=len(numbers) - 1)]
    rng.shuffle(patterns)
    thought = ""
    for index, signs in enumerate(patterns[:MAX_TRIES]):
        values = attempt(numbers, signs, rng, noise)
        tried = str(numbers[0])
        for sign, number, value in zip(signs, numbers[1:], values, strict=True):
            tried += f"{sign}{number}={value}"
        is_found = values[-1] == target
        is_last = is_found or index + 1 == min(MAX_TRIES, len(patterns))
        verdict = YES if is_found else NO
        thought += f"{tried}?{target}" + word(verdict, problem.language, rng, noise)
        if is_last:
            break
    answer = expression(numbers, signs)
    return Solution(thought.strip(), answer, summarise(answer, problem.language))


TASK = Task(make, solve, levels=(1, 2))
