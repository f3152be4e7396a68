"""Tasks of reasoning-gym: which can be used, their levels, and the solutions written for them."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest

from r1pipe.chat import boxed
from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.tasks.gym import NAMES, PREFIX, gym_tasks
from r1pipe.tasks.gym_solutions import SOLUTIONS
from r1pipe.tasks.table import all_tasks
from r1pipe.tasks.world import Noise, sample_problems
from r1pipe.verify import verify


def made(name: str, count: int, **config: int) -> list[Problem]:
    """Return problems of one task at one level."""
    tasks = gym_tasks({f"{PREFIX}{name}": [config]} if config else {})
    rng = random.Random(5)
    return [tasks[f"{PREFIX}{name}"].make(rng, "en", 1) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_of_every_task_is_right_and_another_is_wrong(name: str) -> None:
    problems = made(name, 4)
    for problem in problems:
        assert verify(problem, f"So it is {boxed(problem.gold)}.") is Verdict.CORRECT
        other = "7919" if problem.checker == "number" else "another phrase"
        assert verify(problem, f"So it is {boxed(other)}.") is Verdict.WRONG


def test_the_items_are_the_same_in_another_process() -> None:
    program = (
        "import json, sys\n"
        "from test_gym import NAMES, made\n"
        "print(json.dumps({n: [[p.id, p.gold] for p in made(n, 3)] for n in NAMES}))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    ]
    assert len(json.loads(outputs[0])) == len(NAMES)
    assert outputs[0] == outputs[1]


def test_levels_are_configs_of_the_library() -> None:
    levels = [{"max_terms": 2, "max_digits": 1}, {"min_terms": 5, "max_terms": 5}]
    task = gym_tasks({"gym:chain_sum": levels})["gym:chain_sum"]
    assert task.levels == (1, 2)
    rng = random.Random(1)
    easy = [task.make(rng, "en", 1) for _ in range(20)]
    hard = [task.make(rng, "en", 2) for _ in range(20)]
    assert {problem.level for problem in easy} == {1}
    count = {len(re.findall(r" [+-] ", problem.prompt)) for problem in easy}
    assert count == {1}
    assert {len(re.findall(r" [+-] ", problem.prompt)) for problem in hard} == {4}


def test_splits_of_a_gym_task_share_no_problem() -> None:
    tasks = all_tasks({"gym:chain_sum": [{"max_terms": 3, "max_digits": 1}]})
    splits = [
        {
            problem.prompt
            for problem in sample_problems(
                tasks, {"gym:chain_sum": 1.0}, count, held_out=held_out, seed=3
            )
        }
        for held_out, count in ((False, 200), (True, 40))
    ]
    assert [len(split) for split in splits] == [200, 40]
    assert not splits[0] & splits[1]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_written_solution_ends_in_the_gold_answer(name: str) -> None:
    task = gym_tasks({})[f"{PREFIX}{name}"]
    for problem in made(name, 30):
        solution = task.solve(problem, random.Random(1), Noise())
        numbers = re.findall(r"-?\d+(?:\.\d+)?", solution.thought.replace(",", ""))
        assert abs(float(numbers[-1])) == abs(float(problem.gold)), solution.thought
        whole = f"<think>\n{solution.thought}\n</think>\n\n{solution.summary}"
        assert verify(problem, whole) is Verdict.CORRECT


def test_every_step_of_a_written_solution_is_true() -> None:
    for name in ("chain_sum", "products", "leg_counting", "letter_counting"):
        for problem in made(name, 20):
            steps = re.findall(r"((?:-?\d+ [-+*] )+-?\d+) = (-?\d+)", problem.solution or "")
            assert steps or "=" not in (problem.solution or "")
            for left, right in steps:
                assert eval(left) == int(right), problem.solution


def test_letters_are_counted_word_by_word() -> None:
    solution = SOLUTIONS["letter_counting"]
    assert solution({"target_letter": "h", "span": ["hundred", "Hash"]}, "3") == (
        "hundred: 1, Hash: 2. 1 + 2 = 3."
    )


def test_what_is_wrong_with_a_config_is_said() -> None:
    with pytest.raises(StageError, match=r"here; did you mean 'gym:chain_sum'\?"):
        gym_tasks({"gym:chain_sums": [{}]})
    with pytest.raises(StageError, match=r"gym:lcm: no field 'max'; it has max_numbers, max_val"):
        made("lcm", 1, max=3)
    with pytest.raises(StageError, match=r"gym:lcm: .*max_numbers must be >= min_numbers"):
        made("lcm", 1, min_numbers=5, max_numbers=2)


def test_a_task_without_a_written_solution_says_where_to_get_some() -> None:
    (problem,) = made("gcd", 1)
    with pytest.raises(StageError, match=r"gym:gcd: no written solutions; sample them"):
        gym_tasks({})["gym:gcd"].solve(problem, random.Random(1), Noise())
