"""Multiple choice: a short chain modulo 7 with four options.

The thought computes, then picks: `2*3 is 6-1 is 5 pick 5C`, repeating the value right before
its letter, as the options do. Level: the number of operations.
"""

from __future__ import annotations

import random

from r1pipe.records import Problem
from r1pipe.tasks import arithmetic
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise, word

PROMPTS = {"en": "choose mod 7: {} from {}", "zh": "选择模七: {} 选项{}"}
PICK = {"en": " pick ", "zh": "选"}
LETTERS = "ABCD"


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a chain and four different digits, one of which is its value."""
    chain = arithmetic.make(rng, language, level)
    others = [str(d) for d in range(arithmetic.MODULUS) if str(d) != chain.gold]
    options = [*rng.sample(others, 3), chain.gold]
    rng.shuffle(options)
    listed = ",".join(f"{option}{letter}" for letter, option in zip(LETTERS, options, strict=True))
    expression = chain.meta["expression"]
    return Problem(
        id=problem_id("choice", f"{expression} {listed}"),
        task="choice",
        prompt=PROMPTS[language].format(expression, listed),
        gold=LETTERS[options.index(chain.gold)],
        language=language,
        checker="choice",
        level=level,
        meta={"expression": expression, "options": options},
    )


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Compute the chain and pick the option that shows its value (a random one if none does)."""
    thought, value = arithmetic.worked(problem.meta["expression"], problem.language, rng, noise)
    options = list(problem.meta["options"])
    answer = LETTERS[options.index(value)] if value in options else rng.choice(LETTERS)
    shown = options[LETTERS.index(answer)]
    thought += f"{word(PICK, problem.language, rng, noise)}{shown}{answer}"
    return Solution(thought, answer, summarise(answer, problem.language))


TASK = Task(make, solve, levels=(1, 2))
