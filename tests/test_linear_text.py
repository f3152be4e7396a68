"""Functions that read text of a model take time linear in it, whatever it repeats.

Work is compared, not timed: a function passes a text at once if it is done in little CPU time, and
else its time must grow with the text's length, not with the square of it. That is measured again
before it fails, since another process may have had the caches. `benchmarks/linear_text.py` does
this at eight times the length.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from linear_texts import FUNCTIONS, seconds, texts

from r1pipe.rewards import language as rewards
from r1pipe.rewards.language import language_share

NUM_CHARS = 16_384
FEW_S = 0.05
"""CPU time that settles a text: three microseconds for each character."""
LONGER, MAX_GROWTH = 4, 9.0
"""So many times the length may take so many times as long; by the square it would be 16 times."""
PLACES = ("bare", "in a box")


def is_linear(
    function: Callable[[str], object], given: str, longer: str, few_s: float = FEW_S
) -> bool:
    """Return whether a function's time grows with the length of a text."""
    if seconds(function, given) < few_s:
        return True
    tries = ((seconds(function, given, 3), seconds(function, longer)) for _ in range(3))
    return any(after <= MAX_GROWTH * max(before, few_s / LONGER) for before, after in tries)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_is_linear_in_repeated_text(name: str) -> None:
    pairs = zip(texts(NUM_CHARS, PLACES), texts(LONGER * NUM_CHARS, PLACES), strict=True)
    slow = [
        which
        for (which, given), (_, longer) in pairs
        if not is_linear(FUNCTIONS[name], given, longer)
    ]
    assert slow == []


HIDDEN = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL
)
"""Spans of code and LaTeX as one pattern: plain to read, and quadratic where nothing closes."""


def slowly(text: str) -> str:
    """Blank out code and LaTeX by the pattern."""
    return HIDDEN.sub(lambda m: m.group() if rewards._PROSE.search(m.group()) else " ", text)


def test_the_measure_finds_a_function_that_is_quadratic() -> None:
    assert not is_linear(slowly, "\\[ " * 2_000, "\\[ " * 2_000 * LONGER, few_s=0.001)


PIECES = (
    *("`", "``", "```", "$", "$$", "$$$", "\\[", "\\]", "\\(", "\\)", "\\", "[", "("),
    *("\n", " ", "x", "the cat sat", "\u6240\u4ee5", "\\frac{1}{2}", "so ", "1", "\\\\"),
)  # fmt: skip


def test_the_language_reward_is_that_of_the_pattern() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(24)))
        assert rewards._drop_hidden(text) == slowly(text), text
    assert language_share("`a b` the $x$ cat \\[ \u6240\u4ee5 sat", "en") == 3 / 5


EXTRACT = """
import resource
from r1pipe.verify.reading.extract import find_answer
text = "\\\\boxed{" + "{}" * 1_000_000 + "}"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
find_answer(text)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_box_full_of_braces_takes_memory_of_the_order_of_the_text() -> None:
    done = subprocess.run([sys.executable, "-c", EXTRACT], capture_output=True, check=True)
    assert int(done.stdout) < 40_000, "KiB for 2 MB; a pattern that remembers its way took 230,000"


def test_renumbered_canaries_may_have_very_long_numbers() -> None:
    assert FUNCTIONS["canaries"]("1" * 10_000) is None
