"""Parity chains: is the number of ones odd or even; the thought carries the running parity.

`a1b0c1` is solved as `a1 odd b0 odd c1 even`; the letters tell a small model where it is. Level:
the number of bits. A guess is right half of the time.
"""

from __future__ import annotations

import random
import re

from r1pipe.records import Problem, Step
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, skips, summarise, word

PROMPTS = {"en": "parity {}", "zh": "奇偶 {}"}
LETTERS = "abcdefghij"
ODD, EVEN = {"en": " odd ", "zh": "奇"}, {"en": " even ", "zh": "偶"}
STEP = re.compile(r"([a-j][01])(?: (odd|even)|([奇偶]))")


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a string of `level` random bits."""
    bits = "".join(rng.choice("01") for _ in range(level))
    gold = (ODD if bits.count("1") % 2 else EVEN)[language].strip()
    return Problem(
        id=problem_id("parity", bits),
        task="parity",
        prompt=PROMPTS[language].format(
            "".join(f"{letter}{bit}" for letter, bit in zip(LETTERS, bits, strict=False))
        ),
        gold=gold,
        language=language,
        checker="word",
        level=level,
        meta={"bits": bits, "accept": [w.strip() for w in _same(gold).values()]},
    )


def _same(gold: str) -> dict[str, str]:
    return ODD if gold in {w.strip() for w in ODD.values()} else EVEN


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write each bit with the parity so far."""
    thought, is_odd = "", False
    bits: str = problem.meta["bits"]
    for place, (letter, bit) in enumerate(zip(LETTERS, bits, strict=False), start=1):
        is_odd ^= bit == "1"
        if place < len(bits) and skips(rng, noise):
            thought += letter + bit
            continue
        if noise.wrong_step and rng.random() < noise.wrong_step:
            is_odd = not is_odd
        thought += letter + bit + word(ODD if is_odd else EVEN, problem.language, rng, noise)
    answer = (ODD if is_odd else EVEN)[problem.language].strip()
    return Solution(thought.strip(), answer, summarise(answer, problem.language))


def steps(problem: Problem, text: str) -> list[Step]:
    """Return a bit with the parity so far as a step; right if both are those of the string there.

    What is written past the end of the string is wrong.
    """
    bits: str = problem.meta["bits"]
    found = list[Step]()
    for number, step in enumerate(STEP.finditer(text)):
        asked = LETTERS[number : number + 1] + bits[number : number + 1]
        is_odd = bits[: number + 1].count("1") % 2 == 1
        is_right = step[1] == asked and (step[2] == "odd" or step[3] == "奇") == is_odd
        found.append((step.end(), float(is_right)))
    return found


TASK = Task(make, solve, levels=(4, 5, 6, 7, 8, 9), steps=steps)
