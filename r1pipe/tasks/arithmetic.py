"""Chained arithmetic modulo 7, from left to right; the thought rewrites what remains.

`6+5*3-4` is solved as `4*3-4 so 5-4 so 1`. Level: the number of operations.
"""

from __future__ import annotations

import random

from r1pipe.records import Problem
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise, word

MODULUS = 7
PROMPTS = {"en": "chain mod 7: {}", "zh": "模七连算: {}"}
SO = {"en": " so ", "zh": "得"}
OPERATIONS = {
    "+": lambda a, b: (a + b) % MODULUS,
    "-": lambda a, b: (a - b) % MODULUS,
    "*": lambda a, b: (a * b) % MODULUS,
}


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a chain of `level` operations on digits."""
    numbers = [rng.randrange(MODULUS) for _ in range(level + 1)]
    signs = [rng.choice("+-*") for _ in range(level)]
    expression = join(numbers, signs)
    return Problem(
        id=problem_id("arithmetic", expression),
        task="arithmetic",
        prompt=PROMPTS[language].format(expression),
        gold=str(evaluate(numbers, signs)),
        language=language,
        checker="number",
        level=level,
        meta={"expression": expression},
    )


def join(numbers: list[int], signs: list[str]) -> str:
    """Write a chain: one number, then sign and number by turns."""
    return str(numbers[0]) + "".join(
        f"{sign}{number}" for sign, number in zip(signs, numbers[1:], strict=True)
    )


def evaluate(numbers: list[int], signs: list[str]) -> int:
    """Return the chain's value modulo 7, from left to right."""
    value = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        value = OPERATIONS[sign](value, number)
    return value


def steps(expression: str, rng: random.Random, noise: Noise) -> list[str]:
    """Return the remaining expression after each operation; a wrong step's result is off."""
    numbers, signs = [int(c) for c in expression[::2]], list(expression[1::2])
    written = []
    while signs:
        value = OPERATIONS[signs[0]](numbers[0], numbers[1])
        if noise.wrong_step and rng.random() < noise.wrong_step:
            value = rng.randrange(MODULUS)
        numbers, signs = [value, *numbers[2:]], signs[1:]
        written.append(join(numbers, signs))
    return written


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write a thought that does one operation at a time."""
    written = steps(problem.meta["expression"], rng, noise)
    thought = written[0]
    for step in written[1:]:
        thought += word(SO, problem.language, rng, noise) + step
    return Solution(thought, written[-1], summarise(written[-1], problem.language))


TASK = Task(make, solve, levels=(1, 2, 3, 4))
