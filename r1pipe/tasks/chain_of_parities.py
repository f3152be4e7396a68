"""Chains of parities (AdaBack, arXiv:2506.18110): bits are chosen, and each is summed up.

Given x_1 ... x_n, write y_1 z_1 ... y_n z_n: every y_i is free, and z_i = z_(i-1) + y_i + x_i
modulo 2, from z_0 = 0. A right answer is easy to go on with and hard to guess: at random it is
right once in 2^n times, so a reward for whole answers alone is almost never seen. `a1 b0` is
answered by `a01 b10`; the letters tell a small model where it is. There is no thought, so formats
that ask for one do not fit: `{think: none, answer: last-line}` does. Level: n.

`RARE_ONES` is the same with few ones, for a base's corpus: a sum then mostly is the one before, so
that its rule is learned bit by bit, where even bits teach it nothing in some hundred updates.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from r1pipe.records import Problem, Step
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise

PROMPTS = {"en": "chain {}", "zh": "链 {}"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ONES_FRAC = 0.15
"""Share of ones, among bits and choices, of chains with few of them."""
LINK = re.compile(r"([a-z])([01])([01])")


Draw: TypeAlias = Callable[[random.Random], int]
"""Gives a bit."""


def even(rng: random.Random) -> int:
    """Return 0 or 1, as often."""
    return rng.randrange(2)


def rare(rng: random.Random) -> int:
    """Return 0, or seldom 1."""
    return int(rng.random() < ONES_FRAC)


def make(
    rng: random.Random,
    language: str,
    level: int,
    draw: Draw = even,
    task: str = "chain-of-parities",
) -> Problem:
    """Return `level` random bits (at most 26), and one of the 2^level answers as the gold one."""
    bits = "".join(str(draw(rng)) for _ in range(level))
    asked = " ".join(f"{letter}{bit}" for letter, bit in zip(LETTERS, bits, strict=False))
    return Problem(
        id=problem_id("chain-of-parities", bits),
        task=task,
        prompt=PROMPTS[language].format(asked),
        gold=written(bits, rng, Noise(), draw),
        language=language,
        checker="chain-of-parities",
        level=level,
        meta={"bits": bits},
    )


def written(bits: str, rng: random.Random, noise: Noise, draw: Draw = even) -> str:
    """Write a chain with random choices; a wrong step's sum is the other bit."""
    total, links = 0, list[str]()
    for letter, bit in zip(LETTERS, bits, strict=False):
        choice = draw(rng)
        total ^= choice ^ int(bit)
        if noise.wrong_step and rng.random() < noise.wrong_step:
            total ^= 1
        links.append(f"{letter}{choice}{total}")
    return " ".join(links)


def solve(problem: Problem, rng: random.Random, noise: Noise, draw: Draw = even) -> Solution:
    """Write a chain; the answer is all that there is, and there is no thought."""
    answer = written(problem.meta["bits"], rng, noise, draw)
    return Solution("", answer, summarise(answer, problem.language))


def steps(problem: Problem, text: str) -> list[Step]:
    """Return a link as a step; right if it stands in its place and its sum goes on from the link
    before. What is written past the end of the chain is wrong."""
    bits: str = problem.meta["bits"]
    total, found = 0, list[Step]()
    for number, link in enumerate(LINK.finditer(text)):
        is_placed = number < len(bits) and link[1] == LETTERS[number]
        is_right = is_placed and int(link[3]) == total ^ int(link[2]) ^ int(bits[number])
        total = int(link[3])
        found.append((link.end(), float(is_right)))
    return found


TASK = Task(make, solve, levels=(6, 7, 8), steps=steps)
RARE_ONES = Task(
    partial(make, draw=rare, task="chain-of-rare-ones"),
    partial(solve, draw=rare),
    TASK.levels,
    steps,
)
