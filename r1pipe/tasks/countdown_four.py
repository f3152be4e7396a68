"""Countdown with all four operations: each number once, in any order (GRPO-Zero's, TinyZero's).

The thought tries one chain of operations after the other, `3*4=12,12-5=7? yes`, and the answer is
the last one in parentheses. Level: the count of numbers less one; public problems have 3 or 4.
"""

from __future__ import annotations

import random

from r1pipe.records import Problem
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise, word

PROMPTS = {"en": "use {} to make {} with + - * /", "zh": "用 {} 加减乘除凑 {}"}
NO, YES = {"en": " no ", "zh": "错"}, {"en": " yes", "zh": "对"}
LARGEST_NUMBER, LARGEST_TARGET = 9, 30
MAX_WRONG_TRIES = 2

Chain = tuple[list[int], list[str]]
"""Numbers in the order that they are used, and the operation before each but the first."""


def apply(sign: str, left: int, right: int) -> int | None:
    """Return the result of an operation; None for a division with a rest.

    >>> [apply(sign, 6, 3) for sign in "+-*/"], apply("/", 3, 6)
    ([9, 3, 18, 2], None)
    """
    if sign == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def results(chain: Chain) -> list[int] | None:
    """Return the result of every operation of a chain; None if one is a division with a rest."""
    numbers, signs = chain
    found, value = list[int](), numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = apply(sign, value, number)
        if result is None:
            return None
        found.append(value := result)
    return found


def draw_chain(rng: random.Random, numbers: list[int]) -> Chain:
    """Return a random chain of all the numbers that has whole results."""
    while True:
        order = rng.sample(numbers, len(numbers))
        chain = order, [rng.choice("+-*/") for _ in order[1:]]
        if results(chain) is not None:
            return chain


def expression(chain: Chain) -> str:
    """Write a chain as an expression.

    >>> expression(([3, 4, 5, 2], ["*", "-", "+"]))
    '((3*4)-5)+2'
    """
    numbers, signs = chain
    text = str(numbers[0])
    for place, (sign, number) in enumerate(zip(signs, numbers[1:], strict=True)):
        text = f"({text}){sign}{number}" if place else f"{text}{sign}{number}"
    return text


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return `level` + 1 numbers and a target that a chain of operations reaches."""
    target = 0
    while not 0 < target <= LARGEST_TARGET:
        numbers = [rng.randrange(1, LARGEST_NUMBER + 1) for _ in range(level + 1)]
        chain = draw_chain(rng, numbers)
        target = (results(chain) or [0])[-1]
    content = f"{' '.join(map(str, sorted(numbers)))} = {target}"
    return Problem(
        id=problem_id("countdown-four", content),
        task="countdown-four",
        prompt=PROMPTS[language].format(" ".join(map(str, numbers)), target),
        gold=expression(chain),
        language=language,
        checker="countdown",
        level=level,
        meta={"numbers": numbers, "target": target, "order": chain[0], "signs": chain[1]},
    )


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Try some random chains, then the one that the problem was made of."""
    numbers, target = list(problem.meta["numbers"]), problem.meta["target"]
    tries = [draw_chain(rng, numbers) for _ in range(rng.randrange(MAX_WRONG_TRIES + 1))]
    thought = ""
    for chain in [*tries, (list(problem.meta["order"]), list(problem.meta["signs"]))]:
        value, written = chain[0][0], list[str]()
        for sign, number in zip(chain[1], chain[0][1:], strict=True):
            before, value = value, apply(sign, value, number) or 0
            if noise.wrong_step and rng.random() < noise.wrong_step:
                value += rng.choice((-2, -1, 1, 2))
            written.append(f"{before}{sign}{number}={value}")
        verdict = YES if value == target else NO
        thought += ",".join(written) + "?" + word(verdict, problem.language, rng, noise)
        if value == target:
            break
    answer = expression(chain)
    return Solution(thought.strip(), answer, summarise(answer, problem.language))


TASK = Task(make, solve, levels=(1, 2))
