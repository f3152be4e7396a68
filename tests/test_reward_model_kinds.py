"""Reward models of labels by name and of steps, and going on from another reward model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import (
    FakeContext,
    assert_same_weights,
    grpo_params,
    problems,
    save_policy,
    stage,
    tokenizer,
)
from transformers import AutoModelForSequenceClassification

from r1pipe.engine_settings import TrainRun
from r1pipe.errors import StageError
from r1pipe.records import Problem, TokenSequence
from r1pipe.rows import write_problems, write_rows
from r1pipe.stage import Inputs
from r1pipe.supervision.reward_model import is_reward_model, new_reward_model, reward_function
from r1pipe.supervision.steps import encode_steps, line_ends, process_reward_function, step_scores
from r1pipe.supervision.training import process_loss
from r1pipe.train.batching import one_batch
from r1pipe.train.deepspeed_backend import DeepSpeedSettings

PAD = tokenizer().pad_token_id


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def train(
    work: Path, model: Path, rows: list[dict[str, Any]], objective: str, **changes: Any
) -> FakeContext:
    write_rows(work / "rows", rows)
    kind, context = stage("reward-model"), FakeContext(work / "attempt")
    values: dict[str, Any] = {
        "seed": 1,
        "objective": objective,
        "reads": "completion",
        "num_epochs": 12,
        "batch_size": 4,
        "optimizer": {"lr": 3e-3},
    }
    inputs = Inputs({"model": model, "rows": work / "rows"})
    kind.run(context, kind.params(**(values | changes)), kind.run_model(), inputs)
    return context


def step_row(good: bool, number: int) -> dict[str, Any]:
    """Return a text of three lines whose second one is wrong or not, and all after it with it."""
    lines = [f"a{number}", "even" if good else "odd", "so it is"]
    text = "\n".join(lines)
    labels = [1.0, float(good), float(good)]
    steps = [{"end": e, "label": v} for e, v in zip(line_ends(text), labels, strict=True)]
    return {"prompt": f"parity {number}", "completion": text, "steps": steps}


STEPS = [step_row(number % 2 == 0, number) for number in range(8)]

# ---- labels --------------------------------------------------------------------------------------


def test_the_column_of_the_labels_is_a_parameter(tmp_path: Path, policy: Path) -> None:
    rows = [{"prompt": "cat?", "completion": f"text {n}", "score": n / 3} for n in range(4)]
    named = train(tmp_path / "named", policy, rows, "pointwise", label="score", num_epochs=1)
    plain = [{**row, "is_safe": row["score"]} for row in rows]
    usual = train(tmp_path / "usual", policy, plain, "pointwise", num_epochs=1)
    assert named.logged[0]["loss"] == usual.logged[0]["loss"]
    with pytest.raises(StageError, match="row 1: the label is_safe is None"):
        train(tmp_path / "none", policy, rows, "pointwise")
    rows = [{"prompt": "cat?", "completion": "a", "note": "x"}]
    with pytest.raises(StageError, match="row 1: the label note is 'x'"):
        train(tmp_path / "text", policy, rows, "pointwise", label="note")


# ---- going on ------------------------------------------------------------------------------------


def test_a_reward_model_is_gone_on_from_with_its_head(tmp_path: Path, policy: Path) -> None:
    rows = [{"prompt": "cat?", "completion": t, "is_safe": t == "yes"} for t in ("yes", "no")]
    first = train(tmp_path / "first", policy, rows, "pointwise").output("model")
    assert is_reward_model(first)
    assert not is_reward_model(policy)
    trained = AutoModelForSequenceClassification.from_pretrained(first)
    assert_same_weights(new_reward_model(first, seed=9), trained)
    fresh = new_reward_model(policy, seed=9)
    assert not torch.equal(fresh.score.weight, trained.score.weight)
    second = train(tmp_path / "second", first, rows, "pointwise", num_epochs=1)
    last = train(tmp_path / "more", policy, rows, "pointwise", num_epochs=13)
    assert second.logged[0]["loss"] == pytest.approx(last.logged[12]["loss"], abs=1e-5)
    ask = [(Problem("p", "t", "cat?", ""), text) for text in ("yes", "no")]
    better, worse = reward_function(second.output("model"), "completion", TrainRun())(ask)
    assert better > 0.7 > 0.3 > worse


# ---- steps ---------------------------------------------------------------------------------------


def test_the_loss_of_steps_is_worked_by_hand(policy: Path) -> None:
    model = new_reward_model(policy, seed=3)
    sequence = encode_steps(tokenizer(), "parity 1", "a1\nodd\nso", [2, 6, 9])
    labels = [1.0, 0.25, 0.0]
    left = iter(labels)
    sequence.streams["label"] = [next(left) if mark else 0.0 for mark in sequence.trained or ()]
    batch = one_batch([sequence], PAD)
    with torch.no_grad():
        scores = step_scores(model, batch).tolist()
        found = process_loss(model, batch, num_steps=6)
    assert len(scores) == 3
    by_hand = sum(
        -label * math.log(1 / (1 + math.exp(-s))) - (1 - label) * math.log(1 / (1 + math.exp(s)))
        for s, label in zip(scores, labels, strict=True)
    )
    assert found.value.item() == pytest.approx(by_hand / 6, abs=1e-6)
    right = sum((s > 0) == (label > 0.5) for s, label in zip(scores, labels, strict=True))
    assert found.sums["accuracy"] == pytest.approx(right / 6)


def test_training_tells_good_steps_from_bad_ones_where_they_end(
    tmp_path: Path, policy: Path
) -> None:
    context = train(tmp_path, policy, STEPS, "process", num_epochs=40)
    assert context.logged[-1]["loss"] < 0.2 * context.logged[0]["loss"]
    score = process_reward_function(context.output("model"), TrainRun())
    asked = [(Problem("p", "t", row["prompt"], ""), row["completion"]) for row in STEPS]
    for row, steps in zip(STEPS, score(asked), strict=True):
        assert [end for end, _ in steps] == [step["end"] for step in row["steps"]]
        for (_, reward), step in zip(steps, row["steps"], strict=True):
            assert (reward > 0.5) == (step["label"] > 0.5)


def test_micro_batches_do_not_change_the_loss_of_steps(tmp_path: Path, policy: Path) -> None:
    losses = []
    for size in (1, 64):
        write_rows(tmp_path / f"rows-{size}", STEPS)
        kind, context = stage("reward-model"), FakeContext(tmp_path / f"work-{size}")
        params = kind.params(
            seed=1, objective="process", reads="completion", batch_size=8, optimizer={"lr": 1e-3}
        )
        inputs = Inputs({"model": policy, "rows": tmp_path / f"rows-{size}"})
        kind.run(context, params, kind.run_model(examples_per_micro_batch=size), inputs)
        losses.append((context.logged[0]["loss"], context.logged[0]["grad_norm"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"end": 0, "label": 1.0}],
        [{"end": 4, "label": 1.0}, {"end": 2, "label": 1.0}],
        [{"end": 99, "label": 1.0}],
        [{"end": 4, "label": 1.5}],
    ],
)
def test_steps_that_are_none_are_refused_with_their_row(
    tmp_path: Path, policy: Path, steps: Any
) -> None:
    rows = [STEPS[0], {**STEPS[1], "steps": steps}]
    with pytest.raises(StageError, match=r"row 2: its steps are .*ends that rise"):
        train(tmp_path, policy, rows, "process")


def test_a_process_reward_model_reads_all_and_whole_rows() -> None:
    kind = stage("reward-model")
    values: dict[str, Any] = {"seed": 1, "objective": "process", "batch_size": 1}
    with pytest.raises(ValidationError, match="set reads: completion"):
        kind.params(**values, reads="summary", optimizer={"lr": 1e-3})
    params = kind.params(**values, reads="completion", optimizer={"lr": 1e-3})
    engine = DeepSpeedSettings(backend="deepspeed", num_processes=2, sequence_parallel=2)
    found = kind.run_model(engine=engine).incompatible_with(params)
    assert "objective process needs whole rows" in found


def test_texts_are_held_in_four_bytes_a_token(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[TokenSequence] = []

    def seen(context: Any, engine: Any, examples: Any, *rest: Any) -> None:
        held.extend(text for texts in examples for text in texts)

    monkeypatch.setattr("r1pipe.supervision.training.train_reward_model", seen)
    pairs = [{"prompt": "cat?", "chosen": "yes " * 20, "rejected": "no"} for _ in range(8)]
    train(tmp_path / "pairs", policy, pairs, "pairwise")
    train(tmp_path / "steps", policy, STEPS, "process")
    assert len(held) == 16 + len(STEPS)
    for text in held:
        for ids in (text.prompt_ids, text.completion_ids):
            assert memoryview(ids).itemsize == 4  # type: ignore[arg-type]


# ---- the reward of GRPO --------------------------------------------------------------------------


def test_the_reward_model_of_grpo_takes_the_place_of_accuracy_for_all_problems(
    tmp_path: Path, policy: Path
) -> None:
    texts = ("yes", "no")
    rows = [{"prompt": "cat?", "completion": t, "is_safe": t == "yes"} for t in texts]
    trained = train(tmp_path / "rm", policy, rows, "pointwise", num_epochs=1).output("model")
    chosen = [*problems(3), replace(problems(4)[3], gold="")]  # it reads no gold answer
    write_problems(tmp_path / "problems", chosen)
    kind, context = stage("grpo"), FakeContext(tmp_path / "grpo")
    inputs = {"model": policy, "problems": tmp_path / "problems", "reward": trained}
    params = grpo_params(rewards={"accuracy": 1.0, "length": 0.0}, num_steps=2)
    kind.run(context, params, kind.run_model(), Inputs(inputs))
    assert "reward_accuracy" not in context.logged[0]
    assert context.logged[0]["reward"] == context.logged[0]["reward_preference"]
    assert 0 < context.logged[0]["reward"] < 1
    assert context.notes["unusable_golds"]["problems"]["count"] == 0
