"""Tiny Python functions: a chain of operations on x, said in words, is written as a lambda.

`times 3, plus 2` is solved as `f = lambda x: x * 3 + 2` in a fenced block; hidden calls decide.
The thought writes the expression operation by operation. Level: the number of operations.
"""

from __future__ import annotations

import random

from r1pipe.records import Problem
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, word

PROMPTS = {"en": "python f(x): {}", "zh": "编程 f(x): {}"}
WORDS = {
    "+": {"en": "plus", "zh": "加"},
    "-": {"en": "minus", "zh": "减"},
    "*": {"en": "times", "zh": "乘"},
}
IS = {"en": " is ", "zh": "得"}
INPUTS = (0, 1, 5, -3)


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a chain of `level` operations with digits, and the calls that decide."""
    steps = [(rng.choice("+-*"), rng.randrange(2, 10)) for _ in range(level)]
    said = ", ".join(f"{WORDS[sign][language]} {number}" for sign, number in steps)
    content = " ".join(f"{sign}{number}" for sign, number in steps)
    return Problem(
        id=problem_id("program", content),
        task="program",
        prompt=PROMPTS[language].format(said),
        gold=expression(steps),
        language=language,
        checker="code",
        level=level,
        meta={"calls": [{"call": f"f({x})", "expected": value(steps, x)} for x in INPUTS]},
    )


def expression(steps: list[tuple[str, int]]) -> str:
    """Write a chain as Python, from left to right."""
    text = "x"
    for place, (sign, number) in enumerate(steps):
        is_sum = place > 0 and steps[place - 1][0] != "*"
        text = f"({text})*{number}" if sign == "*" and is_sum else f"{text}{sign}{number}"
    return text


def value(steps: list[tuple[str, int]], x: int) -> int:
    """Return the value of a chain at x."""
    for sign, number in steps:
        x = {"+": x + number, "-": x - number, "*": x * number}[sign]
    return x


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write the expression operation by operation; a wrong step has another digit or sign."""
    steps = _steps(problem)
    thought, done = "x", list[tuple[str, int]]()
    for sign, number in steps:
        if noise.wrong_step and rng.random() < noise.wrong_step:
            sign, number = rng.choice("+-*"), rng.randrange(2, 10)
        done.append((sign, number))
        spoken = word(WORDS[sign], problem.language, rng, noise)
        thought += f" {spoken} {number}{word(IS, problem.language, rng, noise)}{expression(done)}"
    block = f"```python\nf = lambda x: {expression(done)}\n```"
    return Solution(thought, f"\n{block}\n", block)


def _steps(problem: Problem) -> list[tuple[str, int]]:
    """Return the operations that a problem asks for, read from its prompt."""
    signs = {names[problem.language]: sign for sign, names in WORDS.items()}
    chain = problem.prompt.split(": ")[1].split(", ")
    return [(signs[name], int(number)) for name, number in (each.split() for each in chain)]


TASK = Task(make, solve, levels=(1, 2, 3))
