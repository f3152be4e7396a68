"""DPO: its gradient in closed form and by autograd, TRL's values, the reference, resume."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_batch import summary
from fixed_pairs import GOLDEN, LOSSES, our_loss
from test_supervised import VOCAB, Bigram
from tiny import FakeContext, assert_same_weights, corpus_rows, model, save_policy, stage, tokenizer
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from r1pipe.errors import ArtifactError, Interrupted, StageError
from r1pipe.method_params.preferences import PairAggregation
from r1pipe.models.policy import load_model
from r1pipe.records import Message, TokenSequence, messages_to_json
from r1pipe.rl import dpo
from r1pipe.rl.dpo import Pair, ReferenceSums, dpo_loss
from r1pipe.rows import write_rows
from r1pipe.stage import Inputs
from r1pipe.supervision.training import adjacent
from r1pipe.train.batching import Batching, one_batch
from r1pipe.train.engine import TorchEngine

TRL = json.loads(GOLDEN.read_text())["losses"]
PAIRS: list[Pair] = [
    (TokenSequence([2, 3], [4, 4, 1]), TokenSequence([2, 3], [5, 1])),
    (TokenSequence([5], [1]), TokenSequence([5], [3, 3, 2, 1])),
]
SUMS = torch.tensor([[-4.0, -3.5], [-1.5, -8.0]], dtype=torch.float64)
BETA = 0.7


def our_gradient(policy: Any, aggregation: PairAggregation, max_tokens: int = 99) -> Any:
    """Return the loss and the gradient of the table of logits."""
    policy.lm_head.weight.grad = None
    loss = partial(dpo_loss, reference=SUMS, beta=BETA, aggregation=aggregation, num_pairs=2)
    value = 0.0
    for batch in adjacent(PAIRS, [0, 1], 9, max_tokens, 1):
        part = loss(policy, batch).value
        part.backward()
        value += part.item()
    return value, policy.lm_head.weight.grad.clone()


def logprobs(weight: Tensor, sequence: TokenSequence) -> list[Tensor]:
    """Return the log-probability of every completion token under a table of logits [to, from]."""
    ids, first = [*sequence.prompt_ids, *sequence.completion_ids], len(sequence.prompt_ids)
    return [log_softmax(weight[:, ids[t - 1]], 0)[ids[t]] for t in range(first, len(ids))]


def margin(weight: Tensor, number: int, aggregation: PairAggregation) -> Tensor:
    """Return beta (d(chosen) - d(rejected)), token by token."""
    gains = []
    for side, sequence in enumerate(PAIRS[number]):
        gain = torch.stack(logprobs(weight, sequence)).sum() - SUMS[number, side]
        count = len(sequence.completion_ids) if aggregation == "sequence-mean" else 1
        gains.append(gain / count)
    return BETA * (gains[0] - gains[1])


@pytest.mark.parametrize("max_tokens", [1, 99])
@pytest.mark.parametrize("aggregation", ["sequence-sum", "sequence-mean"])
def test_the_gradient_equals_autograd_of_the_formula_in_float64(
    aggregation: PairAggregation, max_tokens: int
) -> None:
    policy = Bigram()
    value, gradient = our_gradient(policy, aggregation, max_tokens)
    weight = policy.lm_head.weight.detach().clone().requires_grad_()
    loss = -torch.stack([logsigmoid(margin(weight, n, aggregation)) for n in (0, 1)]).mean()
    (expected,) = torch.autograd.grad(loss, weight)
    assert value == pytest.approx(loss.item(), abs=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 0.05


@pytest.mark.parametrize("aggregation", ["sequence-sum", "sequence-mean"])
def test_the_gradient_equals_the_closed_form(aggregation: PairAggregation) -> None:
    policy = Bigram()
    weight = policy.lm_head.weight.detach()
    probabilities = torch.softmax(weight, dim=0)  # [to, from]
    expected = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for number, pair in enumerate(PAIRS):
        miss = 1 / (1 + math.exp(margin(weight, number, aggregation).item()))
        for sequence, sign in zip(pair, (-1, 1), strict=True):
            count = len(sequence.completion_ids) if aggregation == "sequence-mean" else 1
            coefficient = sign * BETA * miss / count / len(PAIRS)
            ids, first = [*sequence.prompt_ids, *sequence.completion_ids], len(sequence.prompt_ids)
            for t in range(first, len(ids)):  # d log p / d logits = one hot - softmax
                expected[:, ids[t - 1]] -= coefficient * probabilities[:, ids[t - 1]]
                expected[ids[t], ids[t - 1]] += coefficient
    _, gradient = our_gradient(policy, aggregation)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_the_coefficients_that_deepseekmath_prints_are_not_this_gradient() -> None:
    # Eq. 14 has a sigmoid for each token and no beta before it; Eq. 12 gives all tokens of one
    # completion the same coefficient. On a pair of equal lengths, so that Eq. 14 is defined:
    ours = torch.tensor([-1.0, -2.5, -0.5], requires_grad=True)
    theirs, reference = torch.tensor([-2.0, -1.0, -3.0]), torch.tensor([-1.5, -1.5, -1.5])
    gains = (ours - reference).mean() - (theirs - reference).mean()
    logsigmoid(BETA * gains).backward()
    printed = torch.sigmoid(BETA * (theirs - reference) - BETA * (ours.detach() - reference)) / 3
    assert ours.grad is not None
    assert ours.grad.tolist() == pytest.approx([BETA * torch.sigmoid(-BETA * gains).item() / 3] * 3)
    assert (printed - ours.grad).abs().max() > 0.05


def test_a_pair_is_worked_by_hand() -> None:
    # beta 0.5, policy - reference: chosen 1, rejected -1: margin 1, loss log(1 + e^-1)
    batch = one_batch([TokenSequence([2], [3]), TokenSequence([2], [4])], 1)
    policy = Bigram()
    weight = policy.lm_head.weight.detach()
    found = torch.tensor([logprobs(weight, o)[0] for o in (
        TokenSequence([2], [3]), TokenSequence([2], [4]))])  # fmt: skip
    reference = (found + torch.tensor([-1.0, 1.0]))[None].double()
    part = dpo_loss(
        policy, batch, reference=reference, beta=0.5, aggregation="sequence-sum", num_pairs=1
    )
    assert part.value.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    named = {"accuracy": 1.0, "margin": 1.0, "reward_chosen": 0.5, "reward_rejected": -0.5}
    assert part.sums == pytest.approx(named, abs=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 64, 10_000])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_equal_those_of_trl(name: str, max_tokens: int) -> None:
    found, expected = summary(*our_loss(name, max_tokens)), TRL[name]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["norm"] == pytest.approx(expected["norm"], abs=1e-5)
    for parameter, values in expected["gradients"].items():
        assert max(map(abs, values)) > 1e-4, "a gradient of zeros shows nothing"
        assert found["gradients"][parameter] == pytest.approx(values, abs=1e-5)


# ---- the stage -----------------------------------------------------------------------------------


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Return pairs of a right completion and that of another problem."""
    table = corpus_rows(count, "chat")
    return [
        {**row, "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(table, [*table[1:], table[0]], strict=True)
    ]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def train(work: Path, policy: Path, table: list[dict[str, Any]], **options: Any) -> FakeContext:
    write_rows(work / "rows", table)
    params = {"seed": 1, "num_epochs": 3, "batch_size": 4, "max_tokens": 100, "beta": 0.5}
    params |= {"optimizer": {"lr": 3e-3}} | options.pop("params", {})
    kind, context = stage("dpo"), FakeContext(work / "attempt", **options)
    run = kind.run_model(micro_batch_tokens=150, pairs_per_unit=5)
    inputs = Inputs({"model": policy, "rows": work / "rows"})
    kind.run(context, kind.params(**params), run, inputs)
    return context


@pytest.mark.parametrize("adapter", [None, {"rank": 2, "alpha": 4.0}])
@pytest.mark.parametrize("aggregation", ["sequence-sum", "sequence-mean"])
def test_training_begins_at_the_reference_and_learns_to_prefer(
    tmp_path: Path, policy: Path, aggregation: str, adapter: Any
) -> None:
    params = {"aggregation": aggregation, "adapter": adapter, "num_epochs": 8}
    context = train(tmp_path, policy, rows(), params=params)
    assert context.logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert context.logged[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert context.logged[-1]["loss"] < 0.9 * math.log(2)
    assert context.logged[-1]["accuracy"] == 1.0
    assert len(context.logged) == 8 * 3
    assert load_model(context.output("model")).config.vocab_size == len(tokenizer())


def test_a_killed_run_ends_with_the_weights_of_the_uninterrupted_one(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", policy, rows())
    computed: list[int] = []
    sums = dpo._sums

    def counted(engine: Any, unit: Any, batching: Batching) -> list[list[float]]:
        computed.append(len(unit))
        return sums(engine, unit, batching)

    monkeypatch.setattr(dpo, "_sums", counted)
    for stop in (2, 3, 4):  # after two of three units; after the first step and some more
        with pytest.raises(Interrupted, match="stopped by the test"):
            train(tmp_path / "killed", policy, rows(), stop_after=stop, saves=True)
    resumed = train(tmp_path / "killed", policy, rows())
    assert computed == [5, 5, 2], "every pair goes once through the reference"
    assert resumed.logged[0]["step"] == 2 + 4 + 1
    assert [row["loss"] for row in resumed.logged] == whole.column("loss")[6:]
    assert_same_weights(load_model(resumed.output("model")), load_model(whole.output("model")))


def test_the_reference_stays_what_it_was_when_the_policy_moves(tmp_path: Path) -> None:
    pairs = [(TokenSequence([9, 8], [7, 6]), TokenSequence([9, 8], [5]))]
    engine, context = TorchEngine(model()), FakeContext(tmp_path)
    batching = Batching(99, "padded", 1)
    first = ReferenceSums()
    first.compute(context, engine, pairs, batching, 4)
    with torch.no_grad():
        for parameter in engine.parameters.values():
            parameter.mul_(1.5)
    again = ReferenceSums()
    again.compute(context, engine, pairs, batching, 4)
    assert torch.equal(again.values, first.values), "they come from the journal"
    first.save(tmp_path)
    other = ReferenceSums()
    other.load(tmp_path)
    assert torch.equal(other.values, first.values)


def test_long_pairs_are_dropped_and_bad_ones_counted(tmp_path: Path, policy: Path) -> None:
    table = rows(4)
    table[1]["rejected"] *= 9
    context = train(tmp_path / "long", policy, table)
    assert (context.notes["num_pairs"], context.notes["too_long"]) == (3, 1)
    table = rows(4)
    table[2]["chosen"] = "a<|end|>b"
    with pytest.raises(StageError, match=r"1 of 4 rows cannot be used .*first at rows:3"):
        train(tmp_path / "bad", policy, table)
    context = train(tmp_path / "some", policy, table, params={"max_bad_frac": 0.3})
    assert (context.notes["num_pairs"], context.notes["num_bad_rows"]) == (3, 1)
    with pytest.raises(StageError, match="no pair to train on"):
        train(tmp_path / "none", policy, rows(4), params={"max_tokens": 3})
    with pytest.raises(ArtifactError, match="no column chosen, rejected"):
        train(tmp_path / "plain", policy, corpus_rows(2, "chat"))


def test_imported_pairs_are_trained_after_all_of_their_conversation(
    tmp_path: Path, policy: Path
) -> None:
    turns = [Message("user", "1+1"), Message("assistant", "2"), Message("user", "and 2+2?")]
    row = {"prompt": "and 2+2?", "chosen": "4", "rejected": "5"}
    alone = train(tmp_path / "alone", policy, [row])
    whole = train(tmp_path / "whole", policy, [{**row, "messages": messages_to_json(turns)}])
    assert whole.notes["trained_tokens"] > alone.notes["trained_tokens"]
