"""Rollouts: which problems, which seeds, which minibatches, which rewards."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest
from tiny import (
    ScriptedGenerator,
    general_problem,
    grpo_of,
    grpo_params,
    model,
    problems,
    rollout,
    tokenizer,
)

from r1pipe.chat import boxed, render_completion
from r1pipe.curricula.curricula import Draw
from r1pipe.curricula.order import problem_order, problems_of_rollouts
from r1pipe.generate.gathering import from_table, to_table
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import SamplingParams
from r1pipe.records import FinishReason, Group, Rollout, Verdict
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.metrics import rollout_metrics
from r1pipe.rewards.rules import rule_rewards
from r1pipe.rl.rollouts import sample_groups, score_groups

PAD = tokenizer().pad_token_id


# ---- minibatches, problems and seeds -------------------------------------------------------------


def drawn(count: int) -> list[Draw]:
    return [Draw(problem) for problem in problems(count)]


def test_minibatches_hold_every_rollout_once_in_even_sizes_and_a_seeded_order() -> None:
    rollouts: list[Rollout] = [rollout([1], [i]) for i in range(10)]
    groups = [Group(problems(1)[0], rollouts)]
    run = grpo_of(grpo_params(seed=3, num_steps=4, minibatches_per_rollout=4))
    parts = run.minibatches(groups, 0)
    tokens = [[r.completion_ids[0] for r in part] for part in parts]
    assert sorted(map(len, tokens)) == [2, 2, 3, 3]
    assert sorted(token for part in tokens for token in part) == list(range(10))
    assert run.minibatches(groups, 0) == parts
    assert run.minibatches(groups, 1) != parts


def test_no_problem_comes_twice_in_an_epoch() -> None:
    order, seen = problem_order(problems(12), 5, seed=1), []
    for _ in range(12):
        seen += [problem.id for problem in next(order)]
    epochs = [seen[i : i + 12] for i in range(0, 60, 12)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1], "each epoch has an order of its own"


def test_each_rollout_samples_again() -> None:
    policy, chosen = model(), grpo_params()
    sampler = TransformersGenerator(policy, end_ids=[1], pad_id=PAD, max_batch=64)
    texts = []
    for number in (0, 1, 0):
        groups = grpo_of(chosen, sampler=sampler).roll_out(drawn(2), number)
        texts.append([r.completion_ids for g in groups for r in g.rollouts])
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]


def test_rollouts_that_ranks_tell_one_another_come_whole() -> None:
    long = Rollout(
        array("i", [3] * 5),
        array("i", [7, 8]),
        index=4,
        streams={
            "sampler_logprobs": array("d", [-0.1, -1e-300]),
            "advantage": array("d", [1 / 3, 1 / 3]),
        },
        text='a "quoted" \u2603',
        finish_reason=FinishReason.LENGTH,
        seed=2**64 - 1,
        verdict=Verdict.WRONG,
        rewards={"accuracy": 0.1},
        reward=0.1,
        steps=[(1, 0.5), (2, 1.0)],
    )
    nothing: Any = array("i")
    empty = Rollout(
        nothing, nothing, streams={"sampler_logprobs": array("d"), "advantage": array("d")}
    )
    assert list(from_table(to_table([long, empty]))) == [long, empty]
    assert list(from_table(to_table([]))) == []


def test_a_rollout_holds_numbers_and_no_objects_of_its_tokens() -> None:
    (one,) = problems(1)
    script = ScriptedGenerator({one.prompt: list("abcd")}, "chat")
    (found,) = sample_groups(
        script, tokenizer(), [one], 4, SamplingParams(max_tokens=9), "chat", [7]
    )
    first, *others = found.rollouts
    assert all(each.prompt_ids is first.prompt_ids for each in others), "one prompt for a group"
    told = list(from_table(to_table(found.rollouts)))
    assert [list(each.completion_ids) for each in told] == [
        list(each.completion_ids) for each in found.rollouts
    ]
    for each in [*found.rollouts, *told]:
        ids, logprobs = each.completion_ids, each.streams["sampler_logprobs"]
        assert memoryview(ids).itemsize == 4  # type: ignore[arg-type]
        assert memoryview(logprobs).itemsize == 8  # type: ignore[arg-type]


def test_a_problem_that_comes_twice_is_sampled_again() -> None:
    one, other = problems(2)
    script = ScriptedGenerator({one.prompt: list("abcd"), other.prompt: list("ef")}, "chat")
    groups = sample_groups(
        script, tokenizer(), [one, other, one], 2, SamplingParams(max_tokens=9), "chat", [7]
    )
    seeds = [[r.seed for r in group.rollouts] for group in groups]
    assert len({seed for row in seeds for seed in row}) == 6
    alone = sample_groups(script, tokenizer(), [one], 2, SamplingParams(max_tokens=9), "chat", [7])
    assert [r.seed for r in alone[0].rollouts] == seeds[0]


def test_a_completion_knows_its_problem_its_seed_and_its_text_without_the_end() -> None:
    asked = problems(3)
    script = ScriptedGenerator({p.prompt: [f"a{i}", f"b{i}"] for i, p in enumerate(asked)}, "chat")
    groups = sample_groups(
        script, tokenizer(), asked, 2, SamplingParams(max_tokens=50), "chat", [7]
    )
    for i, (group, problem) in enumerate(zip(groups, asked, strict=True)):
        assert [r.text for r in group.rollouts] == [f"a{i}", f"b{i}"]
        assert group.problem is problem
        ends = [r.completion_ids[-1] for r in group.rollouts]
        assert ends == [tokenizer().eos_token_id] * 2
    seeds = {r.seed for g in groups for r in g.rollouts}
    assert len(seeds) == 6


def test_rollouts_are_not_cut_by_top_p() -> None:
    # a cut changes the support of the sampler, and the ratio would compare two distributions
    asked = problems(1)
    script = ScriptedGenerator({asked[0].prompt: ["a", "b", "c", "d"]}, "chat")
    grpo_of(grpo_params(temperature=0.7), sampler=script).roll_out(drawn(1), 0)
    assert [(s.temperature, s.top_p) for s in script.asked] == [(0.7, 1.0)]


def test_updates_that_are_no_whole_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1700 is not a multiple .* 16; use 1696 or 1712"):
        grpo_params(num_steps=1700, minibatches_per_rollout=16)
    assert grpo_params(num_steps=1696, minibatches_per_rollout=16).num_steps == 1696


def test_a_share_of_general_prompts_that_rounds_to_none_is_refused() -> None:
    share = {"from_step": 0, "general_frac": 0.01}
    with pytest.raises(ValueError, match=r"general_frac 0.01 of the 8 problems .* at least 0.12"):
        grpo_params(problems_per_step=4, minibatches_per_rollout=2, preference=share)
    assert grpo_params(problems_per_step=100, preference=share, num_steps=2).num_general == 2


# ---- rewards -------------------------------------------------------------------------------------


def test_general_prompts_join_from_their_step_on_and_at_their_share() -> None:
    chosen = grpo_params(preference={"from_step": 4, "general_frac": 0.5}, num_steps=8)
    general = [general_problem("general"), general_problem("safety")]
    order = problems_of_rollouts(problems(12), general, chosen)
    tasks = [[p.task for p in next(order)] for _ in range(4)]
    # two updates and four problems a rollout: rollouts start at steps 0, 2, 4 and 6
    assert tasks[:2] == [["arithmetic"] * 4] * 2
    for rollout_tasks in tasks[2:]:
        assert rollout_tasks[:2] == ["arithmetic"] * 2
        assert sorted(rollout_tasks[2:]) == ["general", "safety"]


def test_a_rollout_that_starts_before_the_step_has_no_general_prompts() -> None:
    chosen = grpo_params(preference={"from_step": 3, "general_frac": 0.5}, num_steps=8)
    order = problems_of_rollouts(problems(12), [general_problem("general")], chosen)
    tasks = [{p.task for p in next(order)} for _ in range(3)]
    assert tasks == [{"arithmetic"}, {"arithmetic"}, {"arithmetic", "general"}]


def test_a_preference_takes_the_place_of_accuracy_for_general_prompts_only() -> None:
    arithmetic, general = problems(1)[0], general_problem("general")
    right = render_completion("a", "", "chat", summary=boxed(arithmetic.gold))
    cat = render_completion("a", "", "chat", summary="cat")
    script = ScriptedGenerator({arithmetic.prompt: [right] * 2, general.prompt: [cat] * 2}, "chat")
    groups = sample_groups(
        script, tokenizer(), [arithmetic, general], 2, SamplingParams(max_tokens=99), "chat", [0]
    )
    weights = {"accuracy": 1.0, "format": 0.5, "language": 2.0}
    score_groups(groups, weights, "chat", {"general": lambda pairs: [0.25] * len(pairs)})
    ruled, preferred = groups[0].rollouts[0], groups[1].rollouts[0]
    assert ruled.rewards == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert ruled.reward == 1.0 + 0.5 + 2.0
    assert preferred.rewards == {"preference": 0.25, "format": 1.0, "language": 1.0}
    assert preferred.reward == 0.25 + 0.5 + 2.0


def test_the_reward_is_the_weighted_sum_of_the_named_rewards() -> None:
    # words of the thought: two, plus, three and five, and one Chinese character: 4 / 5
    (scored,) = scored_texts(
        [r"<think>two plus three 是 five</think> \boxed{5}"],
        {"accuracy": 1.0, "format_chat": 0.5, "language": 0.1},
    )
    named = {"accuracy": 1.0, "format_chat": 1.0, "language": pytest.approx(4 / 5)}
    assert scored.rewards == named
    assert scored.reward == pytest.approx(1.0 + 0.5 + 0.08)


def test_a_group_is_scored_as_each_of_its_completions_is() -> None:
    weights = {"accuracy": 1.0, "format_zero": 0.2}
    texts = [
        "<think>2+3=5</think> <answer>5</answer>",
        "<think>a</think> <answer>5</answer> Done.",
        "<think>a</think> <answer>6</answer>",
        "<think>a <answer>5</answer>",
        "",
    ]
    together = scored_texts(texts, weights)
    assert [r.reward for r in together] == [scored_texts([t], weights)[0].reward for t in texts]
    assert together[0].verdict is Verdict.CORRECT
    assert together[0].reward == 1.2


def scored_texts(texts: list[str], weights: dict[str, float]) -> list[Rollout]:
    """Return rollouts of one problem with the gold answer 5, scored."""
    asked = replace(problems(1)[0], gold="5", checker="number")
    group = Group(asked, [rollout([1], [2]) for _ in texts])
    for made, text in zip(group.rollouts, texts, strict=True):
        made.text = text
    score_groups([group], weights, "chat")
    return group.rollouts


def test_the_format_reward_is_that_of_the_prompts_format() -> None:
    problem = problems(1)[0]
    zero = Completion(render_completion("a", problem.gold, "r1-zero"))
    chat = Completion(render_completion("a", "", "chat", summary=boxed(problem.gold)))
    weights = {"format": 1.0}
    assert rule_rewards(problem, zero, True, weights, "r1-zero") == {"format": 1.0}
    assert rule_rewards(problem, zero, True, weights, "chat") == {"format": 0.0}
    assert rule_rewards(problem, chat, True, weights, "chat") == {"format": 1.0}
    assert rule_rewards(problem, chat, True, weights, "r1-zero") == {"format": 0.0}


def test_metrics_of_a_rollout_are_worked_by_hand() -> None:
    first = [rollout([1], [2, 3], advantage=1.0), rollout([1], [2], advantage=-1.0)]
    second = [rollout([1], [2] * 4), rollout([1], [2] * 5, finish_reason=FinishReason.LENGTH)]
    verdicts = ("correct", "wrong", "correct", "timeout")
    rewards = (1.0, 0.0, 2.0, 2.0)
    for made, reward, verdict in zip([*first, *second], rewards, verdicts, strict=True):
        made.reward, made.verdict = reward, Verdict(verdict)
        made.rewards = {"accuracy": reward / 2}
    second[1].rewards = {"preference": 0.5}
    groups = [Group(general_problem("general"), rollouts) for rollouts in (first, second)]
    assert rollout_metrics(groups) == {
        "reward_accuracy": pytest.approx((0.5 + 0.0 + 1.0) / 3),
        "reward_preference": 0.5,
        "reward": 1.25,
        "pass_rate": 0.5,
        "completion_tokens": 3.0,
        "truncated_frac": 0.25,
        "flat_group_frac": 0.5,
    }
