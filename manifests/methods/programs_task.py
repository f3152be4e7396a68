"""A task for programs.yaml: chains of arithmetic, solved by a program and what it prints.

The problems are those of the task `arithmetic`. A solution's thought is a Python block with its
output below it, as `tools` puts it there.
"""

from __future__ import annotations

import random
from dataclasses import replace

from r1pipe.records import Problem
from r1pipe.tasks import arithmetic
from r1pipe.tasks.world import Noise, Solution, Task, summarise


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a chain of `level` operations on digits."""
    return replace(arithmetic.make(rng, language, level), task="programs")


def program(expression: str) -> str:
    """Write a chain as Python, from left to right.

    >>> program("3-5*2")
    'print((((3)-5)*2)%7)'
    """
    text = expression[0]
    for sign, number in zip(expression[1::2], expression[2::2], strict=True):
        text = f"({text}){sign}{number}"
    return f"print(({text})%{arithmetic.MODULUS})"


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write the program; a wrong step has another sign, and the output is that program's own."""
    expression = list(problem.meta["expression"])
    for place in range(1, len(expression), 2):
        if noise.wrong_step and rng.random() < noise.wrong_step:
            expression[place] = rng.choice("+-*")
    numbers, signs = [int(each) for each in expression[::2]], expression[1::2]
    answer = str(arithmetic.evaluate(numbers, signs))
    block = f"```python\n{program(''.join(expression))}\n```"
    thought = f"{block}\n```output\n{answer}\n```"
    return Solution(thought, answer, summarise(answer, problem.language))


TASKS = {"programs": Task(make, solve, levels=(1, 2, 3))}
