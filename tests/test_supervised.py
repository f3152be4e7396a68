"""The supervised loop: order of the rows, gradient in closed form, schedule, exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import (
    FakeContext,
    assert_same_weights,
    corpus_rows,
    listed,
    model,
    save_policy,
    stage,
    tokenizer,
)
from torch import Tensor

from r1pipe.data.training_sequences import training_sequences
from r1pipe.errors import Interrupted, StageError
from r1pipe.models.policy import load_model, load_tokenizer
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.records import TokenSequence
from r1pipe.rows import write_rows
from r1pipe.settings import EpochParams, Optimizer
from r1pipe.stage import Inputs
from r1pipe.train.batching import Batching
from r1pipe.train.conversations import TurnEncoder
from r1pipe.train.engine import TorchEngine
from r1pipe.train.schedule import learning_rate
from r1pipe.train.supervised import batches_of, train_supervised

PAD = tokenizer().pad_token_id


def plan(**changes: Any) -> EpochParams:
    optimizer = {"lr": 3e-3, "schedule": "cosine", "warmup_steps": 2, "final_lr_frac": 0.1}
    values: dict[str, Any] = {"num_epochs": 2, "batch_size": 4, "optimizer": optimizer, "seed": 5}
    return EpochParams(**(values | changes))


# ---- order and schedule --------------------------------------------------------------------------


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    batches = list(batches_of(10, plan(num_epochs=3)))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [[row for batch in batches[i : i + 3] for row in batch] for i in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert batches == list(batches_of(10, plan(num_epochs=3)))
    assert batches != list(batches_of(10, plan(num_epochs=3, seed=6)))


def rates_of(num_steps: int, **optimizer: Any) -> list[float]:
    """Return the rates of all updates."""
    chosen = Optimizer(**optimizer)
    return [learning_rate(step, num_steps, chosen) for step in range(num_steps)]


def test_a_cosine_starts_at_the_peak_and_ends_at_its_share_of_it() -> None:
    rates = rates_of(11, lr=5e-5, schedule="cosine", final_lr_frac=0.1)
    assert rates[0] == pytest.approx(5e-5)
    assert rates[5] == pytest.approx((5e-5 + 5e-6) / 2)  # half way: the mean of both ends
    assert rates[-1] == pytest.approx(5e-6)
    assert rates == sorted(rates, reverse=True)
    # a quarter of the way: 0.1 + 0.9 (1 + cos 45 degrees) / 2 of the peak
    quarter = rates_of(9, lr=1.0, schedule="cosine", final_lr_frac=0.1)[2]
    assert quarter == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_starts_behind_it() -> None:
    rates = rates_of(9, lr=1.0, schedule="cosine", warmup_steps=4, final_lr_frac=0.0)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[6] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.0)


def test_a_constant_schedule_stays_at_the_peak_after_warm_up() -> None:
    rates = rates_of(5, lr=2.0, schedule="constant", warmup_steps=2)
    assert rates == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_single_step_has_the_peak_rate() -> None:
    assert rates_of(1, lr=3.0, schedule="cosine") == [3.0]


# ---- the gradient in closed form -----------------------------------------------------------------

VOCAB = 6


class OneHot(torch.nn.Module):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        hidden = torch.nn.functional.one_hot(input_ids, VOCAB).double()
        return SimpleNamespace(last_hidden_state=hidden)


class Bigram(torch.nn.Module):
    """Logits of the next token are a row of one table: a softmax model in float64."""

    config = SimpleNamespace(_attn_implementation="none")
    base_model_prefix = "model"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lm_head = torch.nn.Linear(VOCAB, VOCAB, bias=False, dtype=torch.float64)
        self.model = OneHot()

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor | None = None, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids).last_hidden_state))


class RecordingEngine(TorchEngine):
    """Keeps each step's gradients and rates, and steps as usual."""

    def step(self, learning_rate: float) -> float:
        self.seen = getattr(self, "seen", [])
        self.seen.append(({n: p.grad.clone() for n, p in self.parameters.items()}, learning_rate))
        return super().step(learning_rate)


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_gradient_equals_that_of_a_softmax_model_in_closed_form(
    tmp_path: Path, micro_batch_tokens: int, layout: Any
) -> None:
    sequences = [TokenSequence([2, 3], [4, 4, 1]), TokenSequence([5], [3, 1])]
    policy = Bigram()
    probabilities = torch.softmax(policy.lm_head.weight.detach().T, dim=1)  # [from, to]
    # d loss / d logit = (softmax - one hot) / trained tokens, at each trained token's predecessor
    expected, pairs = torch.zeros(VOCAB, VOCAB, dtype=torch.float64), []
    for sequence in sequences:
        ids = [*sequence.prompt_ids, *sequence.completion_ids]
        pairs += [(ids[t - 1], ids[t]) for t in range(len(sequence.prompt_ids), len(ids))]
    assert pairs == [(3, 4), (4, 4), (4, 1), (5, 3), (3, 1)]
    for before, after in pairs:
        expected[before] += probabilities[before] / len(pairs)
        expected[before, after] -= 1 / len(pairs)
    loss = -sum(math.log(probabilities[b, a]) for b, a in pairs) / len(pairs)

    context, engine = FakeContext(tmp_path), RecordingEngine(policy)
    train_supervised(
        context,
        engine,
        sequences,
        plan(num_epochs=1),
        Batching(micro_batch_tokens, layout, pad_id=1),
    )
    gradient = engine.seen[0][0]["lm_head.weight"]  # [to, from]
    # logits are taken in float32 before the softmax
    torch.testing.assert_close(gradient, expected.T, rtol=1e-5, atol=1e-7)
    assert context.logged[0]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_gradient_of_several_turns_is_that_of_their_tokens_alone(
    tmp_path: Path, layout: Any
) -> None:
    turns = TokenSequence(
        [2, 3], [4, 1, 5, 5, 3, 1], trained=[True, True, False, False, True, True]
    )
    policy = Bigram()
    probabilities = torch.softmax(policy.lm_head.weight.detach().T, dim=1)
    # of the pairs 3-4 4-1 1-5 5-5 5-3 3-1 the third and the fourth are not trained
    pairs = [(3, 4), (4, 1), (5, 3), (3, 1), (2, 1)]
    expected = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for before, after in pairs:
        expected[before] += probabilities[before] / len(pairs)
        expected[before, after] -= 1 / len(pairs)
    context, engine = FakeContext(tmp_path), RecordingEngine(policy)
    sequences = [turns, TokenSequence([2], [1])]
    train_supervised(context, engine, sequences, plan(num_epochs=1), Batching(100, layout, 1))
    gradient = engine.seen[0][0]["lm_head.weight"]
    torch.testing.assert_close(gradient, expected.T, rtol=1e-5, atol=1e-7)
    loss = -sum(math.log(probabilities[b, a]) for b, a in pairs) / len(pairs)
    assert context.logged[0]["loss"] == pytest.approx(loss, rel=1e-6)


# ---- the loop ------------------------------------------------------------------------------------


def rows() -> Iterator[TokenSequence]:
    for row in corpus_rows(10):
        yield TokenSequence(
            encode_prompt(tokenizer(), row["prompt"], row["format"]),
            encode_completion(tokenizer(), row["completion"]),
        )


def train(context: FakeContext, **options: Any) -> tuple[Any, RecordingEngine]:
    policy = model()
    engine = RecordingEngine(policy, weight_decay=0.1)
    batching: dict[str, Any] = {"micro_batch_tokens": 512, "layout": "padded"}
    train_supervised(
        context, engine, list(rows()), plan(), Batching(**(batching | options), pad_id=PAD)
    )
    return policy, engine


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[FakeContext, Any, RecordingEngine]:
    """Return an uninterrupted run of six steps."""
    context = FakeContext(tmp_path_factory.mktemp("whole"))
    return context, *train(context)


def test_the_loss_falls_and_every_step_has_its_scheduled_rate(
    trained: tuple[FakeContext, Any, RecordingEngine],
) -> None:
    losses = trained[0].column("loss")
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.2
    rates = rates_of(6, lr=3e-3, schedule="cosine", warmup_steps=2, final_lr_frac=0.1)
    assert [rate for _, rate in trained[2].seen] == rates
    assert trained[0].column("lr") == rates


@pytest.mark.parametrize("options", [{"micro_batch_tokens": 1}, {"layout": "packed"}])
def test_micro_batch_and_layout_do_not_change_the_gradient(
    tmp_path: Path, trained: tuple[FakeContext, Any, RecordingEngine], options: dict[str, Any]
) -> None:
    context = FakeContext(tmp_path)
    _, engine = train(context, **options)
    assert context.logged[0]["loss"] == pytest.approx(trained[0].logged[0]["loss"], rel=1e-5)
    expected = trained[2].seen[0][0]
    for name, gradient in engine.seen[0][0].items():
        # sums in another order, in float32
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("steps_before_the_kill", [1, 3, 5])
def test_a_resumed_run_ends_with_exactly_the_weights_of_the_uninterrupted_one(
    tmp_path: Path, trained: tuple[FakeContext, Any, RecordingEngine], steps_before_the_kill: int
) -> None:
    # three steps are exactly one epoch: the next order must be the second epoch's
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(FakeContext(tmp_path, stop_after=steps_before_the_kill, saves=True))
    second = FakeContext(tmp_path)
    policy, _ = train(second)
    assert [row["step"] for row in second.logged] == list(range(steps_before_the_kill + 1, 7))
    assert second.column("loss") == trained[0].column("loss")[steps_before_the_kill:]
    assert_same_weights(policy, trained[1])


def test_two_runs_give_the_same_weights_bit_by_bit(
    tmp_path: Path, trained: tuple[FakeContext, Any, RecordingEngine]
) -> None:
    assert_same_weights(train(FakeContext(tmp_path))[0], trained[1])


# ---- the engine ----------------------------------------------------------------------------------


def one_step(engine: TorchEngine, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in engine.parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    engine.step(1e-3)


def test_a_saved_engine_goes_on_bit_by_bit(tmp_path: Path) -> None:
    first = TorchEngine(model(1), weight_decay=0.1)
    one_step(first, 0)
    one_step(first, 1)
    first.save(tmp_path)
    second = TorchEngine(model(2), weight_decay=0.1)
    one_step(second, 9)
    second.load(tmp_path)
    assert_same_weights(second.model, first.model)
    one_step(first, 2)
    one_step(second, 2)  # both moments and the step count of Adam decide this one
    assert_same_weights(second.model, first.model)


def test_checkpoints_hold_safetensors_and_json_and_no_pickle(tmp_path: Path) -> None:
    engine = TorchEngine(model())
    one_step(engine, 0)
    engine.save(tmp_path)
    names = ["engine.json", "engine.safetensors", "engine.safetensors.blake3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "engine.json").read_text())["backend"] == "torch"
    head = (tmp_path / "engine.safetensors").read_bytes()[:9]
    assert head[8:] == b"{", "a safetensors file begins with the size of its JSON header"


def test_a_gradient_over_the_norm_is_scaled_down_and_reported_whole() -> None:
    policy = Bigram()
    engine = TorchEngine(policy, betas=(0.0, 0.0), max_grad_norm=0.5)
    before = policy.lm_head.weight.detach().clone()
    policy.lm_head.weight.grad = torch.full_like(before, 2.0)
    # 36 elements of 2: norm 12. Adam's first step has the size of the rate whatever the scale.
    assert engine.step(0.1) == pytest.approx(12.0)
    assert policy.lm_head.weight.grad is None
    torch.testing.assert_close(policy.lm_head.weight.detach(), before - 0.1, rtol=0, atol=1e-6)
    assert engine.optimizer.state[policy.lm_head.weight]["exp_avg"].max().item() == pytest.approx(
        2.0 * 0.5 / 12.0
    )


# ---- rows and the stage --------------------------------------------------------------------------


def sequences(folder: Path, max_tokens: int) -> tuple[list[TokenSequence], int]:
    """Return what is trained of a folder of rows, and how many were too long."""
    found, facts = training_sequences(folder, TurnEncoder(tokenizer()), max_tokens)
    too_long = facts["too_long"]
    assert isinstance(too_long, int)
    return list(map(listed, found)), too_long


def test_rows_that_are_too_long_are_dropped_and_counted(tmp_path: Path) -> None:
    data = corpus_rows(12)
    write_rows(tmp_path, data)
    everything, none = sequences(tmp_path, 10_000)
    assert (len(everything), none) == (12, 0)
    middle = sorted(map(len, everything))[6]
    kept, dropped = sequences(tmp_path, middle)
    assert max(map(len, kept)) == middle
    assert len(kept) + dropped == 12
    assert dropped == sum(len(s) > middle for s in everything)


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path, corpus_rows(3))
    with pytest.raises(StageError, match=r"no row to train on \(3 are over 2 tokens\)"):
        sequences(tmp_path, 2)


@pytest.mark.parametrize("fmt", ["r1-zero", "chat"])
def test_a_row_is_its_prompt_and_its_completion_as_before(tmp_path: Path, fmt: Any) -> None:
    data = corpus_rows(12, fmt)
    write_rows(tmp_path, data)
    assert sequences(tmp_path, 10_000)[0] == [
        TokenSequence(
            encode_prompt(tokenizer(), row["prompt"], fmt),
            encode_completion(tokenizer(), row["completion"]),
            number,
        )
        for number, row in enumerate(data)
    ]


def test_the_sft_stage_writes_a_model_that_transformers_loads(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "base")
    write_rows(tmp_path / "rows", corpus_rows(8, "chat"))
    sft = stage("sft")
    params = sft.params(seed=1, num_epochs=1, batch_size=4, max_tokens=100, optimizer={"lr": 1e-3})
    context = FakeContext(tmp_path / "work")
    sft.run(context, params, sft.run_model(), Inputs({"model": base, "rows": tmp_path / "rows"}))
    out = context.output("model")
    trained_model, tok = load_model(out), load_tokenizer(out)
    assert tok.chat_template == tokenizer().chat_template
    assert len(context.logged) == 2
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(trained_model, load_model(base))
    names = {path.suffix for path in out.iterdir()}
    assert not names & {".bin", ".pt", ".pkl", ".pth"}, "no pickle is written"
    text = tok.decode(trained_model.generate(torch.tensor([[9, 30]]), max_new_tokens=2)[0])
    assert text
