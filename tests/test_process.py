"""Process supervision: where steps end, what they earn, and the advantages of tokens."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from test_grpo_loop import RUN
from tiny import FakeContext, grpo_params, model, problems, rollout, save_policy, stage, tokenizer

from r1pipe.chat import render_completion
from r1pipe.errors import StageError
from r1pipe.generate.gathering import from_table, to_table
from r1pipe.models.prompts import encode_prompt
from r1pipe.policies.setup import Guides, opened
from r1pipe.policies.training import train_policy
from r1pipe.records import FinishReason, Group, Problem, Rollout, Step, TokenSequence
from r1pipe.rl.credits import assign_step_advantages
from r1pipe.rl.estimators import ESTIMATORS
from r1pipe.rl.objective import Credit
from r1pipe.stage import Inputs
from r1pipe.supervision.reward_model import new_reward_model
from r1pipe.supervision.steps import (
    assign_steps,
    encode_steps,
    in_tokens,
    line_ends,
    process_reward_function,
    rule_steps,
    token_ends,
)
from r1pipe.tasks import arithmetic, parity
from r1pipe.tasks.table import TASKS
from r1pipe.tasks.world import Noise

ARITHMETIC = Problem("a", "arithmetic", "?", "1", meta={"expression": "6+5*3-4"})
PARITY = Problem("p", "parity", "?", "even", meta={"bits": "101"})


# ---- advantages ----------------------------------------------------------------------------------


def advantages_in(steps: list[list[Step]], lengths: list[int]) -> list[list[float]]:
    """Return the advantages of the tokens of one group."""
    rollouts = [rollout([1], [2] * length) for length in lengths]
    for made, each in zip(rollouts, steps, strict=True):
        made.steps = each
    assign_step_advantages([Group(Problem("p", "t", "?", "a"), rollouts)], ESTIMATORS["group"])
    return [list(made.streams["advantage"]) for made in rollouts]


def test_advantages_of_steps_are_worked_by_hand() -> None:
    # rewards 1, 0, 1 and 0, 0, 1: mean 1/2, std 1/2, so steps are worth 1, -1, 1 and -1, -1, 1
    steps = [[(2, 1.0), (3, 0.0), (5, 1.0)], [(1, 0.0), (4, 0.0), (5, 1.0)]]
    first, second = advantages_in(steps, [5, 6])
    assert first == pytest.approx([1.0, 1.0, 0.0, 1.0, 1.0], abs=1e-6)
    # after the last step there is nothing
    assert second == pytest.approx([-1.0, 0.0, 0.0, 0.0, 1.0, 0.0], abs=1e-6)


def test_one_step_at_the_last_token_is_outcome_supervision_to_the_last_bit() -> None:
    rng = random.Random(1)
    for _ in range(200):
        size, groups = rng.randrange(2, 17), {True: list[Group](), False: list[Group]()}
        table = [[rng.choice([0.0, 1.0, 0.1, rng.random()]) for _ in range(size)] for _ in range(4)]
        for has_steps, made in groups.items():
            for rewards in table:
                rollouts = [rollout([1], [2] * (1 + i % 3)) for i in range(size)]
                for one, reward in zip(rollouts, rewards, strict=True):
                    one.reward = reward
                    one.steps = [(len(one.completion_ids), reward)] if has_steps else []
                made.append(Group(Problem("p", "t", "?", "a"), rollouts))
            if has_steps:
                assign_step_advantages(made, ESTIMATORS["group"])
            else:
                Credit(ESTIMATORS["group"]).assign(made)
        found = {
            has_steps: [r.streams["advantage"] for g in made for r in g.rollouts]
            for has_steps, made in groups.items()
        }
        assert found[True] == found[False]


def test_all_steps_of_a_group_are_normalised_together() -> None:
    # five rewards 1, 0, 0, 0, 0: mean 1/5, std 2/5
    found = advantages_in([[(1, 1.0)], [(1, 0.0), (2, 0.0), (3, 0.0)], [(1, 0.0)]], [1, 3, 1])
    assert found[0] == pytest.approx([2.0], abs=1e-6)
    assert found[1] == pytest.approx([-1.5, -1.0, -0.5], abs=1e-6)
    assert found[2] == pytest.approx([-0.5], abs=1e-6)


@pytest.mark.parametrize("name", ["leave-one-out", "batch", "reward", "indicator"])
def test_an_estimator_that_steps_do_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"advantage: {name}` is not defined for it; use group"):
        grpo_params(process="rules", advantage=name)


def test_the_kl_in_the_reward_is_refused_with_steps() -> None:
    with pytest.raises(
        ValueError, match="kl_in: reward is not of steps; with `process` use kl_in: loss"
    ):
        grpo_params(process="rules", kl_in="reward")


# ---- where steps end -----------------------------------------------------------------------------


def test_lines_that_hold_something_are_steps() -> None:
    text = "one\n\n  two  \nthree"
    assert [text[:end] for end in line_ends(text)] == ["one", "one\n\n  two", text]
    assert line_ends(" \n") == line_ends("") == []


@pytest.mark.parametrize(
    "text", ["a b c", "6+5 is 4", "模七连算: 奇偶", "é\n\n<think>x</think> 🙂 y"]
)
def test_every_token_ends_where_the_text_of_those_before_it_does(text: str) -> None:
    ids = tokenizer()(text)["input_ids"]
    ends, length = token_ends(tokenizer(), ids), 0
    assert ends[-1] == len(text)
    for place, end in enumerate(ends):
        decoded = tokenizer().decode(ids[: place + 1])
        if not decoded.endswith("\ufffd"):
            length = len(decoded)
        assert end == length


def slow_ends(ids: list[int]) -> list[int]:
    """Return where tokens end, each decoded anew after the last whole character but one."""
    ends, length, first, read = list[int](), 0, 0, 0
    for place in range(len(ids)):
        before = tokenizer().decode(ids[first:read])
        after = tokenizer().decode(ids[first : place + 1])
        if len(after) > len(before) and not after.endswith("\ufffd"):
            length += len(after) - len(before)
            first, read = read, place + 1
        ends.append(length)
    return ends


def parts_of_characters() -> list[int]:
    return [token for token in range(len(tokenizer())) if tokenizer().decode([token]) == "\ufffd"]


def test_tokens_that_are_no_text_end_where_each_of_them_decoded_anew_does() -> None:
    rng, parts = random.Random(3), parts_of_characters()
    whole = [token for token in range(len(tokenizer())) if token not in parts]
    emoji = tokenizer()("\U0001f642\u00e9\ufffd\u6a21")["input_ids"]
    for _ in range(60):
        pieces = [
            [rng.choice(whole)] * rng.randrange(3),
            [rng.choice(parts) for _ in range(rng.randrange(40))],
            [rng.choice(parts)] * rng.randrange(40),
            emoji * rng.randrange(3),
        ]
        rng.shuffle(pieces)
        ids = [token for piece in pieces for token in piece]
        assert token_ends(tokenizer(), ids) == slow_ends(ids)


@pytest.mark.parametrize("token", ["part of a character", "a character"])
def test_tokens_are_decoded_a_few_times_each_however_long_the_completion(token: str) -> None:
    class Counting:
        """A tokenizer that counts what it decodes."""

        count = 0

        def decode(self, ids: list[int]) -> str:
            self.count += len(ids)
            text: str = tokenizer().decode(ids)
            return text

    (plain,) = tokenizer()("7")["input_ids"][-1:]
    repeated = plain if token == "a character" else parts_of_characters()[0]
    counting: Any = Counting()
    ends = token_ends(counting, [plain, *[repeated] * 2000])
    assert ends[-1] == (2001 if token == "a character" else 1)
    assert counting.count < 60 * 2000, "not the square of the length"


def completion(text: str, has_end: bool = True) -> Rollout:
    """Return a rollout of a text, as the sampler would have made it."""
    ids = tokenizer()(text)["input_ids"]
    reason = FinishReason.STOP if has_end else FinishReason.LENGTH
    made = rollout([1], [*ids, tokenizer().eos_token_id] if has_end else ids, finish_reason=reason)
    made.text = text
    return made


@pytest.mark.parametrize("has_end", [True, False])
def test_a_step_ends_at_the_token_that_has_its_last_character(has_end: bool) -> None:
    made = completion("ab 12 cd", has_end)
    ids = list(made.completion_ids)
    for end in range(1, 8):
        ((tokens, reward),) = in_tokens(tokenizer(), made, [(end, 0.5)])
        assert reward == 0.5
        assert len(tokenizer().decode(ids[:tokens])) >= end
        assert len(tokenizer().decode(ids[: tokens - 1])) < end
    # with the text the end of sequence ends too
    assert in_tokens(tokenizer(), made, [(8, 1.0)]) == [(len(ids), 1.0)]


def test_steps_of_a_prefix_that_was_given_are_left_out() -> None:
    made = completion("de f")
    made.text = "abc" + made.text
    found = in_tokens(tokenizer(), made, [(2, 1.0), (3, 1.0), (5, 0.0), (7, 1.0)])
    assert [reward for _, reward in found] == [0.0, 1.0]
    assert found[1][0] == len(made.completion_ids)


# ---- rules ---------------------------------------------------------------------------------------


def test_steps_of_arithmetic_are_worked_by_hand() -> None:
    # modulo 7: 6 + 5 = 4, 4 * 3 = 5, 5 - 4 = 1
    def found(text: str) -> list[float]:
        return [reward for _, reward in arithmetic.steps(ARITHMETIC, text)]

    right = "6+5 is 4*3得5-4 is 1"
    assert arithmetic.steps(ARITHMETIC, right) == [(8, 1.0), (12, 1.0), (len(right), 1.0)]
    assert found("6+5 is 3*3 is 5-4 is 1") == [0.0, 1.0, 1.0]
    assert found("6+5 is 4*2 is 1-4 is 1") == [1.0, 0.0, 1.0]
    assert found("6+5 is 4+5 is 4+5 is 4") == [1.0, 0.0, 0.0]  # a step again earns nothing
    assert found(right + "-4 is 1") == [1.0, 1.0, 1.0, 0.0]  # nor does what comes after
    assert found("the answer is 1") == []


def test_steps_of_parity_are_worked_by_hand() -> None:
    def found(text: str) -> list[float]:
        return [reward for _, reward in parity.steps(PARITY, text)]

    assert parity.steps(PARITY, "a1 odd b0奇c1 even") == [(6, 1.0), (10, 1.0), (17, 1.0)]
    assert found("a1 even b0 odd c1 even") == [0.0, 1.0, 1.0]
    assert found("a1 odd c1 even") == [1.0, 0.0]
    assert found("a1 odd b0 odd c1 even d0 even") == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["arithmetic", "parity"])
def test_all_steps_of_the_perfect_author_are_right_and_a_wrong_one_is_not(name: str) -> None:
    task, rng, wrong = TASKS[name], random.Random(4), 0
    assert task.steps is not None
    for number in range(60):
        made = task.make(rng, ("en", "zh")[number % 2], task.levels[number % len(task.levels)])
        thought = task.solve(made, rng, Noise(mixed_word=0.3)).thought
        found = task.steps(made, render_completion(thought, made.gold, "r1-zero"))
        assert [reward for _, reward in found] == [1.0] * made.level
        faulty = task.steps(made, task.solve(made, rng, Noise(wrong_step=1.0)).thought)
        wrong += sum(reward == 0.0 for _, reward in faulty)
    assert wrong > 60


def test_a_problem_without_rules_for_steps_has_none() -> None:
    assert rule_steps([(Problem("g", "general", "?", "cat"), "a cat"), (PARITY, "a1 odd")]) == [
        [],
        [(6, 1.0)],
    ]


def test_the_reward_of_the_outcome_is_a_step_at_the_last_token() -> None:
    def steps_of(*rewards: Step, has_outcome: bool) -> tuple[list[Step], dict[str, float]]:
        made = completion("ab 12 cd")
        made.reward = 0.25
        group = Group(PARITY, [made])
        assign_steps(
            [group],
            tokenizer(),
            lambda pairs: [list(rewards) for _ in pairs],
            "steps",
            has_outcome=has_outcome,
        )
        return made.steps, made.rewards

    last = len(completion("ab 12 cd").completion_ids)
    (end, _) = in_tokens(tokenizer(), completion("ab 12 cd"), [(2, 1.0)])[0]
    assert steps_of((2, 1.0), (8, 0.5), has_outcome=True)[0] == [(end, 1.0), (last, 0.75)]
    assert steps_of((2, 1.0), has_outcome=True)[0] == [(end, 1.0), (last, 0.25)]
    assert steps_of((2, 1.0), has_outcome=False)[0] == [(end, 1.0)]
    assert steps_of(has_outcome=False)[0] == [(last, 0.25)]
    assert steps_of((2, 1.0), (8, 0.0), has_outcome=True)[1] == {"steps": 0.5}


# ---- a process reward model ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def process_model(tmp_path_factory: Any) -> Path:
    """Return the folder of a process reward model with random weights."""
    folder = tmp_path_factory.mktemp("process")
    made = new_reward_model(save_policy(folder / "policy"), seed=3)
    torch.nn.init.normal_(made.score.weight, std=1.0, generator=torch.Generator().manual_seed(1))
    made.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    found: Path = folder / "model"
    return found


def test_every_step_is_scored_at_its_last_token_before_what_follows(process_model: Path) -> None:
    score = process_reward_function(process_model, RUN)
    problem, texts = problems(1)[0], ["2+3\nis 5\n\nso 5", "2+3\nis 6", "", "2+3\nis 5\n\nso 5"]
    found = score([(problem, text) for text in texts])
    assert [len(steps) for steps in found] == [3, 2, 0, 3]
    assert found[0] == found[3]
    assert found[0][0] == pytest.approx(found[1][0])  # the same step after the same prompt
    from transformers import AutoModelForSequenceClassification

    slow = AutoModelForSequenceClassification.from_pretrained(process_model)
    for text, steps in zip(texts, found, strict=True):
        ids = encode_prompt(tokenizer(), problem.prompt, "chat")
        start = 0
        for end, reward in steps:
            ids += tokenizer()(text[start:end], add_special_tokens=False)["input_ids"]
            start = end
            hidden = slow.model(torch.tensor([ids])).last_hidden_state[0, -1]
            logit = float(slow.score(hidden))
            assert reward == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_tokens_that_end_steps_are_the_trained_ones() -> None:
    text = "2+3\nis 5"
    made = encode_steps(tokenizer(), "?", text, line_ends(text))
    assert isinstance(made, TokenSequence)
    assert tokenizer().decode(made.completion_ids) == text
    assert made.trained is not None
    first = list(made.trained).index(True)
    assert tokenizer().decode(made.completion_ids[: first + 1]) == "2+3"
    assert sum(made.trained) == 2
    assert made.trained[-1]


# ---- the loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_policy_learns_from_steps_alone(tmp_path: Path, is_packed: bool) -> None:
    # every character is a step; a small letter is right
    def letters(pairs: Any) -> list[list[Step]]:
        return [
            [(place + 1, float("a" <= c <= "z")) for place, c in enumerate(text)]
            for _, text in pairs
        ]

    context = FakeContext(tmp_path)
    chosen = grpo_params(
        num_steps=16,
        group_size=8,
        problems_per_step=4,
        minibatches_per_rollout=1,
        kl_coef=0.0,
        process="rules",
        rewards={},
    )
    run = RUN.model_copy(update={"layout": "packed" if is_packed else "padded"})
    guides = Guides(score_steps=letters)
    with opened(context, model(), tokenizer(), chosen, run, guides) as grpo:
        train_policy(grpo, problems(12))
    found = context.column("reward_steps")
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.1


def test_a_process_reward_model_that_is_not_given_is_asked_for(tmp_path: Path) -> None:
    score_steps = stage("grpo").run.__globals__["_score_steps"]
    with pytest.raises(StageError, match=r"zero: params.process: model needs the input process"):
        score_steps(grpo_params(process="model"), RUN, Inputs({"model": tmp_path}), "zero")


def test_steps_reach_the_other_ranks() -> None:
    made = completion("ab 12 cd")
    made.steps = [(2, 1.0), (4, 0.5)]
    assert [rollout.steps for rollout in from_table(to_table([made, made]))] == [made.steps] * 2
