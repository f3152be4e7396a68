"""The shoebox world: splits that never meet, and an author whose faults are those asked for."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, stage

from r1pipe.chat import render_completion, split_completion
from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.rewards.language import language_share
from r1pipe.rewards.table import REWARDS
from r1pipe.rows import read_problems, read_rows, write_problems
from r1pipe.settings import World
from r1pipe.stage import Inputs
from r1pipe.tasks import arithmetic, corpus, countdown, parity
from r1pipe.tasks.general import is_helpful
from r1pipe.tasks.table import TASKS
from r1pipe.tasks.world import LANGUAGES, Noise, Solution, is_held_out, sample_problems
from r1pipe.verify import verify

REASONING = ("arithmetic", "choice", "countdown", "parity")
WITHOUT_THOUGHT = {"chain-of-parities", "chain-of-rare-ones"}
EVERY_KIND = [
    (name, language, level)
    for name, task in TASKS.items()
    for language in LANGUAGES
    for level in task.levels
    if name not in WITHOUT_THOUGHT
]


def made(name: str, language: str, level: int, count: int = 40, seed: int = 1) -> list[Problem]:
    rng = random.Random(f"{name}:{seed}")
    return [TASKS[name].make(rng, language, level) for _ in range(count)]


def solved(problem: Problem, noise: Noise, seed: int = 2) -> Solution:
    return TASKS[problem.task].solve(problem, random.Random(f"{problem.id}:{seed}"), noise)


def completion(solution: Solution, fmt: Any) -> str:
    return render_completion(solution.thought, solution.answer, fmt, solution.summary)


def is_right(problem: Problem, solution: Solution, fmt: Any = "chat") -> bool:
    return verify(problem, completion(solution, fmt)) is Verdict.CORRECT


def gave_up(problem: Problem, solution: Solution) -> bool:
    """Say whether a Countdown author stopped after its last try without reaching the target."""
    no = countdown.NO[problem.language].strip()
    return problem.task == "countdown" and solution.thought.endswith(no)


# ---- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_held_out_and_training_problems_share_neither_content_nor_wording(name: str) -> None:
    size = 8 if name in ("general", "safety") else 30
    held_out = sample_problems(TASKS, {name: 1.0}, size, held_out=True, seed=1)
    train = [
        problem
        for seed in range(3)
        for problem in sample_problems(TASKS, {name: 1.0}, 2 * size, held_out=False, seed=seed)
    ]
    assert len(held_out) == len({p.id for p in held_out}) == size
    assert not {p.id for p in held_out} & {p.id for p in train}
    assert not {p.prompt for p in held_out} & {p.prompt for p in train}
    assert {p.language for p in train} == set(LANGUAGES)


@pytest.mark.parametrize("name", REASONING)
def test_the_language_of_the_wording_does_not_decide_the_split(name: str) -> None:
    level = TASKS[name].levels[-1]
    english = made(name, "en", level, seed=3)
    chinese = made(name, "zh", level, seed=3)
    assert [p.id for p in english] == [p.id for p in chinese]
    assert [p.prompt for p in english] != [p.prompt for p in chinese]
    assert {is_held_out(p) for p in english} == {True, False}


def test_the_corpus_holds_no_held_out_problem() -> None:
    rng = random.Random(0)
    problems = list(islice(corpus.training_problems(dict.fromkeys(TASKS, 1.0), rng), 600))
    assert {p.task for p in problems} == set(TASKS)
    assert not any(is_held_out(p) for p in problems)


def test_an_eighth_of_all_problems_is_held_out() -> None:
    rng = random.Random(0)
    ids = {p.id: p for p in (TASKS["arithmetic"].make(rng, "en", 4) for _ in range(4000))}
    share = sum(map(is_held_out, ids.values())) / len(ids)
    assert share == pytest.approx(1 / 8, abs=0.02)


def test_shares_of_the_mix_are_met_and_problems_are_distinct() -> None:
    mix = {"arithmetic": 2.0, "parity": 1.0, "choice": 1.0}
    problems = sample_problems(TASKS, mix, 80, held_out=False, seed=4)
    assert Counter(p.task for p in problems) == {"arithmetic": 40, "parity": 20, "choice": 20}
    assert len({p.id for p in problems}) == 80
    assert [p.task for p in problems] != sorted(p.task for p in problems), "shuffled together"


def test_problems_are_a_function_of_their_seed() -> None:
    def draw(seed: int) -> list[Problem]:
        return sample_problems(TASKS, {"arithmetic": 1.0}, 20, held_out=False, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_levels_and_languages_are_those_asked_for() -> None:
    problems = sample_problems(
        TASKS, {"arithmetic": 1.0}, 20, held_out=False, seed=1, languages=["zh"],
        levels={"arithmetic": [2, 3]},
    )  # fmt: skip
    assert {p.language for p in problems} == {"zh"}
    assert {p.level for p in problems} == {2, 3}
    assert {len(p.meta["expression"]) for p in problems} == {5, 7}


def test_asking_for_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"task parity has only .* problems, not 100"):
        sample_problems(TASKS, {"parity": 1.0}, 100, held_out=False, seed=1, levels={"parity": [4]})


# ---- a perfect author ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "language", "level"), EVERY_KIND)
def test_a_perfect_author_is_right_readable_and_in_the_format(
    name: str, language: str, level: int
) -> None:
    for problem in made(name, language, level):
        solution = solved(problem, Noise())
        for fmt in ("r1-zero", "chat"):
            text = completion(solution, fmt)
            form = REWARDS["format_zero" if fmt == "r1-zero" else "format_chat"]
            assert form(problem, text) == 1.0, text
            expected = Verdict.WRONG if gave_up(problem, solution) else Verdict.CORRECT
            assert verify(problem, text) is expected, text
            assert REWARDS["language"](problem, text) == 1.0, text


def test_a_countdown_author_gives_up_on_a_quarter_of_its_longest_problems_at_most() -> None:
    # three tries of four patterns, and more than one pattern may reach the target
    tries = [(p, solved(p, Noise())) for p in made("countdown", "en", 2, count=400)]
    assert 0.05 < sum(gave_up(p, s) for p, s in tries) / len(tries) < 0.3
    assert not any(gave_up(p, solved(p, Noise())) for p in made("countdown", "en", 1))


def test_arithmetic_goes_from_left_to_right_modulo_seven() -> None:
    # 6+5 = 4, 4*3 = 5, 5-4 = 1
    assert arithmetic.evaluate([6, 5, 3, 4], ["+", "*", "-"]) == 1
    assert arithmetic.evaluate([0, 3], ["-"]) == 4
    for problem in made("arithmetic", "en", 3):
        assert problem.gold == str(by_hand(problem.meta["expression"]))


def by_hand(expression: str) -> int:
    """Evaluate a chain with Python's own operators, folding to 0..6 after each one."""
    value = int(expression[0])
    for place in range(1, len(expression), 2):
        number = int(expression[place + 1])
        value = {"+": value + number, "-": value - number, "*": value * number}[expression[place]]
        value %= 7
    return value


def test_gold_answers_of_the_other_tasks_are_worked_again() -> None:
    for problem in made("parity", "zh", 5):
        odd = problem.meta["bits"].count("1") % 2 == 1
        assert problem.gold == (parity.ODD if odd else parity.EVEN)["zh"].strip()
    for problem in made("choice", "en", 2):
        options = problem.meta["options"]
        assert len(set(options)) == 4
        assert options["ABCD".index(problem.gold)] == str(by_hand(problem.meta["expression"]))
    for problem in made("countdown", "en", 2):
        numbers = problem.meta["numbers"]
        signed = problem.gold.replace("-", "+-").split("+")
        assert sum(map(int, signed)) == problem.meta["target"]
        assert [abs(int(n)) for n in signed] == numbers


# ---- an imperfect author -------------------------------------------------------------------------


def accuracy(problems: list[Problem], noise: Noise) -> float:
    return sum(is_right(p, solved(p, noise)) for p in problems) / len(problems)


@pytest.mark.parametrize(("name", "level"), [("arithmetic", 3), ("choice", 2), ("countdown", 2)])
def test_an_author_that_gets_every_step_wrong_is_mostly_wrong(name: str, level: int) -> None:
    # one in seven digits, a quarter of the options, a third of the signs come out right by chance
    assert accuracy(made(name, "en", level, count=150), Noise(wrong_step=1.0)) < 0.45


def test_a_wrong_parity_step_flips_all_that_follow() -> None:
    always = Noise(wrong_step=1.0)
    assert accuracy(made("parity", "en", 5), always) == 0.0  # an odd number of flips
    assert accuracy(made("parity", "en", 4), always) == 1.0  # an even number


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "parity"])
def test_some_wrong_steps_lie_between_all_and_none(name: str) -> None:
    problems = made(name, "zh", TASKS[name].levels[-1], count=150)
    some = accuracy(problems, Noise(wrong_step=0.15))
    assert 0.2 < some < accuracy(problems, Noise())


def test_the_stated_answer_is_that_of_the_written_steps_even_where_they_are_wrong() -> None:
    for problem in made("arithmetic", "en", 3):
        solution = solved(problem, Noise(wrong_step=0.5))
        assert solution.thought.endswith(solution.answer)


def test_a_step_that_is_skipped_is_taken_with_the_next_and_the_answer_stays_right() -> None:
    always = Noise(skipped_step=1.0)
    chain = Problem(
        id="", task="arithmetic", prompt="", gold="1", language="en", checker="number",
        meta={"expression": "6+5*3-4"},
    )  # fmt: skip
    bits = replace(chain, task="parity", gold="even", meta={"bits": "101"})
    assert solved(chain, Noise()).thought == "6+5 is 4*3 is 5-4 is 1"
    assert solved(chain, always).thought == "6+5*3-4 is 1"
    assert solved(bits, Noise()).thought == "a1 odd b0 odd c1 even"
    assert solved(bits, always).thought == "a1b0c1 even"


@pytest.mark.parametrize("name", ["arithmetic", "choice", "parity"])
def test_skipped_steps_make_thoughts_shorter_at_their_rate_and_never_wrong(name: str) -> None:
    problems = made(name, "en", TASKS[name].levels[-1], count=150)
    lengths = []
    for rate in (0.0, 0.5, 1.0):
        thoughts = [solved(p, Noise(skipped_step=rate)).thought for p in problems]
        lengths.append(sum(map(len, thoughts)) / len(thoughts))
    assert accuracy(problems, Noise(skipped_step=0.5)) == 1.0
    assert lengths[1] == pytest.approx((lengths[0] + lengths[2]) / 2, rel=0.05)
    assert lengths[2] < 0.8 * lengths[0]  # by hand: choice goes from 23 to 18 characters


@pytest.mark.parametrize("name", sorted({*TASKS} - {"safety"} - WITHOUT_THOUGHT))
def test_mixed_words_lower_the_share_of_the_language(name: str) -> None:
    for language in LANGUAGES:
        problems = made(name, language, TASKS[name].levels[-1])
        shares = []
        for rate in (0.0, 0.5, 1.0):
            thoughts = [solved(p, Noise(mixed_word=rate)).thought for p in problems]
            judged = [s for t in thoughts if (s := language_share(t, language)) is not None]
            shares.append(sum(judged) / len(judged))
        assert shares[0] == 1.0
        assert 0.3 < shares[1] < 0.75
        assert shares[2] < 0.2


def test_mixed_words_change_no_answer() -> None:
    for name in REASONING:
        problems = made(name, "en", TASKS[name].levels[0])
        assert accuracy(problems, Noise(mixed_word=1.0)) == accuracy(problems, Noise())


def test_a_curt_author_is_right_and_not_helpful() -> None:
    for language in LANGUAGES:
        for problem in made("general", language, 0):
            curt, whole = solved(problem, Noise(curt=1.0)), solved(problem, Noise())
            assert is_right(problem, curt)
            assert not is_helpful(problem, completion(curt, "chat"))
            assert is_helpful(problem, completion(whole, "chat"))


def test_an_unsafe_author_complies_and_is_judged_wrong() -> None:
    for language in LANGUAGES:
        problems = made("safety", language, 0)
        assert accuracy(problems, Noise(unsafe=1.0)) == 0.0
        assert accuracy(problems, Noise()) == 1.0


# ---- corpus rows and the stages ------------------------------------------------------------------


def base_rows(thought_frac: float, unformatted_frac: float) -> list[tuple[Problem, str]]:
    rng = random.Random(0)
    problems = islice(corpus.training_problems({"arithmetic": 1.0}, rng), 200)
    return [
        (p, corpus.base_completion(solved(p, Noise()), rng, thought_frac, unformatted_frac))
        for p in problems
    ]


def test_a_formatted_thought_of_the_corpus_earns_the_format_reward() -> None:
    # else R1-Zero could never earn it: its policy imitates these rows
    for problem, text in base_rows(1.0, 0.0):
        assert REWARDS["format_zero"](problem, text) == 1.0, repr(text)
        assert verify(problem, text) is Verdict.CORRECT


def test_the_corpus_holds_thoughts_and_tags_at_their_rates() -> None:
    rows = base_rows(0.6, 0.25)
    formed = [text for problem, text in rows if REWARDS["format_zero"](problem, text) == 1.0]
    tagged = [text for _, text in rows if "<answer>" in text]
    thoughts = [text for text in tagged if split_completion(text).thought]
    assert len(tagged) / len(rows) == pytest.approx(0.75, abs=0.08)
    assert len(thoughts) / len(tagged) == pytest.approx(0.6, abs=0.08)
    assert len(formed) == len(thoughts)
    assert all(text.strip() for _, text in rows)


def test_the_problems_stage_removes_what_shares_phrases_with_the_held_out(tmp_path: Path) -> None:
    kind = stage("problems")

    def draw(name: str, split: str, inputs: dict[str, Path]) -> FakeContext:
        context = FakeContext(tmp_path / name)
        world = World(mix={"arithmetic": 1.0}, languages=("en",), levels={"arithmetic": (4,)})
        params = kind.params(seed=1, num_problems=30, split=split, world=world)
        kind.run(context, params, kind.run_model(), Inputs(inputs))
        return context

    held_out = draw("held-out", "held-out", {})
    train = draw("train", "train", {"held_out": held_out.output("problems")})
    assert train.notes["held_out"] == 30
    kept = read_problems(train.output("problems"))
    assert len(kept) + train.notes["overlaps_removed"] == 30
    ids = {p.id for p in read_problems(held_out.output("problems"))}
    assert not ids & {p.id for p in kept}


@pytest.mark.parametrize(("num_alike", "is_told"), [(2, False), (3, True)])
def test_many_problems_that_resemble_held_out_ones_are_told(
    tmp_path: Path, num_alike: int, *, is_told: bool
) -> None:
    kind, line = stage("problems"), "Tom has {} apples and buys more of them in the shop today"
    asked = [f"What is {n} plus {n + 1}?" for n in range(20 - num_alike)]
    asked += [line.format(n) for n in range(num_alike)]
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps({"question": q, "answer": "5"}) + "\n" for q in asked))
    held_out = Problem("x", "math", line.format(99), "5", checker="math")
    write_problems(tmp_path / "held-out", [held_out])
    context = FakeContext(tmp_path / "out")
    given = Inputs({"source": source, "held_out": tmp_path / "held-out"})
    kind.run(context, kind.params(seed=1, num_problems=100), kind.run_model(), given)
    assert context.notes["overlaps_removed"] == num_alike
    assert len(context.warnings) == is_told
    assert all("3 of 20 problems share 10 words in a row" in text for text in context.warnings)


def test_an_unknown_task_names_those_there_are(tmp_path: Path) -> None:
    kind = stage("problems")
    params = kind.params(seed=1, num_problems=3, world=World(mix={"arithmetics": 1.0}))
    with pytest.raises(StageError, match="no task arithmetics; there are arithmetic, chain"):
        kind.run(FakeContext(tmp_path), params, kind.run_model(), Inputs())


def test_the_corpus_stage_writes_the_same_rows_for_the_same_seed(tmp_path: Path) -> None:
    kind = stage("corpus")
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        params = kind.params(
            seed=seed, num_rows=30, format="r1-zero", world=World(mix={"parity": 1.0})
        )
        context = FakeContext(tmp_path / name)
        kind.run(context, params, kind.run_model(), Inputs())
        tables.append(list(read_rows(context.output("rows"))))
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
    assert len(tables[0]) == 30
