"""The shoebox world: shared by all synthetic tasks, with seeded problems from each.

A task makes problems from a random generator and also plays the imperfect author of the pretraining
corpus: it thinks with wrong steps and in mixed languages, at rates that a manifest sets. Held-out
problems are disjoint from training ones by construction: a problem's content decides its split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from r1pipe.keys import digest_bytes
from r1pipe.records import Problem, Step

HELD_OUT_BYTES = 32  # of 256 values of the digest's first byte: an eighth of all contents
MAX_DRAWS_PER_PROBLEM = 400

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Noise:
    """How imperfect the author of a solution is: the probability of each fault."""

    wrong_step: float = 0.0
    """One step's result is wrong."""
    skipped_step: float = 0.0
    """One step's result is not written, the next step takes both (arithmetic, choice, parity)."""
    mixed_word: float = 0.0
    """One word of the thought is in the other language."""
    curt: float = 0.0
    """A general prompt is answered by the bare content."""
    unsafe: float = 0.0
    """An unsafe request is complied with."""


@dataclass(frozen=True)
class Solution:
    """A written solution: thought, bare answer, and the readable summary of the chat format."""

    thought: str
    answer: str
    summary: str


@dataclass(frozen=True)
class Task:
    """One synthetic task: `make(rng, language, level)` and `solve(problem, rng, noise)`.

    A task that can tell right steps from wrong ones has `steps(problem, text)`: where each step of
    a completion ends, in characters, and 1 or 0.
    """

    make: Callable[[random.Random, str, int], Problem]
    solve: Callable[[Problem, random.Random, Noise], Solution]
    levels: tuple[int, ...]
    steps: Callable[[Problem, str], list[Step]] | None = None


def problem_id(task: str, content: str) -> str:
    """Return the id of a problem: its task and a digest of what it asks, whatever the wording."""
    return f"{task}-{digest_bytes(f'{task}:{content}'.encode())[:12]}"


def is_held_out(problem: Problem) -> bool:
    """Return the split of a problem; the wording's language does not decide it."""
    return int(digest_bytes(problem.id.encode())[:2], 16) < HELD_OUT_BYTES


def word(words: Mapping[str, str], language: str, rng: random.Random, noise: Noise) -> str:
    """Return a word in `language`, or, at the rate of mixed words, in the other one."""
    if noise.mixed_word and rng.random() < noise.mixed_word:
        language = "zh" if language == "en" else "en"
    return words[language]


def skips(rng: random.Random, noise: Noise) -> bool:
    """Return whether the author leaves out a step's result."""
    return noise.skipped_step > 0 and rng.random() < noise.skipped_step


def summarise(answer: str, language: str) -> str:
    """Return the readable last sentence of a checkable solution, with the answer in a box."""
    if language == "zh":
        return f"答案是 \\boxed{{{answer}}}"
    return f"The answer is \\boxed{{{answer}}}"


def draw(
    tasks: Mapping[str, Task],
    mix: Mapping[str, float],
    rng: random.Random,
    languages: Sequence[str] = LANGUAGES,
    levels: Mapping[str, Sequence[int]] | None = None,
) -> Problem:
    """Draw one problem: a task by its share in `mix`, a language and a level uniformly."""
    names = sorted(mix)
    name = rng.choices(names, [mix[n] for n in names])[0]
    chosen = (levels or {}).get(name) or tasks[name].levels
    return tasks[name].make(rng, rng.choice(list(languages)), rng.choice(list(chosen)))


def sample_problems(
    tasks: Mapping[str, Task],
    mix: Mapping[str, float],
    num_problems: int,
    *,
    held_out: bool,
    seed: int,
    languages: Sequence[str] = LANGUAGES,
    levels: Mapping[str, Sequence[int]] | None = None,
) -> list[Problem]:
    """Return distinct problems of one split, in a random but seeded order.

    The shares of `mix` are met exactly (to rounding). Raises ValueError when a task's world holds
    fewer problems than asked for.
    """
    total = sum(mix.values())
    problems: list[Problem] = []
    for name in sorted(mix):
        wanted = round(num_problems * mix[name] / total)
        rng = random.Random(f"{seed}:{name}:{held_out}")
        found: dict[str, Problem] = {}
        draws = 0
        while len(found) < wanted:
            draws += 1
            if draws > MAX_DRAWS_PER_PROBLEM * wanted:
                raise ValueError(f"task {name} has only {len(found)} problems, not {wanted}")
            problem = draw(tasks, {name: 1.0}, rng, languages, levels)
            if is_held_out(problem) == held_out:
                found.setdefault(problem.id, problem)
        problems.extend(found.values())
    random.Random(f"{seed}:order").shuffle(problems)
    return problems
