"""The checker of chains of parities: any choices, each with the sum that they make."""

from __future__ import annotations

import re

from r1pipe.records import Problem, Verdict
from r1pipe.verify.reading.extract import find_answer

MAX_CHARS = 1000
_LINK = re.compile(r"([a-z])([01])([01])")


def check(problem: Problem, text: str) -> Verdict:
    """Verify a chain against `meta["bits"]`: as many links as there are bits, lettered in order,
    and z_i = z_(i-1) xor y_i xor x_i in each. Blanks do not count."""
    bits: str = problem.meta["bits"]
    found = find_answer(text)
    if found.answer is None:
        return Verdict.NO_ANSWER
    answer = "".join(found.answer[:MAX_CHARS].split())
    links = _LINK.findall(answer)
    if found.is_hedge or len(links) != len(bits) or len(answer) != 3 * len(bits):
        return Verdict.WRONG
    total = 0
    for number, ((letter, choice, said), bit) in enumerate(zip(links, bits, strict=True)):
        total ^= int(choice) ^ int(bit)
        if letter != chr(ord("a") + number) or int(said) != total:
            return Verdict.WRONG
    return Verdict.CORRECT
