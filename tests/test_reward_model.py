"""Reward models: losses by hand, what each reads, padding, training and resume."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FakeContext, assert_same_weights, save_policy, stage, tokenizer
from transformers import AutoModelForSequenceClassification, Qwen3ForSequenceClassification

from r1pipe.chat import render_completion
from r1pipe.engine_settings import TrainRun
from r1pipe.errors import Interrupted, StageError
from r1pipe.records import Problem, TokenSequence
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs
from r1pipe.supervision.reward_model import (
    check_scores,
    encode_scored,
    new_reward_model,
    reward_function,
    scored_text,
    scores,
)
from r1pipe.supervision.training import adjacent, pairwise_loss, pointwise_loss
from r1pipe.train.batching import one_batch
from r1pipe.train.engine import LocalForward

PAD = tokenizer().pad_token_id


# ---- losses --------------------------------------------------------------------------------------


def test_the_pairwise_loss_is_worked_by_hand() -> None:
    # chosen 2 against rejected 1: log(1 + e^-1); equal: log 2; chosen 0 against 3: log(1 + e^3)
    values = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.0, 3.0], dtype=torch.float64)
    by_hand = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]
    assert by_hand == pytest.approx([0.31326, 0.69315, 3.04859], abs=1e-5)
    assert pairwise_loss(values).item() == pytest.approx(sum(by_hand))


def test_the_gradient_of_a_pair_raises_the_chosen_and_lowers_the_rejected() -> None:
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    pairwise_loss(values).backward()
    miss = 1 / (1 + math.exp(1))  # 1 - sigmoid(1)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-miss, miss])


def test_the_pointwise_loss_is_worked_by_hand() -> None:
    # label 1 at score 0: log 2; label 0 at score 2: log(1 + e^2); label 1 at score 2: log(1 + e^-2)
    values = torch.tensor([0.0, 2.0, 2.0], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    by_hand = [math.log(2), math.log(1 + math.exp(2)), math.log(1 + math.exp(-2))]
    assert pointwise_loss(values, labels).item() == pytest.approx(sum(by_hand))


def test_a_head_that_is_to_be_fresh_is_not_reported_as_missing(
    policy: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    new_reward_model(policy, seed=3)
    assert "MISSING" not in caplog.text
    AutoModelForSequenceClassification.from_pretrained(policy)
    assert "MISSING" in caplog.text


# ---- what is read --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory: Any) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def reward_model(policy: Path) -> Any:
    return new_reward_model(policy, seed=3).eval()


@pytest.fixture(scope="module")
def saved(policy: Path, reward_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward-model")
    reward_model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


HELPFUL = render_completion("a thought", "", "chat", "It is 猫. Happy to help!")
OTHER_THOUGHT = render_completion("another and longer one", "", "chat", "It is 猫. Happy to help!")
OTHER_SUMMARY = render_completion("a thought", "", "chat", "猫")
UNCLOSED = "<think>a thought that never ends"
PROBLEM = Problem("g", "general", "cat?", "猫", checker="contains")


def test_helpfulness_reads_the_summary_only_and_safety_reads_all() -> None:
    assert scored_text(HELPFUL, "summary") == "It is 猫. Happy to help!"
    assert scored_text(HELPFUL, "completion") == HELPFUL
    ids = encode_scored(tokenizer(), "cat?", HELPFUL, "summary")
    assert tokenizer().decode(ids.prompt_ids) == "<|user|>cat?<|assistant|>"
    assert tokenizer().decode(ids.completion_ids) == "It is 猫. Happy to help!<|end|>"


def test_completions_that_differ_in_thought_only_are_equally_helpful(saved: Path) -> None:
    score = reward_function(saved, "summary", TrainRun())
    texts = (HELPFUL, OTHER_THOUGHT, OTHER_SUMMARY)
    one, same, other = score([(PROBLEM, text) for text in texts])
    assert one == pytest.approx(same, abs=1e-6)
    assert abs(one - other) > 1e-3


def test_a_harmful_thought_reaches_the_safety_model(saved: Path) -> None:
    score = reward_function(saved, "completion", TrainRun())
    one, other = score([(PROBLEM, HELPFUL), (PROBLEM, OTHER_THOUGHT)])
    assert abs(one - other) > 1e-3


def test_an_unclosed_thought_has_no_summary_and_earns_nothing(saved: Path) -> None:
    score = reward_function(saved, "summary", TrainRun())
    rewards = score([(PROBLEM, UNCLOSED), (PROBLEM, HELPFUL), (PROBLEM, "<think>a</think> ")])
    assert rewards[0] == rewards[2] == 0.0
    assert 0.0 < rewards[1] < 1.0


def test_rewards_come_back_in_the_order_of_the_question(saved: Path) -> None:
    score = reward_function(saved, "completion", TrainRun())
    texts = [render_completion("a " * n, "", "chat", "b" * n) for n in (9, 1, 5, 2, 7)]
    together = score([(PROBLEM, text) for text in texts])
    alone = [score([(PROBLEM, text)])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 5) for value in alone}) == 5


def test_equal_texts_earn_equal_rewards_wherever_their_group_is_cut(saved: Path) -> None:
    score = reward_function(saved, "summary", TrainRun(micro_batch_tokens=60))
    rng = random.Random(0)
    for _ in range(8):
        texts = [
            render_completion("t" * rng.randrange(9), "", "chat", "b" * rng.choice([1, 9, 30]))
            for _ in range(16)
        ]
        rewards = score([(PROBLEM, text) for text in texts])
        by_summary: dict[str, set[float]] = {}
        for text, reward in zip(texts, rewards, strict=True):
            by_summary.setdefault(scored_text(text, "summary"), set()).add(reward)
        assert {len(values) for values in by_summary.values()} == {1}


def test_padding_does_not_change_a_score(reward_model: Any) -> None:
    short, long = TokenSequence([9, 30], [50, 51], 0), TokenSequence([9] * 20, [52] * 9, 1)
    with torch.no_grad():
        alone = scores(reward_model, one_batch([short], PAD))
        padded = scores(reward_model, one_batch([short, long], PAD))
        other_pad = scores(reward_model, one_batch([short, long], 77))
    torch.testing.assert_close(padded[:1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other_pad, padded, rtol=1e-4, atol=1e-5)


def test_the_score_is_read_at_the_last_token(reward_model: Any) -> None:
    ids = [9, 30, 50, 51]
    with torch.no_grad():
        hidden = reward_model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        by_hand = hidden @ reward_model.score.weight[0]
        found = scores(reward_model, one_batch([TokenSequence(ids[:2], ids[2:])], PAD))
    assert found[0].item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_the_reward_is_the_sigmoid_of_the_score(saved: Path, reward_model: Any) -> None:
    sequence = encode_scored(tokenizer(), PROBLEM.prompt, HELPFUL, "completion")
    with torch.no_grad():
        value = scores(reward_model, one_batch([sequence], PAD))[0].item()
    found = reward_function(saved, "completion", TrainRun())([(PROBLEM, HELPFUL)])[0]
    assert found == pytest.approx(1 / (1 + math.exp(-value)), abs=1e-5)


# ---- training ------------------------------------------------------------------------------------


def preferences(folder: Path, objective: str) -> Path:
    """Write rows with the stage that the recipe uses."""
    kind = stage("preferences")
    context = FakeContext(folder)
    params = kind.params(seed=1, objective=objective, num_rows=24)
    kind.run(context, params, kind.run_model(), Inputs())
    return context.output("rows")


def train(work: Path, policy: Path, rows: Path, objective: str, **options: Any) -> FakeContext:
    kind = stage("reward-model")
    params = kind.params(
        seed=1,
        objective=objective,
        reads="summary" if objective == "pairwise" else "completion",
        num_epochs=4,
        batch_size=8,
        optimizer={"lr": 3e-3},
    )
    examples = options.pop("examples_per_micro_batch", 64)
    context = FakeContext(work, **options)
    run = kind.run_model(examples_per_micro_batch=examples)
    kind.run(context, params, run, Inputs({"model": policy, "rows": rows}))
    return context


def load(context: FakeContext) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(context.output("model"))


@pytest.mark.parametrize("objective", ["pairwise", "pointwise"])
def test_training_separates_the_preferences_and_leaves_a_loadable_model(
    tmp_path: Path, policy: Path, objective: str
) -> None:
    rows = preferences(tmp_path / "rows", objective)
    context = train(tmp_path / "work", policy, rows, objective)
    losses, accuracy = context.column("loss"), context.column("accuracy")
    assert len(losses) == 4 * 3
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert sum(accuracy[-3:]) / 3 > 0.8
    part: Any = "summary" if objective == "pairwise" else "completion"
    score = reward_function(context.output("model"), part, TrainRun())
    right = 0
    table = list(read_rows(rows))
    for row in table:
        problem = Problem("p", "t", row["prompt"], "")
        if objective == "pairwise":
            better, worse = score([(problem, row["chosen"]), (problem, row["rejected"])])
            right += better > worse
        else:
            right += (score([(problem, row["completion"])])[0] > 0.5) == row["is_safe"]
    assert right >= 0.8 * len(table)


@pytest.mark.parametrize("objective", ["pairwise", "pointwise"])
def test_the_micro_batch_does_not_change_the_first_step(
    tmp_path: Path, policy: Path, objective: str
) -> None:
    rows = preferences(tmp_path / "rows", objective)
    whole = train(tmp_path / "whole", policy, rows, objective)
    split = train(tmp_path / "split", policy, rows, objective, examples_per_micro_batch=1)
    for name in ("loss", "accuracy", "grad_norm"):
        assert split.logged[0][name] == pytest.approx(whole.logged[0][name], rel=1e-4), name


def test_a_resumed_reward_model_is_exactly_the_uninterrupted_one(
    tmp_path: Path, policy: Path
) -> None:
    rows = preferences(tmp_path / "rows", "pairwise")
    whole = train(tmp_path / "whole", policy, rows, "pairwise")
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(tmp_path / "killed", policy, rows, "pairwise", stop_after=5, saves=True)
    resumed = train(tmp_path / "killed", policy, rows, "pairwise")
    assert resumed.logged[0]["step"] == 6
    texts = [
        encode_scored(tokenizer(), row["prompt"], row[name], "summary")
        for row in read_rows(rows)
        for name in ("chosen", "rejected")
    ]
    assert whole.notes["trained_tokens"] == 4 * sum(map(len, texts))
    assert resumed.notes["trained_tokens"] == whole.notes["trained_tokens"]
    assert_same_weights(load(resumed), load(whole))


def test_micro_batches_are_bounded_by_examples_and_by_positions() -> None:
    texts = [(TokenSequence([1], [2] * n), TokenSequence([1], [3])) for n in (3, 3, 3, 9, 3)]
    kind = stage("reward-model")
    for limits, rows in (
        ({"examples_per_micro_batch": 2}, [[0, 1], [2, 3], [4]]),
        # two rows of 4, 4, 4 positions: 8, 16, 24; with the long one 80 of rows of 10
        ({"micro_batch_tokens": 24}, [[0, 1, 2], [3], [4]]),
        ({"micro_batch_tokens": 40}, [[0, 1, 2], [3, 4]]),
        ({"micro_batch_tokens": 1}, [[0], [1], [2], [3], [4]]),
    ):
        run = kind.run_model(**limits)
        sizes = run.examples_per_micro_batch, run.micro_batch_tokens
        batches = list(adjacent(texts, range(5), *sizes, PAD))
        found = [batch.sequence_index[:, 0].tolist() for batch in batches]
        assert found == [[row for row in some for _ in range(2)] for some in rows]


def pointwise(tmp_path: Path, policy: Path, rows: list[dict[str, Any]], **more: Any) -> FakeContext:
    write_rows(tmp_path / "rows", rows, schema=None)
    kind, context = stage("reward-model"), FakeContext(tmp_path / "work")
    values: dict[str, Any] = {"seed": 1, "objective": "pointwise", "reads": "completion"}
    params = kind.params(**values, batch_size=2, optimizer={"lr": 1e-3}, **more)
    inputs = Inputs({"model": policy, "rows": tmp_path / "rows"})
    kind.run(context, params, kind.run_model(), inputs)
    return context


SAFE: dict[str, Any] = {"prompt": "cat?", "completion": HELPFUL, "is_safe": True}


@pytest.mark.parametrize("label", [None, 2, "yes"])
def test_a_missing_label_is_an_error_not_safe(tmp_path: Path, policy: Path, label: Any) -> None:
    bad: dict[str, Any] = {"prompt": "cat?", "completion": HELPFUL}
    rows = [{**bad, "is_safe": "yes"}] if label == "yes" else [SAFE, {**bad, "is_safe": label}]
    if label == 2:
        rows[0] = {**SAFE, "is_safe": 1}
    with pytest.raises(StageError, match=r"rows: row [12]: the label is_safe is .*true or false"):
        pointwise(tmp_path, policy, rows)


def test_rows_without_the_column_of_labels_are_refused(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(StageError, match=r"row 1: the label is_safe is None"):
        pointwise(tmp_path, policy, [{"prompt": "cat?", "completion": HELPFUL}])


def test_long_texts_are_dropped_with_their_labels_and_counted(tmp_path: Path, policy: Path) -> None:
    size = len(encode_scored(tokenizer(), "cat?", HELPFUL, "completion"))
    long = {**SAFE, "completion": HELPFUL + " more", "is_safe": False}
    rows = [long, SAFE, long, SAFE]
    context = pointwise(tmp_path / "some", policy, rows, max_tokens=size)
    assert (context.notes["num_examples"], context.notes["too_long"]) == (2, 2)
    first = context.logged[0]["loss"]
    plain = pointwise(tmp_path / "plain", policy, [SAFE, SAFE])
    assert first == plain.logged[0]["loss"], "the labels are those of the rows that are left"
    with pytest.raises(StageError, match=r"no row to train on \(4 rows, all with texts over"):
        pointwise(tmp_path / "none", policy, rows, max_tokens=3)


# ---- the data ------------------------------------------------------------------------------------


def test_a_pair_prefers_the_helpful_right_answer(tmp_path: Path) -> None:
    for row in read_rows(preferences(tmp_path, "pairwise")):
        chosen, rejected = (scored_text(row[n], "summary") for n in ("chosen", "rejected"))
        assert "help" in chosen or "帮助" in chosen
        assert chosen != rejected


def test_labels_say_which_completion_refuses(tmp_path: Path) -> None:
    rows = list(read_rows(preferences(tmp_path, "pointwise")))
    assert {row["is_safe"] for row in rows} == {True, False}
    for row in rows:
        refuses = "Sorry" in row["completion"] or "抱歉" in row["completion"]
        assert refuses == row["is_safe"]


def test_the_same_seed_writes_the_same_preferences(tmp_path: Path) -> None:
    again = list(read_rows(preferences(tmp_path / "again", "pairwise")))
    assert list(read_rows(preferences(tmp_path / "once", "pairwise"))) == again


# ---- the family's own forward --------------------------------------------------------------------


def test_scores_are_those_of_the_familys_own_forward(tmp_path: Path) -> None:
    made = new_reward_model(save_policy(tmp_path / "model"), 3)
    assert check_scores(LocalForward(made), made, PAD, "float32") < 1e-6


def test_a_family_whose_scores_are_others_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = stage("reward-model")
    write_rows(tmp_path / "rows", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    forward = Qwen3ForSequenceClassification.forward

    def scaled(self: Any, *values: Any, **named: Any) -> Any:
        output = forward(self, *values, **named)
        output.logits = output.logits * 3 + 1
        return output

    monkeypatch.setattr(Qwen3ForSequenceClassification, "forward", scaled)
    sizes: Any = {"num_epochs": 1, "batch_size": 1, "optimizer": {"lr": 1e-3}}
    params = kind.params(seed=1, objective="pairwise", reads="summary", **sizes)
    inputs = Inputs({"model": save_policy(tmp_path / "model"), "rows": tmp_path / "rows"})
    context = FakeContext(tmp_path / "work")
    with pytest.raises(StageError, match="qwen3: training would compute other scores than"):
        kind.run(context, params, kind.run_model(), inputs)
    assert context.logged == []
