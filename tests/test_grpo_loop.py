"""The GRPO loop: frozen log-probs, reference refreshes, truncation, preferences, resume."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    FakeContext,
    ScriptedGenerator,
    assert_same_weights,
    model,
    problems,
    rollout,
    stage,
    tokenizer,
)

from r1pipe.chat import boxed, render_completion
from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.protocol import Sampling
from r1pipe.records import FinishReason, Group, Problem, Rollout
from r1pipe.rl import loop
from r1pipe.rl.loop import GrpoPlan, learn, make_engine, roll_out, rollout_problems, train_grpo
from r1pipe.rl.rollouts import problem_order, rule_rewards, sample_completions, score_groups
from r1pipe.rl.update import Objective, minibatches, trained_rollouts
from r1pipe.settings import check_whole_rollouts

PAD = tokenizer().pad_token_id
MAX_CHARS = 18
"""Of the length reward: random completions of twelve tokens have 10 to 31 characters."""


def params(**changes: Any) -> Any:
    """Return the parameters of a small run whose reward a random policy can move."""
    values: dict[str, Any] = {
        "seed": 3,
        "format": "chat",
        "num_steps": 6,
        "problems_per_step": 2,
        "group_size": 4,
        "minibatches_per_rollout": 2,
        "optimizer": {"lr": 1e-2, "schedule": "cosine", "warmup_steps": 1},
        "rewards": {"length": 1.0},
        "clip_low": 10.0,
        "clip_high": 10.0,
        "kl_coef": 0.05,
        "reference_refresh_steps": 3,
        "max_tokens": 12,
    }
    return stage("grpo").params(**(values | changes))


def plan_of(chosen: Any) -> GrpoPlan:
    objective = Objective(
        chosen.temperature,
        chosen.clip_low,
        chosen.clip_high,
        chosen.kl_coef,
        chosen.aggregation,
        chosen.max_tokens,
    )
    return GrpoPlan(chosen, objective, 4096, "padded", 64)


def train(context: FakeContext, chosen: Any, **options: Any) -> Any:
    """Train a fresh policy and return it."""
    policy = model()
    asked = problems(12, max_chars=MAX_CHARS)
    train_grpo(context, policy, tokenizer(), asked, plan_of(chosen), **options)
    return policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[FakeContext, Any]:
    """Return the context and the policy of an uninterrupted run of three rollouts."""
    context = FakeContext(tmp_path_factory.mktemp("whole"))
    return context, train(context, params())


# ---- ratio and reference -------------------------------------------------------------------------


def test_the_ratio_is_one_at_a_rollouts_first_minibatch_and_not_at_its_second(
    trained: tuple[FakeContext, Any],
) -> None:
    # Recomputed from the present weights at each minibatch, it would be one everywhere.
    means, peaks = trained[0].column("ratio_mean"), trained[0].column("ratio_max")
    for first in (0, 2, 4):
        assert means[first] == pytest.approx(1.0, abs=1e-4)
        assert peaks[first] == pytest.approx(1.0, abs=1e-3)
    for second in (1, 3):  # the learning rate of the sixth step is almost nothing
        assert abs(peaks[second] - 1.0) > 0.01


def test_the_ratio_is_one_at_a_temperature_other_than_one_too(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    train(context, params(temperature=0.6, num_steps=2))
    assert context.column("ratio_max")[0] == pytest.approx(1.0, abs=1e-3)


def test_the_reference_is_refreshed_by_updates_and_not_by_rollouts(
    trained: tuple[FakeContext, Any],
) -> None:
    # Every 3 updates, with 2 in a rollout: steps 1 and 4 meet a reference that is the policy.
    kl = trained[0].column("kl")
    assert [value < 1e-8 for value in kl] == [True, False, False, True, False, False]


def test_a_reference_that_is_never_due_stays_the_first_policy(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    train(context, params(reference_refresh_steps=400))
    assert [value < 1e-8 for value in context.column("kl")] == [True] + [False] * 5


def test_without_a_kl_term_there_is_no_reference(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(loop, "Reference", None)  # making one would raise
    context = FakeContext(tmp_path)
    train(context, params(kl_coef=0.0, num_steps=2))
    assert context.column("kl") == [0.0, 0.0]


def test_the_reward_rises_when_it_is_trained_on(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    chosen = params(
        num_steps=12,
        group_size=8,
        problems_per_step=4,
        minibatches_per_rollout=1,
        optimizer={"lr": 1e-2},
        kl_coef=0.0,
    )
    train(context, chosen)
    rewards = context.column("reward")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


# ---- resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts_before_the_kill", [1, 2])
def test_a_resumed_run_ends_with_exactly_the_weights_of_the_uninterrupted_one(
    tmp_path: Path, trained: tuple[FakeContext, Any], rollouts_before_the_kill: int
) -> None:
    # After the second rollout the reference is no longer the first policy.
    first = FakeContext(tmp_path, stop_after=rollouts_before_the_kill, saves=True)
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(first, params())
    second = FakeContext(tmp_path)
    policy = train(second, params())
    done = 2 * rollouts_before_the_kill
    assert [row["step"] for row in second.logged] == list(range(done + 1, 7))
    for column in ("loss", "kl", "reward", "lr"):
        assert second.column(column) == trained[0].column(column)[done:]
    assert_same_weights(policy, trained[1])


def test_two_runs_give_the_same_weights_bit_by_bit(
    tmp_path: Path, trained: tuple[FakeContext, Any]
) -> None:
    assert_same_weights(train(FakeContext(tmp_path), params()), trained[1])


def test_another_seed_gives_other_weights(tmp_path: Path, trained: tuple[FakeContext, Any]) -> None:
    other = train(FakeContext(tmp_path), params(seed=4))
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(other, trained[1])


def test_a_finished_run_that_is_resumed_trains_no_further(
    tmp_path: Path, trained: tuple[FakeContext, Any]
) -> None:
    train(FakeContext(tmp_path, saves=True), params())
    again = FakeContext(tmp_path)
    assert_same_weights(train(again, params()), trained[1])
    assert again.logged == []


# ---- truncated completions -----------------------------------------------------------------------


def groups_with(finish_reasons: Sequence[FinishReason]) -> list[Group]:
    """Return one group of one-, two-, three-... token rollouts with given ends."""
    rollouts = [
        rollout([9, 30], [50 + i] * (i + 1), [-2.0] * (i + 1), float(i + 1), reason)
        for i, reason in enumerate(finish_reasons)
    ]
    for made in rollouts:
        made.rewards = {"length": 0.0}
    return [Group(Problem("p", "t", "q", "g"), rollouts)]


def one_update(tmp_path: Path, groups: list[Group], **changes: Any) -> tuple[dict[str, float], Any]:
    context = FakeContext(tmp_path)
    chosen = params(minibatches_per_rollout=1, kl_coef=0.0, **changes)
    engine = make_engine(model(), chosen.optimizer)
    learn(context, engine, None, groups, plan_of(chosen), PAD, 0, 0.0)
    return context.logged[0], engine.model


@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "constant"])
def test_masked_truncated_completions_leave_numerator_and_denominator(
    tmp_path: Path, aggregation: str
) -> None:
    stop, length = FinishReason.STOP, FinishReason.LENGTH
    mixed, whole = groups_with([stop, stop, length]), groups_with([stop, stop])
    masked = one_update(tmp_path, mixed, truncated="mask", aggregation=aggregation)
    without = one_update(tmp_path, whole, aggregation=aggregation)
    scored = one_update(tmp_path, mixed, truncated="score", aggregation=aggregation)
    assert masked[0]["loss"] == pytest.approx(without[0]["loss"], rel=1e-5)
    assert masked[0]["grad_norm"] == pytest.approx(without[0]["grad_norm"], rel=1e-4)
    assert abs(scored[0]["loss"] / masked[0]["loss"] - 1) > 0.1


def test_scored_truncated_completions_are_all_trained_on() -> None:
    stop, length = FinishReason.STOP, FinishReason.LENGTH
    rollouts = groups_with([stop, length, stop])[0].rollouts
    assert trained_rollouts(rollouts, "score") == rollouts
    assert trained_rollouts(rollouts, "mask") == [rollouts[0], rollouts[2]]


def test_a_rollout_of_truncated_completions_only_changes_nothing(tmp_path: Path) -> None:
    length = FinishReason.LENGTH
    _, policy = one_update(tmp_path, groups_with([length, length]), truncated="mask")
    assert_same_weights(policy, model())


# ---- minibatches, problems and seeds -------------------------------------------------------------


def test_minibatches_hold_every_rollout_once_in_even_sizes_and_a_seeded_order() -> None:
    rollouts: list[Rollout] = [rollout([1], [i]) for i in range(10)]
    parts = minibatches(rollouts, 4, "3:0")
    tokens = [[r.completion.token_ids[0] for r in part] for part in parts]
    assert sorted(map(len, tokens)) == [2, 2, 3, 3]
    assert sorted(token for part in tokens for token in part) == list(range(10))
    assert minibatches(rollouts, 4, "3:0") == parts
    assert minibatches(rollouts, 4, "3:1") != parts


def test_no_problem_comes_twice_in_an_epoch() -> None:
    order, seen = problem_order(problems(12), 5, seed=1), []
    for _ in range(12):
        seen += [problem.id for problem in next(order)]
    epochs = [seen[i : i + 12] for i in range(0, 60, 12)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1], "each epoch has an order of its own"


def test_each_rollout_samples_anew(tmp_path: Path) -> None:
    policy, chosen = model(), params()
    sampler = loop.TransformersGenerator(policy, end_ids=[1], pad_id=PAD, max_batch=64)
    texts = []
    for number in (0, 1, 0):
        groups = roll_out(sampler, tokenizer(), problems(2), chosen, number, None)
        texts.append([r.completion.token_ids for g in groups for r in g.rollouts])
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]


def test_a_completion_knows_its_problem_its_seed_and_its_text_without_the_end() -> None:
    asked = problems(3)
    script = ScriptedGenerator({p.prompt: [f"a{i}", f"b{i}"] for i, p in enumerate(asked)}, "chat")
    groups = sample_completions(
        script, tokenizer(), asked, 2, Sampling(max_tokens=50), "chat", [7], first_sample=4
    )
    for i, (group, problem) in enumerate(zip(groups, asked, strict=True)):
        assert [r.completion.text for r in group.rollouts] == [f"a{i}", f"b{i}"]
        assert [r.completion.sample_index for r in group.rollouts] == [4, 5]
        assert {r.completion.problem_id for r in group.rollouts} == {problem.id}
        ends = [r.completion.token_ids[-1] for r in group.rollouts]
        assert ends == [tokenizer().eos_token_id] * 2
    seeds = {r.completion.seed for g in groups for r in g.rollouts}
    assert len(seeds) == 6


def test_rollouts_are_not_cut_by_top_p() -> None:
    # a cut changes the support of the sampler, and the ratio would compare two distributions
    asked = problems(1)
    script = ScriptedGenerator({asked[0].prompt: ["a", "b", "c", "d"]}, "chat")
    roll_out(script, tokenizer(), asked, params(temperature=0.7), 0, None)
    assert [(s.temperature, s.top_p) for s in script.asked] == [(0.7, 1.0)]


def test_updates_that_are_no_whole_rollouts_are_refused() -> None:
    with pytest.raises(StageError, match=r"1700 is not a multiple .* 16; use 1696 or 1712"):
        check_whole_rollouts(1700, 16, "alignment-rl")
    check_whole_rollouts(1696, 16, "alignment-rl")


# ---- rewards -------------------------------------------------------------------------------------


def general_problem(task: str) -> Problem:
    checker, gold = ("contains", "cat") if task == "general" else ("refusal", "sorry")
    meta = {"refusal": ["sorry"], "max_chars": MAX_CHARS}
    return Problem(f"{task}-1", task, f"a {task} prompt", gold, checker=checker, meta=meta)


def test_general_prompts_join_from_their_step_on_and_at_their_share() -> None:
    chosen = params(preference={"from_step": 4, "general_frac": 0.5}, num_steps=8)
    general = [general_problem("general"), general_problem("safety")]
    order = rollout_problems(problems(12), general, chosen)
    tasks = [[p.task for p in next(order)] for _ in range(4)]
    # two updates and four problems a rollout: rollouts start at steps 0, 2, 4 and 6
    assert tasks[:2] == [["arithmetic"] * 4] * 2
    for rollout_tasks in tasks[2:]:
        assert rollout_tasks[:2] == ["arithmetic"] * 2
        assert sorted(rollout_tasks[2:]) == ["general", "safety"]


def test_a_rollout_that_starts_before_the_step_has_no_general_prompts() -> None:
    chosen = params(preference={"from_step": 3, "general_frac": 0.5}, num_steps=8)
    order = rollout_problems(problems(12), [general_problem("general")], chosen)
    tasks = [{p.task for p in next(order)} for _ in range(3)]
    assert tasks == [{"arithmetic"}, {"arithmetic"}, {"arithmetic", "general"}]


def test_reward_models_are_asked_from_their_step_on_and_for_their_own_task(
    tmp_path: Path,
) -> None:
    asked: list[tuple[int, str, str]] = []
    context = FakeContext(tmp_path)

    def scorer(name: str) -> Any:
        def score(pairs: Sequence[tuple[Problem, str]]) -> list[float]:
            asked.extend((len(context.logged), name, problem.task) for problem, _ in pairs)
            return [0.25] * len(pairs)

        return score

    train(
        context,
        params(preference={"from_step": 4, "general_frac": 0.5}),
        general=[general_problem("general"), general_problem("safety")],
        scorers={"general": scorer("helpful"), "safety": scorer("harmless")},
    )
    # the third rollout, at step 4: one prompt of each, four completions each
    assert sorted(asked) == [(4, "harmless", "safety")] * 4 + [(4, "helpful", "general")] * 4
    has_preference = ["reward_preference" in row for row in context.logged]
    assert has_preference == [False] * 4 + [True] * 2


def test_a_preference_takes_the_place_of_accuracy_for_general_prompts_only() -> None:
    arithmetic, general = problems(1)[0], general_problem("general")
    right = render_completion("a", "", "chat", summary=boxed(arithmetic.gold))
    cat = render_completion("a", "", "chat", summary="cat")
    script = ScriptedGenerator({arithmetic.prompt: [right] * 2, general.prompt: [cat] * 2}, "chat")
    groups = sample_completions(
        script, tokenizer(), [arithmetic, general], 2, Sampling(max_tokens=99), "chat", [0]
    )
    weights = {"accuracy": 1.0, "format": 0.5, "language": 2.0}
    score_groups(groups, weights, "chat", {"general": lambda pairs: [0.25] * len(pairs)})
    ruled, preferred = groups[0].rollouts[0], groups[1].rollouts[0]
    assert ruled.rewards == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert ruled.reward == 1.0 + 0.5 + 2.0
    assert preferred.rewards == {"preference": 0.25, "format": 1.0, "language": 1.0}
    assert preferred.reward == 0.25 + 0.5 + 2.0


def test_the_format_reward_is_that_of_the_prompts_format() -> None:
    problem = problems(1)[0]
    zero = render_completion("a", problem.gold, "r1-zero")
    chat = render_completion("a", "", "chat", summary=boxed(problem.gold))
    assert rule_rewards(problem, zero, True, {"format": 1.0}, "r1-zero") == {"format": 1.0}
    assert rule_rewards(problem, zero, True, {"format": 1.0}, "chat") == {"format": 0.0}
    assert rule_rewards(problem, chat, True, {"format": 1.0}, "chat") == {"format": 1.0}
    assert rule_rewards(problem, chat, True, {"format": 1.0}, "r1-zero") == {"format": 0.0}


def test_groups_of_equal_rewards_are_counted_and_move_nothing(tmp_path: Path) -> None:
    groups = groups_with([FinishReason.STOP] * 3)
    for made in groups[0].rollouts:
        made.advantage = 0.0
    logged, policy = one_update(tmp_path, groups)
    assert logged["flat_group_frac"] == 1.0
    assert logged["grad_norm"] == 0.0
    assert_same_weights(policy, model())


# ---- the stage -----------------------------------------------------------------------------------


def test_a_preference_without_its_reward_models_is_refused(tmp_path: Path) -> None:
    scorers = stage("grpo").run.__globals__["_scorers"]
    chosen = params(preference={"from_step": 0, "general_frac": 0.5})
    with pytest.raises(StageError, match="needs the inputs general, safety"):
        scorers(chosen, stage("grpo").run_model(), {"helpful": tmp_path}, "alignment-rl")


def test_copying_the_policy_for_the_reference_leaves_it_trainable(tmp_path: Path) -> None:
    policy = model()
    before = copy.deepcopy(policy)
    chosen = params(num_steps=2)
    asked = problems(4, max_chars=MAX_CHARS)
    train_grpo(FakeContext(tmp_path), policy, tokenizer(), asked, plan_of(chosen))
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(policy, before)
    assert all(p.requires_grad for p in policy.parameters())
