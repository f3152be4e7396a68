"""The GRPO loop: frozen log-probs, reference refreshes, truncation, preferences, resume."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_driven import on_ranks
from tiny import (
    MAX_CHARS,
    FakeContext,
    assert_same_weights,
    general_problem,
    grpo_of,
    grpo_params,
    model,
    problems,
    rollout,
    set_advantage,
    stage,
    tokenizer,
)

from r1pipe.audit.golds import GoldReport
from r1pipe.curricula.order import problems_of_rollouts
from r1pipe.errors import Interrupted, StageError
from r1pipe.models.prompts import encode_prompt
from r1pipe.policies import setup
from r1pipe.policies.setup import Guides, opened, usable_problems
from r1pipe.policies.training import train_policy
from r1pipe.ranks import Ranks
from r1pipe.records import FinishReason, Group, Problem, RolloutBatch, Verdict
from r1pipe.rewards.metrics import rollout_metrics
from r1pipe.rl.objective import trained_rollouts, with_gradient
from r1pipe.rows import write_problems
from r1pipe.stage import Inputs
from r1pipe.train.backends import make_engine

RUN = stage("grpo").run_model(micro_batch_tokens=4096, max_batch=64)


def train(
    context: FakeContext,
    chosen: Any,
    general: Sequence[Problem] = (),
    reward_models: Any = None,
    policy: Any = None,
) -> Any:
    """Train a policy, a fresh one where none is given, and return it."""
    policy, guides = policy or model(), Guides(reward_models=reward_models or {})
    with opened(context, policy, tokenizer(), chosen, RUN, guides) as run:
        train_policy(run, problems(12, max_chars=MAX_CHARS), general)
    return policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[FakeContext, Any]:
    """Return the context and the policy of an uninterrupted run of three rollouts."""
    context = FakeContext(tmp_path_factory.mktemp("whole"))
    return context, train(context, grpo_params())


def test_a_kept_sample_says_its_verdict_and_what_its_reward_is_made_of(
    trained: tuple[FakeContext, Any],
) -> None:
    weights = grpo_params().rewards
    for row in trained[0].samples:
        named = row["rewards"].items()
        assert row["reward"] == pytest.approx(sum(weights[name] * value for name, value in named))
        assert row["verdict"] in set(Verdict)
    assert trained[0].samples


# ---- ratio and reference -------------------------------------------------------------------------


def test_the_ratio_is_one_at_the_first_minibatch_and_not_at_the_second(
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
    train(context, grpo_params(temperature=0.6, num_steps=2))
    assert context.column("ratio_max")[0] == pytest.approx(1.0, abs=1e-3)


def test_the_reference_is_refreshed_by_updates_and_not_by_rollouts(
    trained: tuple[FakeContext, Any],
) -> None:
    # Every 3 updates, with 2 in a rollout: steps 1 and 4 meet a reference that is the policy.
    kl = trained[0].column("kl")
    assert [value < 1e-8 for value in kl] == [True, False, False, True, False, False]


def test_a_reference_that_is_never_due_stays_the_first_policy(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    train(context, grpo_params(reference_refresh_steps=400))
    assert [value < 1e-8 for value in context.column("kl")] == [True] + [False] * 5


def test_without_a_kl_term_there_is_no_reference(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(setup, "make_reference", None)  # making one would raise
    context = FakeContext(tmp_path)
    train(context, grpo_params(kl_coef=0.0, num_steps=2))
    assert context.column("kl") == [0.0, 0.0]


def test_the_reward_rises_when_it_is_trained_on(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    chosen = grpo_params(
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
        train(first, grpo_params())
    second = FakeContext(tmp_path)
    policy = train(second, grpo_params())
    done = 2 * rollouts_before_the_kill
    assert [row["step"] for row in second.logged] == list(range(done + 1, 7))
    for column in ("loss", "kl", "reward", "lr"):
        assert second.column(column) == trained[0].column(column)[done:]
    assert second.notes["trained_tokens"] == trained[0].notes["trained_tokens"]
    assert_same_weights(policy, trained[1])


def test_tokens_of_every_update_are_counted_as_the_plan_counts_them(
    trained: tuple[FakeContext, Any],
) -> None:
    # With a KL term every rollout is trained on: prompts are constant, completions are logged.
    context, chosen = trained[0], grpo_params()
    asked = {p.id: len(encode_prompt(tokenizer(), p.prompt, "chat")) for p in problems(12)}
    order = problems_of_rollouts(problems(12), [], chosen)
    prompts = [asked[p.id] for _ in range(3) for p in next(order)]
    completions = [row["completion_tokens"] for row in context.logged[::2]]  # a mean of 16
    expected = 4 * sum(prompts) + 16 * sum(completions)
    assert context.notes["trained_tokens"] == pytest.approx(expected, abs=1e-6)


def test_rollouts_without_an_advantage_are_not_counted_where_they_are_left_out() -> None:
    rollouts = groups_with([FinishReason.STOP] * 3)[0].rollouts  # 2 + 1, 2 + 2, 2 + 3 tokens
    set_advantage(rollouts[1], 0.0)
    assert sum(map(len, with_gradient(rollouts, kl_coef=0.0))) == 3 + 5
    assert sum(map(len, with_gradient(rollouts, kl_coef=0.1))) == 3 + 4 + 5
    assert list(with_gradient([], kl_coef=0.1)) == []


def test_two_runs_give_the_same_weights_bit_by_bit(
    tmp_path: Path, trained: tuple[FakeContext, Any]
) -> None:
    assert_same_weights(train(FakeContext(tmp_path), grpo_params()), trained[1])


def test_another_seed_gives_other_weights(tmp_path: Path, trained: tuple[FakeContext, Any]) -> None:
    other = train(FakeContext(tmp_path), grpo_params(seed=4))
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(other, trained[1])


def test_a_finished_run_that_is_resumed_trains_no_further(
    tmp_path: Path, trained: tuple[FakeContext, Any]
) -> None:
    train(FakeContext(tmp_path, saves=True), grpo_params())
    again = FakeContext(tmp_path)
    assert_same_weights(train(again, grpo_params()), trained[1])
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
    chosen = grpo_params(minibatches_per_rollout=1, kl_coef=0.0, **changes)
    engine = make_engine(model(), chosen.optimizer, RUN)
    run = grpo_of(chosen, engine, context=context)
    done = RolloutBatch(0, groups, groups, rollout_metrics(groups))
    for minibatch in run.minibatches(groups, 0):
        run.update(minibatch, done)
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
    groups = groups_with([stop, length, stop])
    rollouts = groups[0].rollouts
    assert trained_rollouts(groups, grpo_params(truncated="score")) == rollouts
    assert trained_rollouts(groups, grpo_params(truncated="mask")) == [rollouts[0], rollouts[2]]


def test_a_rollout_of_truncated_completions_only_changes_nothing(tmp_path: Path) -> None:
    length = FinishReason.LENGTH
    _, policy = one_update(tmp_path, groups_with([length, length]), truncated="mask")
    assert_same_weights(policy, model())


def test_groups_of_equal_rewards_are_counted_and_move_nothing(tmp_path: Path) -> None:
    groups = groups_with([FinishReason.STOP] * 3)
    for made in groups[0].rollouts:
        set_advantage(made, 0.0)
    logged, policy = one_update(tmp_path, groups)
    assert logged["flat_group_frac"] == 1.0
    assert logged["grad_norm"] == 0.0
    assert_same_weights(policy, model())


def test_reward_models_are_asked_from_their_step_on_for_their_own_task(
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
        grpo_params(preference={"from_step": 4, "general_frac": 0.5}),
        general=[general_problem("general"), general_problem("safety")],
        reward_models={"general": scorer("helpful"), "safety": scorer("harmless")},
    )
    # the third rollout, at step 4: one prompt of each, four completions each
    assert sorted(asked) == [(4, "harmless", "safety")] * 4 + [(4, "helpful", "general")] * 4
    has_preference = ["reward_preference" in row for row in context.logged]
    assert has_preference == [False] * 4 + [True] * 2


# ---- the stage -----------------------------------------------------------------------------------


def test_a_preference_without_its_reward_models_is_refused(tmp_path: Path) -> None:
    reward_models = stage("grpo").run.__globals__["_reward_models"]
    given = Inputs({"helpful": tmp_path})
    chosen = grpo_params(preference={"from_step": 0, "general_frac": 0.5})
    with pytest.raises(StageError, match="needs the inputs general, safety"):
        reward_models(chosen, stage("grpo").run_model(), given, "alignment-rl")


def test_copying_the_policy_for_the_reference_leaves_it_trainable(tmp_path: Path) -> None:
    policy = model()
    before = copy.deepcopy(policy)
    chosen = grpo_params(num_steps=2)
    train(FakeContext(tmp_path), chosen, policy=policy)
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(policy, before)
    assert all(p.requires_grad for p in policy.parameters())


BAD = Problem("bad", "arithmetic", "bad", r"\\")


def test_problems_with_unusable_golds_are_left_out_and_counted(tmp_path: Path) -> None:
    context, good = FakeContext(tmp_path), problems(3)
    assert usable_problems(context, "problems", [BAD, *good], ()) == good
    noted = context.notes["unusable_golds"]["problems"]
    assert context.warnings[0].startswith("problems: 1 of 4 gold answers do not verify")
    assert (noted["count"], noted["rate"], noted["verdicts"]) == (1, 0.25, {"gold_unusable": 1})
    assert noted["first"] == [r"bad: '\\\\' gold_unusable"]


def test_many_unusable_golds_are_told_to_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = problems(3)
    bad = [Problem(f"bad-{n}", "arithmetic", "x" * 300, "?") for n in range(5000)]
    report = GoldReport(good, [(problem, Verdict.GOLD_UNUSABLE) for problem in bad])
    monkeypatch.setattr(setup, "check_golds", lambda read, **limits: report)

    def told(ranks: Ranks, value: object) -> object:
        raise StageError("what may have megabytes goes by the process group")

    monkeypatch.setattr(Ranks, "agree", told)

    def work(rank: int, context: FakeContext) -> Any:
        return usable_problems(context, "problems", [*bad, *good], ())

    assert on_ranks(2, tmp_path, work) == [good, good]


def test_where_all_golds_are_usable_a_rate_of_zero_is_noted(tmp_path: Path) -> None:
    context, good = FakeContext(tmp_path), problems(3)
    assert usable_problems(context, "problems", good, ()) == good
    zero = {"count": 0, "rate": 0.0, "verdicts": {}, "first": []}
    assert context.notes == {"unusable_golds": {"problems": zero}}
    assert context.warnings == []


def test_a_task_that_a_model_rewards_needs_no_gold(tmp_path: Path) -> None:
    assert usable_problems(FakeContext(tmp_path), "problems", [BAD], ("arithmetic",)) == [BAD]
    other = Problem("bad", "math", "bad", BAD.gold)  # but for its task the same
    kept = usable_problems(FakeContext(tmp_path), "problems", [BAD, other], ("arithmetic",))
    assert kept == [BAD]


def test_no_usable_gold_stops_the_stage_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_problems(tmp_path / "problems", [BAD, BAD])
    kind, inputs = stage("grpo"), Inputs({"model": tmp_path, "problems": tmp_path / "problems"})
    chosen = grpo_params(rewards={"accuracy": 1.0})
    with pytest.raises(StageError, match=r"tested: problems: no problem has a usable gold"):
        kind.run(FakeContext(tmp_path / "work"), chosen, kind.run_model(), inputs)
