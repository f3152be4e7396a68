"""The checker of chains of parities: any choices, each with the sum that they make."""

from __future__ import annotations

import re

from r1pipe.records import Problem, Verdict
from r1pipe.verify.reading.extract import settled

MAX_CHARS = 1000
_LINK = re.compile(r"([a-z])([01])([01])")


def check(problem: Problem, text: str) -> Verdict:
    """Verify a chain against `meta["bits"]`: as many links as there are bits, lettered in order,
    and z_i = z_(i-1) xor y_i xor x_i in each. Blanks do not count."""
    bits: str = problem.meta["bits"]
    return settled(text, lambda answer: _is_chain("".join(answer[:MAX_CHARS].split()), bits))


def _is_chain(answer: str, bits: str) -> bool:
    links = _LINK.findall(answer)
    total, is_right = 0, len(links) == len(bits) and len(answer) == 3 * len(bits)
    for number, ((letter, choice, said), bit) in enumerate(zip(links, bits, strict=False)):
        total ^= int(choice) ^ int(bit)
        is_right = is_right and letter == chr(ord("a") + number) and int(said) == total
    return is_right
