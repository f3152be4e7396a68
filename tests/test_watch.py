"""What GRPO warns of and pauses for: flat groups, cut completions, rewards that stay, KL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import (
    MAX_CHARS,
    FakeContext,
    assert_same_weights,
    grpo_params,
    model,
    problems,
    stage,
    tokenizer,
)

from r1pipe.errors import Interrupted, Paused
from r1pipe.method_params.runs import StopWhen
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy
from r1pipe.policies.watch import Watch
from r1pipe.records import FinishReason, Group, Problem, Rollout, Verdict

PROBLEM = Problem("p1", "arithmetic", "what is 1 + 1?", "2")


def watch(num_steps: int = 40, **limits: Any) -> Watch:
    chosen = grpo_params(num_steps=num_steps, rewards={"accuracy": 1.0, "format": 1.0})
    made = Watch(chosen.num_steps, chosen.max_tokens, chosen.format, StopWhen(**limits))
    made.groups = [group("so <think>2", "length"), group("\\boxed{3}", "stop", Verdict.WRONG)]
    return made


def group(text: str, finish_reason: str, verdict: Verdict = Verdict.NO_ANSWER) -> Group:
    rollout = Rollout([1], [2], text=text, finish_reason=FinishReason(finish_reason))
    rollout.verdict = verdict
    return Group(PROBLEM, [rollout])


def metrics(**values: float) -> dict[str, float]:
    usual = {"flat_group_frac": 0.5, "truncated_frac": 0.1, "kl": 0.1}
    return usual | {"reward_accuracy": 0.5, "reward_format": 1.0} | values


def test_flat_groups_only_are_warned_of_once_after_five_updates_in_a_row() -> None:
    made, said = watch(), []
    for flat in (1.0, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        made.take(metrics(flat_group_frac=flat, reward_accuracy=0.0, truncated_frac=0.5))
        said.append(made.new_warnings())
    assert [len(texts) for texts in said] == [0] * 9 + [1, 0]
    (text,) = said[9]
    assert text.startswith("only flat groups for 5 updates in a row: all completions of a problem")
    assert "mean rewards: accuracy 0, format 1; 1 no_answer, 1 wrong; 50% truncated" in text
    assert "take easier problems" in text
    assert text.splitlines()[1:] == [
        "  prompt: what is 1 + 1?",
        "  completion: so <think>2",
        "  no answer: the completion was cut off at max_tokens before the thought was closed",
    ]


def test_equal_rewards_under_a_critic_pause_a_run_and_one_that_differs_begins_the_count_again() -> (
    None
):
    made = watch(flat_updates=2)
    for std in (0.0, 0.1, 0.0):
        made.take({"rewards_std": std, "reward_accuracy": 0.0})
    assert made.reason_to_pause() is None
    made.take({"rewards_std": 0.0, "reward_accuracy": 0.0})
    reason = made.reason_to_pause()
    assert reason is not None
    assert reason.startswith("one reward for all completions, for 2 updates in a row: advantages")
    assert "take easier problems" in reason


def test_rollouts_that_flat_groups_fill_are_warned_of_and_pause_where_that_is_asked_for() -> None:
    made = watch(filled=0.9, in_a_row=2)
    for _ in range(4):
        made.take(metrics(flat_group_frac=0.99, filled_frac=0.89, draws=20.0))
    assert made.new_warnings() == []
    made.take(metrics(flat_group_frac=0.99, filled_frac=0.91, draws=20.0))
    assert made.reason_to_pause() is None
    (text,) = made.new_warnings()
    assert text.startswith("flat groups fill 91% of the rollout after its last draw")
    assert "20 times the completions were sampled" in text
    made.take(metrics(flat_group_frac=0.99, filled_frac=0.95, draws=20.0))
    assert (made.reason_to_pause() or "").startswith("flat groups fill 95%")


def test_a_warning_that_has_passed_is_said_again_when_it_comes_back() -> None:
    made, count = watch(), 0
    for flat in [1.0] * 6 + [0.0] + [1.0] * 6:
        made.take(metrics(flat_group_frac=flat))
        count += len(made.new_warnings())
    assert count == 2


def test_problems_that_are_all_solved_are_called_too_easy() -> None:
    made = watch()
    made.groups = [group("\\boxed{2}", "stop", Verdict.CORRECT)]
    for _ in range(5):
        made.take(metrics(flat_group_frac=1.0))
    (text,) = made.new_warnings()
    assert "too easy: take harder ones" in text
    assert "correct: '2'" in text


def test_a_run_of_three_updates_is_warned_after_all_three() -> None:
    made = watch(num_steps=4)
    for number in range(4):
        made.take(metrics(flat_group_frac=1.0))
        assert len(made.new_warnings()) == (number == 3)


def test_cut_completions_and_kl_are_warned_of() -> None:
    made = watch()
    for _ in range(4):
        made.take(metrics(truncated_frac=0.96, kl=3.0))
        assert made.new_warnings() == []
    made.take(metrics(truncated_frac=0.96, kl=3.0))
    cut, kl = made.new_warnings()
    assert cut.startswith("96% of the completions are cut off at max_tokens (12), for 5 updates")
    assert "completion: so <think>2" in cut
    assert kl.startswith("the policy is far from its reference, KL 3 per token, for 5 updates")


@pytest.mark.parametrize(("value", "count"), [(0.0, 1), (0.25, 1), (1.0, 0)])
def test_a_format_reward_that_stays_is_warned_of_unless_it_is_at_its_top(
    value: float, count: int
) -> None:
    made = watch()
    said = []
    for _ in range(20):
        made.take(metrics(reward_format=value))
        said += made.new_warnings()
    assert len(said) == count
    assert all(f"the reward 'format' has not moved from {value:g} for 20" in t for t in said)


def test_a_reward_that_moves_a_little_does_not_stay() -> None:
    made = watch()
    for number in range(40):
        made.take(metrics(reward_format=0.01 * (number % 2)))
        assert made.new_warnings() == []


@pytest.mark.parametrize(
    ("limits", "values", "after"),
    [
        ({"flat_updates": 2}, {"flat_group_frac": 1.0}, 2),
        ({"truncated": 0.5, "in_a_row": 3}, {"truncated_frac": 0.5}, 3),
        ({"kl": 0.5}, {"kl": 0.51}, 5),
        ({"still_updates": 4}, {"reward_format": 0.0}, 4),
    ],
)
def test_each_condition_to_stop_holds_after_as_many_updates(
    limits: dict[str, Any], values: dict[str, float], after: int
) -> None:
    made = watch(**limits)
    for number in range(1, after + 1):
        assert made.reason_to_pause() is None
        made.take(metrics(**values))
        assert (made.reason_to_pause() is None) == (number < after)


def test_nothing_pauses_that_was_not_asked_for() -> None:
    made = watch()
    for _ in range(40):
        made.take(metrics(flat_group_frac=1.0, truncated_frac=1.0, kl=9.0, reward_format=0.0))
    assert made.reason_to_pause() is None


def test_a_kl_to_stop_at_without_a_reference_is_refused() -> None:
    run = stage("grpo").run_model(stop_when=StopWhen(kl=1.0))
    assert run.incompatible_with(grpo_params()) is None
    said = run.incompatible_with(grpo_params(kl_coef=0.0))
    assert said == (
        "run.stop_when.kl: there is no reference where params.kl_coef is 0; leave it out"
    )


# ---- the loop ------------------------------------------------------------------------------------


def train(context: FakeContext, chosen: Any, **stop_when: Any) -> Any:
    run = stage("grpo").run_model(max_batch=64, stop_when=StopWhen(**stop_when))
    policy = model()
    with opened(context, policy, tokenizer(), chosen, run) as grpo:
        train_policy(grpo, problems(12, max_chars=MAX_CHARS), stop_when=run.stop_when)
    return policy


FLAT = {"rewards": {"accuracy": 1.0}, "minibatches_per_rollout": 1, "kl_coef": 0.0, "num_steps": 5}
"""A random policy of 20,000 parameters never answers right."""


def test_a_run_that_learns_nothing_says_so_with_an_example_and_at_its_end(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    policy = train(context, grpo_params(**FLAT))
    assert_same_weights(policy, model())
    flat, *others, last = context.warnings
    assert flat.startswith("step 5: only flat groups for 5 updates in a row")
    assert "  completion: " in flat
    assert last == "the policy is unchanged: no update had a gradient"
    assert all("cut off at max_tokens" in text for text in others)
    said = context.notes["nothing_learned"]
    assert said.startswith(
        "completions that are compared with one another had the same reward, in each of 5 updates"
        " (at last mean rewards: accuracy 0; "
    )
    assert "Likely cause: completions are cut off at params.max_tokens (" in said
    assert said.endswith("run.stop_when.flat_updates: 5 pauses such a run early")


def test_a_run_that_learns_does_not_call_its_policy_unchanged(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    train(context, grpo_params())
    assert not any("unchanged" in text for text in context.warnings)
    assert "nothing_learned" not in context.notes


def test_whether_rewards_ever_differed_survives_a_resume(tmp_path: Path) -> None:
    # The KL term has a gradient of its own, so that a policy may move and have learnt nothing.
    flat = grpo_params(**FLAT | {"kl_coef": 0.1})
    stopped = FakeContext(tmp_path / "flat", stop_after=3, saves=True)
    with pytest.raises(Interrupted):
        train(stopped, flat)
    resumed = FakeContext(tmp_path / "flat")
    train(resumed, flat)
    assert [row["step"] for row in resumed.logged] == [4, 5]
    assert "in each of 5 updates" in resumed.notes["nothing_learned"]
    first = FakeContext(tmp_path / "learning", stop_after=1, saves=True)
    with pytest.raises(Interrupted):
        train(first, grpo_params(num_steps=5, minibatches_per_rollout=1))
    assert first.column("flat_group_frac")[0] < 1.0
    last = FakeContext(tmp_path / "learning")
    train(last, flat)
    assert last.column("flat_group_frac") == [1.0] * 4
    assert "nothing_learned" not in last.notes, "the first update had a signal"


@pytest.mark.parametrize(
    ("verdicts", "cause"),
    [
        ([], "far too hard or too easy"),
        ([None, None], "add another reward"),
        (["correct", "correct"], "too easy: set inputs.problems to harder ones"),
        (["correct", "wrong"], "always or never: set a larger params.group_size"),
        (["no_answer", "no_answer", "wrong"], "set params.format or params.prompt"),
        (["no_answer", "wrong"], "too hard for the model: set inputs.problems to easier ones"),
    ],
)
def test_why_nothing_was_learned_is_said_by_the_verdicts(
    verdicts: list[str | None], cause: str
) -> None:
    made = watch()
    made.groups = [group("2", "stop", each and Verdict(each)) for each in verdicts]  # type: ignore[arg-type]
    made.take(metrics(flat_group_frac=1.0))
    assert cause in made.nothing_learned(40)


def test_a_run_pauses_with_a_checkpoint_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    # Flat or not, nothing of the result depends on where it paused.
    chosen = grpo_params(kl_coef=0.0)
    whole = train(FakeContext(tmp_path / "whole"), chosen)
    first = FakeContext(tmp_path / "paused")
    with pytest.raises(Paused, match=r"paused after step 2 by run.stop_when: \d+% of the") as found:
        train(first, chosen, truncated=0.01, in_a_row=2)
    assert found.value.exit_code == 4
    second = FakeContext(tmp_path / "paused")
    policy = train(second, chosen)
    assert [row["step"] for row in second.logged] == [3, 4, 5, 6]
    assert_same_weights(policy, whole)
