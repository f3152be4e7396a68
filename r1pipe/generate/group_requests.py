"""Requests for groups of completions: one seed for each, whatever divides them among ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from r1pipe.chat import AnyFormat
from r1pipe.generate.protocol import Request
from r1pipe.generate.uniforms import request_seeds
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import Problem


def requests_of(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    group_size: int,
    fmt: AnyFormat,
    seed_parts: Sequence[int | str],
) -> list[Request]:
    """Return the requests for `group_size` completions of every problem, problem by problem."""
    prompts = [tuple(encode_prompt(tokenizer, problem.prompt, fmt)) for problem in problems]
    seeds = seeds_of(problems, group_size, seed_parts)
    return [Request(prompts[i // group_size], seed, i) for i, seed in enumerate(seeds)]


def seeds_of(problems: Sequence[Problem], group_size: int, parts: Sequence[int | str]) -> list[int]:
    """Return the seeds of all completions, problem by problem.

    A problem that comes twice (a rollout that spans two epochs) gets other ones.
    """
    times = Counter[tuple[str, str]]()
    seeds = []
    for problem in problems:
        first = times[problem.id, problem.prompt] * group_size
        times[problem.id, problem.prompt] += 1
        numbers = range(first, first + group_size)
        seeds += request_seeds(*parts, problem.id, problem.prompt, numbers=numbers)
    return seeds
