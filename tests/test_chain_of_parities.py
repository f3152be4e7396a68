"""The task of AdaBack, its checker, and Countdown with all four operations."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from r1pipe.chat import Format, boxed, render_completion
from r1pipe.records import Problem, Verdict
from r1pipe.rewards.format import format_reward
from r1pipe.tasks import chain_of_parities, countdown_four
from r1pipe.tasks.world import Noise
from r1pipe.verify import verify
from r1pipe.verify.countdown import evaluate
from r1pipe.verify.reading.recast import recast

BARE = Format(think=None, answer="last-line")


def problem(bits: str) -> Problem:
    name = "chain-of-parities"
    return Problem(name, name, "chain", "", checker=name, meta={"bits": bits})


def test_every_choice_has_one_right_chain() -> None:
    # of the 4^3 texts, 2^3 are right: the sums follow from the choices
    asked, letters = problem("101"), "abc"
    right = []
    for bits in itertools.product("01", repeat=6):
        text = "".join(f"{letters[i]}{bits[2 * i]}{bits[2 * i + 1]}" for i in range(3))
        if verify(asked, boxed(text)) is Verdict.CORRECT:
            right.append(text)
    # y = 000: z = 1, 1, 0; y = 100: z = 0, 0, 1
    assert len(right) == 8
    assert {"a01b01c00", "a10b00c01"} <= set(right)
    assert len({text[1] + text[4] + text[7] for text in right}) == 8


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"\boxed{a01 b01 c00}", "correct"),
        ("<answer>a01b01c00</answer>", "correct"),
        (r"\boxed{a01b01}", "wrong"),  # too short
        (r"\boxed{a01b01c00d00}", "wrong"),  # too long
        (r"\boxed{a01c01b00}", "wrong"),  # in another order
        (r"\boxed{a01b01c00 or a10b00c01}", "wrong"),
        (r"\boxed{xa01b01c00}", "wrong"),
        (r"\boxed{a01b01c00}, or \boxed{a10b00c01}", "wrong"),
        ("nothing", "no_answer"),
        ("", "no_answer"),
        (r"\boxed{" + "a01" * 5000 + "}", "wrong"),
    ],
)
def test_chains_are_read_strictly(text: str, verdict: str) -> None:
    assert verify(problem("101"), text) == verdict


@pytest.mark.parametrize("level", [*chain_of_parities.TASK.levels, 16, 26])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_author_writes_right_chains_in_the_bare_format(language: str, level: int) -> None:
    rng, wrong = random.Random(3), 0
    for _ in range(20):
        made = chain_of_parities.make(rng, language, level)
        assert verify(made, boxed(made.gold)) is Verdict.CORRECT
        found = chain_of_parities.solve(made, rng, Noise())
        text = render_completion(found.thought, found.answer, BARE, found.summary)
        assert text == found.answer
        assert verify(made, recast(text, BARE)) is Verdict.CORRECT
        assert format_reward(BARE)(made, text) == 1.0
        steps = chain_of_parities.steps(made, text)
        assert [reward for _, reward in steps] == [1.0] * level
        assert steps[-1][0] == len(text)
        faulty = chain_of_parities.solve(made, rng, Noise(wrong_step=0.5)).answer
        wrong += verify(made, boxed(faulty)) is Verdict.WRONG
    assert wrong > 15


def test_steps_of_a_chain_go_on_from_what_was_written() -> None:
    def found(text: str) -> list[float]:
        return [reward for _, reward in chain_of_parities.steps(problem("101"), text)]

    # the first sum is wrong; from there on the others are right
    assert found("a00b00c01") == [0.0, 1.0, 1.0]
    assert found("a01b01c01") == [1.0, 1.0, 0.0]
    assert found("a01c01") == [1.0, 0.0]
    assert found("a01b01c00d00") == [1.0, 1.0, 1.0, 0.0]


# ---- Countdown -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
def test_countdown_uses_all_four_operations_in_any_order(level: int) -> None:
    rng, signs, moved = random.Random(5), set[str](), 0
    for _ in range(200):
        made = countdown_four.make(rng, "en", level)
        numbers, target = made.meta["numbers"], made.meta["target"]
        value, used = evaluate(made.gold)
        assert value == Fraction(target)
        assert sorted(used) == sorted(numbers)
        assert verify(made, boxed(made.gold)) is Verdict.CORRECT
        signs |= set(made.meta["signs"])
        moved += used != numbers
    assert signs == set("+-*/")
    assert moved > 50


def test_the_thought_of_countdown_ends_with_the_chain_of_the_answer() -> None:
    rng = random.Random(1)
    made = Problem("c", "countdown-four", "?", "", checker="countdown")
    made.meta.update(  # type: ignore[attr-defined]
        {"numbers": [3, 4, 5], "target": 7, "order": [3, 4, 5], "signs": ["*", "-"]}
    )
    for _ in range(20):
        found = countdown_four.solve(made, rng, Noise())
        assert found.thought.endswith("? yes")
        assert verify(made, boxed(found.answer)) is Verdict.CORRECT
        last = found.thought.split(" no ")[-1]
        assert last.startswith("3*4=12,12-5=7?") or found.answer != "(3*4)-5"


def test_chains_with_rare_ones_are_the_same_problems_drawn_otherwise() -> None:
    rng = random.Random(1)
    few = [chain_of_parities.RARE_ONES.make(rng, "en", 16) for _ in range(200)]
    bits = "".join(each.meta["bits"] for each in few)
    assert 0.12 < bits.count("1") / len(bits) < 0.18
    answers = [chain_of_parities.RARE_ONES.solve(each, rng, Noise()).answer for each in few]
    choices = "".join(link[1] for answer in answers for link in answer.split())
    assert 0.12 < choices.count("1") / len(choices) < 0.18
    for each, answer in zip(few, answers, strict=True):
        assert verify(each, boxed(answer)) is Verdict.CORRECT
    even = chain_of_parities.make(random.Random(2), "en", 6)
    same = next(p for p in iter(lambda: chain_of_parities.RARE_ONES.make(rng, "en", 6), None)
                if p.meta == even.meta)  # fmt: skip
    assert (same.id, same.prompt) == (even.id, even.prompt), "held out together, or not at all"
    assert (same.task, even.task) == ("chain-of-rare-ones", "chain-of-parities")
