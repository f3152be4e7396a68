"""Chained arithmetic modulo 7, from left to right; the thought does one operation at a time.

`6+5*3-4` is solved as `6+5 is 4*3 is 5-4 is 1`: each operation stands right before its result, so
that a small model can learn it. Level: the number of operations.
"""

from __future__ import annotations

import random
import re

from r1pipe.records import Problem, Step
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, skips, summarise, word

MODULUS = 7
PROMPTS = {"en": "chain mod 7: {}", "zh": "模七连算: {}"}
IS = {"en": " is ", "zh": "得"}
STEP = re.compile(r"([-+*])([0-9])(?: is |得)([0-9])")
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


def worked(expression: str, language: str, rng: random.Random, noise: Noise) -> tuple[str, str]:
    """Return the thought of a chain and its result; a wrong step's result is random."""
    value, thought = int(expression[0]), expression[0]
    operations = list(zip(expression[1::2], expression[2::2], strict=True))
    for place, (sign, number) in enumerate(operations, start=1):
        value = OPERATIONS[sign](value, int(number))
        thought += sign + number
        if place < len(operations) and skips(rng, noise):
            continue
        if noise.wrong_step and rng.random() < noise.wrong_step:
            value = rng.randrange(MODULUS)
        thought += word(IS, language, rng, noise) + str(value)
    return thought, str(value)


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write a thought that does one operation at a time."""
    thought, answer = worked(problem.meta["expression"], problem.language, rng, noise)
    return Solution(thought, answer, summarise(answer, problem.language))


def steps(problem: Problem, text: str) -> list[Step]:
    """Return an operation with its result as a step; right if both are those of the chain there.

    What is written past the end of the chain is wrong.
    """
    expression: str = problem.meta["expression"]
    value, found = int(expression[0]), list[Step]()
    for number, step in enumerate(STEP.finditer(text)):
        asked = expression[1 + 2 * number : 3 + 2 * number]
        if asked:
            value = OPERATIONS[asked[0]](value, int(asked[1]))
        is_right = step[1] + step[2] == asked and int(step[3]) == value
        found.append((step.end(), float(is_right)))
    return found


TASK = Task(make, solve, levels=(1, 2, 3, 4, 5), steps=steps)
