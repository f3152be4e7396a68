"""Curricula: what is shown, what is kept, and their state after a kill; rewards of tokens."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from test_grpo_loop import RUN
from tiny import (
    MAX_CHARS,
    FakeContext,
    ScriptedGenerator,
    assert_same_weights,
    general_problem,
    grpo_of,
    grpo_params,
    model,
    rollout,
    tokenizer,
)

from r1pipe.curricula.curricula import (
    R3,
    AdaBack,
    Curriculum,
    CurriculumState,
    Draw,
    DynamicSampling,
    Interval,
    curriculum_of,
    is_flat,
    shown_frac,
)
from r1pipe.curricula.order import problem_order
from r1pipe.curricula.revealed import revealed_ids
from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.protocol import SamplingParams
from r1pipe.models.prompts import encode_prompt
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy
from r1pipe.records import FinishReason, Group, Problem, Verdict
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.overlong import overlong
from r1pipe.rl.rollouts import sample_groups

META = {"max_chars": MAX_CHARS}
SOLVED = [
    Problem(f"p{n}", "t", f"question {n}", str(n), solution=f"we add {n}, and then {n}", meta=META)
    for n in range(6)
]
UNSOLVED = Problem("q", "t", "question", "1")


def group(problem: Problem, *rewards: float, revealed: float = 0.0) -> Group:
    rollouts = [rollout([1], [2]) for _ in rewards]
    for made, reward in zip(rollouts, rewards, strict=True):
        made.reward = reward
    return Group(problem, rollouts, revealed)


def made(chosen: Any, problems: Any = SOLVED) -> Any:
    return curriculum_of(chosen, problem_order(problems, 3, chosen.seed), problems)


# ---- AdaBack -------------------------------------------------------------------------------------


def test_the_interval_of_a_problem_moves_as_the_table_says() -> None:
    # revealed, success -> the interval after it
    table = [
        (0.5, False, (0.5, 1.0)),  # more has to be shown
        (0.75, True, (0.0, 0.75)),  # less: the lower end starts again
        (0.25, False, (0.25, 0.75)),
        (0.0, False, (0.25, 0.75)),  # nothing shown and nothing won: as before
        (0.5, True, (0.0, 0.5)),
        (0.0, True, (0.0, 0.0)),  # solved
    ]
    own = Interval(0.0, 1.0)
    for revealed, is_success, expected in table:
        own.take(revealed, is_success)
        assert (own.low, own.high) == expected


def adaback(**changes: Any) -> AdaBack:
    found = made(grpo_params(adaback={"threshold": 0.5, **changes}))
    assert isinstance(found, AdaBack)
    return found


def test_the_mean_reward_of_a_group_is_held_against_the_threshold() -> None:
    curriculum = adaback()
    curriculum.observe([group(SOLVED[0], 1.0, 0.0, revealed=0.4)])  # just enough
    curriculum.observe([group(SOLVED[1], 1.0, 0.0, 0.0, revealed=0.4)])
    found = curriculum.state()["intervals"]
    assert found["p0:question 0"] == [0.0, 0.4]
    # begins at the moving averages: (0 + 0.1 (0 - 0), 1 + 0.1 (0.4 - 1))
    assert found["p1:question 1"] == [0.4, pytest.approx(0.94)]
    assert curriculum.state()["average"] == [pytest.approx(0.04), pytest.approx(0.94)]


def test_all_groups_are_trained_on_and_those_without_a_solution_move_nothing() -> None:
    curriculum, groups = adaback(), [group(UNSOLVED, 1.0, 0.0), group(SOLVED[0], 0.0, 0.0)]
    assert curriculum.observe(groups) == groups
    assert list(curriculum.state()["intervals"]) == ["p0:question 0"]


def test_shares_are_uniform_in_the_interval_and_sometimes_nothing() -> None:
    curriculum = adaback(zero_frac=0.25)
    curriculum.intervals["p0:question 0"] = Interval(0.2, 0.6)
    shares = [curriculum.share(SOLVED[0], number) for number in range(4000)]
    shown = [share for share in shares if share]
    assert 0.22 < 1 - len(shown) / len(shares) < 0.28
    assert 0.2 <= min(shown) < 0.21
    assert 0.59 < max(shown) <= 0.6
    assert 0.39 < sum(shown) / len(shown) < 0.41
    assert shares[:50] == [curriculum.share(SOLVED[0], number) for number in range(50)]
    assert curriculum.share(UNSOLVED, 0) == 0.0


def test_a_search_ends_at_the_share_that_the_policy_needs() -> None:
    # a policy that succeeds if it is shown 0.6 or more
    curriculum = adaback(zero_frac=0.0)
    for number in range(200):
        share = curriculum.share(SOLVED[0], number)
        curriculum.observe([group(SOLVED[0], float(share >= 0.6), revealed=share)])
    low, high = curriculum.state()["intervals"]["p0:question 0"]
    assert low < 0.6 <= high < 0.65


# ---- R3 ------------------------------------------------------------------------------------------


def test_slices_are_all_shown_alike_but_never_all_of_them() -> None:
    curriculum = made(grpo_params(r3={"num_slices": 4}))
    assert isinstance(curriculum, R3)
    shares = [curriculum.share(SOLVED[0], number) for number in range(4000)]
    assert {share: 900 < shares.count(share) < 1100 for share in shares} == dict.fromkeys(
        (0.0, 0.25, 0.5, 0.75), True
    )


def test_stages_go_from_all_but_one_slice_to_nothing() -> None:
    staged = {"num_slices": 3, "is_staged": True}
    curriculum = made(grpo_params(num_steps=14, minibatches_per_rollout=2, r3=staged))
    # seven rollouts: thirds of them, rounded down
    shares = [curriculum.share(SOLVED[0], number) for number in range(7)]
    assert shares == [2 / 3] * 3 + [1 / 3] * 2 + [0.0] * 2


# ---- dynamic sampling ----------------------------------------------------------------------------


def test_flat_groups_are_those_whose_rewards_and_steps_are_all_the_same() -> None:
    assert is_flat(group(SOLVED[0], 1.0, 1.0))
    assert not is_flat(group(SOLVED[0], 1.0, 0.0))
    flat = group(SOLVED[0], 1.0, 1.0)
    flat.rollouts[0].steps = [(1, 0.0)]
    flat.rollouts[1].steps = [(1, 1.0)]
    assert not is_flat(flat)


class Rewarded:
    """Says which problems differ in their rewards, in place of sampling."""

    def __init__(self, run: Any, differing: set[str]) -> None:
        self.run, self.differing = run, differing
        self.asked: list[tuple[int, int, list[str]]] = []

    def __call__(self, draws: Any, number: int, again: int = 0) -> list[Group]:
        self.asked.append((number, again, [draw.problem.id for draw in draws]))
        groups = [
            group(d.problem, 1.0, 0.0 if d.problem.id in self.differing else 1.0) for d in draws
        ]
        self.run.credit.assign(groups)
        return groups


def kept_of(differing: set[str], max_draws: int = 3) -> tuple[list[str], Any, list[Any]]:
    chosen = grpo_params(dynamic_sampling=max_draws)
    run, curriculum = grpo_of(chosen), made(chosen)
    assert isinstance(curriculum, DynamicSampling)
    rewarded = Rewarded(run, differing)
    run.roll_out = rewarded  # type: ignore[method-assign]
    done = run.roll_out_enough(curriculum.next(0), 0, curriculum)
    return [each.problem.id for each in done.groups], done.metrics, rewarded.asked


def test_flat_groups_are_replaced_by_those_of_more_problems() -> None:
    order = [[p.id for p in batch] for batch in islice(problem_order(SOLVED, 3, 3), 2)]
    wanted = {order[0][1], *order[1]}
    kept, metrics, asked = kept_of(wanted)
    assert kept == [order[0][1], *order[1][:2]]  # the first ones that differ
    assert asked == [(0, 0, order[0]), (0, 1, order[1])]
    assert metrics["draws"] == 2.0
    assert "filled_frac" not in metrics
    assert metrics["flat_group_frac"] == 2 / 6  # of all that was sampled


def test_advantages_of_a_batch_are_those_of_the_groups_that_are_kept() -> None:
    chosen = grpo_params(dynamic_sampling=3, advantage="batch-mean")
    run, curriculum = grpo_of(chosen), made(chosen)
    order = [[p.id for p in batch] for batch in islice(problem_order(SOLVED, 3, 3), 2)]
    run.roll_out = Rewarded(run, {order[0][1], *order[1]})  # type: ignore[method-assign]
    groups = run.roll_out_enough(curriculum.next(0), 0, curriculum).groups
    # rewards 1 and 0 in each: a mean of 1/2; of the first draw it was 5/6
    found = [[r.streams["advantage"][0] for r in each.rollouts] for each in groups]
    assert found == [[0.5, -0.5]] * 3


def test_where_enough_differ_nothing_more_is_drawn() -> None:
    kept, metrics, asked = kept_of({problem.id for problem in SOLVED})
    assert len(kept) == len(asked[0][2]) == 3
    assert len(asked) == 1
    assert "draws" not in metrics


def test_after_the_last_draw_flat_groups_fill_the_rollout() -> None:
    kept, metrics, asked = kept_of({"p0"}, max_draws=2)
    assert len(asked) == 2
    assert kept[0] == "p0"
    assert len(kept) == len(set(kept)) == 3
    assert metrics["draws"] == 2.0
    assert metrics["filled_frac"] == pytest.approx(2 / 3)


def test_two_curricula_and_a_preference_beside_dynamic_sampling_are_refused() -> None:
    both = {"adaback": {"threshold": 0.5}, "r3": {"num_slices": 4}}
    with pytest.raises(ValueError, match="adaback and r3 are two curricula; leave one of them"):
        grpo_params(**both)
    with pytest.raises(ValueError, match="with dynamic_sampling the problems are not a function"):
        grpo_params(dynamic_sampling=2, preference={"from_step": 0, "general_frac": 0.5})
    with pytest.raises(ValueError, match="kl_in: reward no two completions have quite the same"):
        grpo_params(dynamic_sampling=2, kl_in="reward")
    assert grpo_params(dynamic_sampling=2, kl_in="reward", kl_coef=0.0).dynamic_sampling == 2


# ---- what is shown -------------------------------------------------------------------------------


def test_the_first_tokens_of_the_solution_join_the_prompt() -> None:
    problem = SOLVED[2]
    script = ScriptedGenerator({problem.prompt: []}, "r1-zero")
    text = "<think>we add 2, and then 2</think> <answer>2</answer>"
    ids = tokenizer()(text)["input_ids"]
    for share, count in ((0.0, 0), (0.5, len(ids) // 2), (0.999, len(ids) - 1), (1.0, len(ids))):
        found = revealed_ids(tokenizer(), problem, share, "r1-zero")
        assert list(found) == ids[:count]
        prompt = (*encode_prompt(tokenizer(), problem.prompt, "r1-zero"), *found)
        script.answers = {prompt: [" so it is 5", " 7"]}
        sampling = SamplingParams(max_tokens=50)
        (sampled,) = sample_groups(
            script, tokenizer(), [problem], 2, sampling, "r1-zero", [0], revealed=[share]
        )
        for each, written in zip(sampled.rollouts, (" so it is 5", " 7"), strict=True):
            assert tuple(each.prompt_ids) == prompt  # no loss on what was given
            assert len(each.streams["sampler_logprobs"]) == len(each.completion_ids)
            assert tokenizer().decode(each.completion_ids[:-1]) == written
            assert each.text == tokenizer().decode(ids[:count]) + written  # what is verified
    assert revealed_ids(tokenizer(), UNSOLVED, 0.5, "r1-zero") == ()


def test_a_curriculum_that_shows_solutions_needs_one() -> None:
    chosen = grpo_params(adaback={"threshold": 0.5})
    with pytest.raises(StageError, match=r"params.adaback shows .* none of the problems has one"):
        made(chosen, [UNSOLVED])
    assert isinstance(made(chosen, [UNSOLVED, SOLVED[0]]), AdaBack)
    assert type(made(grpo_params(), [UNSOLVED])) is Curriculum


def test_what_was_shown_is_logged_with_the_pass_rate_of_what_was_not() -> None:
    groups = [group(SOLVED[0], 1.0, 0.0, revealed=0.5), group(SOLVED[1], 1.0, 1.0)]
    for made_ in groups[1].rollouts:
        made_.verdict = Verdict.WRONG
    groups[1].rollouts[0].verdict = Verdict.CORRECT
    assert shown_frac(groups) == {"revealed_frac": 0.25, "pass_rate_unrevealed": 0.5}
    assert shown_frac(groups[:1]) == {"revealed_frac": 0.5}


# ---- after a kill --------------------------------------------------------------------------------

CURRICULA = {
    "dynamic_sampling": 3,
    "adaback": {"threshold": 0.3},
    "r3": {"num_slices": 3},
}


def train(context: FakeContext, chosen: Any) -> Any:
    policy = model()
    with opened(context, policy, tokenizer(), chosen, RUN) as run:
        train_policy(run, SOLVED)
    return policy


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_goes_on_exactly_after_a_kill(tmp_path: Path, name: str) -> None:
    chosen = grpo_params(**{name: CURRICULA[name]}, rewards={"length": 1.0, "overlong": 0.5})
    whole = FakeContext(tmp_path / "whole")
    expected = train(whole, chosen)
    killed = FakeContext(tmp_path / "killed", stop_after=2, saves=True)
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(killed, chosen)
    resumed = FakeContext(tmp_path / "killed")
    assert_same_weights(train(resumed, chosen), expected)
    for column in ("loss", "reward", "pass_rate"):
        assert resumed.column(column) == whole.column(column)[4:]


@pytest.mark.parametrize("name", ["adaback", "r3"])
def test_what_is_shown_changes_what_is_learned(tmp_path: Path, name: str) -> None:
    plain, shown = (FakeContext(tmp_path / each) for each in ("plain", "shown"))
    train(plain, grpo_params())
    train(shown, grpo_params(**{name: CURRICULA[name]}))
    assert "revealed_frac" not in plain.logged[0]
    assert 0.0 < max(shown.column("revealed_frac")) < 1.0
    assert shown.column("loss") != plain.column("loss")


def test_a_state_restores_what_comes_next(tmp_path: Path) -> None:
    chosen = grpo_params(adaback={"threshold": 0.5})
    first, second = made(chosen), made(chosen)
    for number in range(5):
        draws = first.next(number)
        first.observe([group(d.problem, float(number % 2), revealed=d.revealed) for d in draws])
    memory = CurriculumState()
    memory.state = first.state()
    memory.save(tmp_path)
    other = CurriculumState()
    other.load(tmp_path)
    assert other.state == json.loads(json.dumps(first.state()))
    second.restore(other.state)
    assert second.state() == first.state(), "the averages, at which new problems begin, too"
    assert [second.next(n) for n in range(5, 9)] == [first.next(n) for n in range(5, 9)]


@pytest.mark.parametrize("name", [None, *CURRICULA])
def test_the_news_of_all_rollouts_are_the_state(name: str | None) -> None:
    curriculum = made(grpo_params(**({name: CURRICULA[name]} if name else {})))
    memory = CurriculumState()
    for number in range(9):
        draws = curriculum.next(number)
        curriculum.observe([group(d.problem, float(number % 2), revealed=0.3) for d in draws])
        memory.take(json.loads(json.dumps(curriculum.news())))
        assert memory.state == curriculum.state()


def test_a_rollout_tells_of_its_own_problems_among_a_million() -> None:
    curriculum = adaback()
    curriculum.intervals = {f"p{n}:": Interval(0.0, 1.0) for n in range(1_000_000)}
    curriculum.observe([group(SOLVED[0], 1.0, revealed=0.5)])
    started = time.process_time()
    for _ in range(1000):
        curriculum.observe([group(SOLVED[0], 1.0, revealed=0.5)])
        assert list(curriculum.news()["intervals"]) == ["p0:question 0"]
    assert time.process_time() - started < 5, "a copy of all of them takes a second"


def test_problems_of_a_long_list_are_drawn_without_a_copy_of_it() -> None:
    order = problem_order([SOLVED[0]] * 1_000_000, 8, 3)
    next(order)
    started = time.process_time()
    for _ in range(10_000):
        next(order)
    assert time.process_time() - started < 5, "a copy of the rest takes some milliseconds"


def test_a_checkpoint_without_a_curriculum_has_none(tmp_path: Path) -> None:
    memory = CurriculumState()
    memory.load(tmp_path)
    assert memory.state is None
    CurriculumState(lambda: False).save(tmp_path)
    memory.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_plain_order_shows_nothing_and_keeps_all() -> None:
    curriculum = made(grpo_params())
    draws = curriculum.next(0)
    assert draws == [Draw(problem) for problem in next(problem_order(SOLVED, 3, 3))]
    groups = [group(draw.problem, 1.0, 1.0) for draw in draws]
    assert curriculum.observe(groups) == groups


# ---- the overlong penalty ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "reward"),
    [(1, 1.0), (16384, 1.0), (17408, 0.75), (18432, 0.5), (20480, 0.0), (0, 1.0)],
)
def test_the_overlong_penalty_counts_tokens_as_dapo_does(tokens: int, reward: float) -> None:
    # 20,480 tokens with a buffer of 4,096, shifted by 1; the text is not looked at
    made_ = Completion("x" * 99, tokens, FinishReason.STOP, 20480)
    assert overlong(general_problem("general"), made_) == reward
    assert overlong(general_problem("general"), Completion("x")) == 1.0


def test_a_rollout_is_rewarded_by_its_tokens() -> None:
    problem = SOLVED[0]
    script = ScriptedGenerator({problem.prompt: ["a", "a b c d e f g h i j k l"] * 2}, "chat")
    chosen = grpo_params(rewards={"overlong": 1.0}, max_tokens=10)
    (found,) = grpo_of(chosen, sampler=script).roll_out([Draw(problem)], 0)
    short, cut = found.rollouts[:2]
    assert (short.finish_reason, cut.finish_reason) == (FinishReason.STOP, FinishReason.LENGTH)
    assert len(short.completion_ids) <= 8
    assert (short.rewards, cut.rewards) == ({"overlong": 1.0}, {"overlong": 0.0})
