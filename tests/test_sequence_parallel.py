"""Ranks that share micro-batches, as threads of this process, against one that has them whole."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from test_logprobs import ragged
from tiny import model, save_policy, tokenizer
from torch import Tensor
from transformers import AttentionInterface

from r1pipe.errors import StageError
from r1pipe.records import TokenSequence
from r1pipe.supervision.reward_model import new_reward_model, scores
from r1pipe.train import logprobs, sequence_parallel
from r1pipe.train.batching import Batching, MicroBatch, SequenceShard, micro_batches, one_batch
from r1pipe.train.deepspeed_backend import DeepSpeedSettings
from r1pipe.train.logprobs import hidden_states, token_logprobs
from r1pipe.train.sequence_parallel import (
    ATTENTION,
    attend,
    check_heads,
    gather_heads,
    gather_positions,
    join,
    split,
    targets_of_shards,
)

PAD = tokenizer().pad_token_id


class Member:
    """One thread's place among those that exchange tensors."""

    def __init__(self, rank: int, given: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.given, self.barrier = rank, given, barrier

    def all(self, tensor: Tensor) -> list[Tensor]:
        self.given[self.rank] = tensor
        self.barrier.wait(20)
        found = list(self.given)
        self.barrier.wait(20)
        return found


def all_to_all(blocks: Tensor, group: Member) -> Tensor:
    return torch.stack([given[group.rank] for given in group.all(blocks)])


def all_reduce(values: Tensor, group: Member) -> Tensor:
    return torch.stack(group.all(values)).sum(dim=0)


@pytest.fixture(autouse=True)
def threads_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_parallel, "_all_to_all", all_to_all)
    monkeypatch.setattr(sequence_parallel, "_all_reduce", all_reduce)
    AttentionInterface.register(ATTENTION, attend)


def on_ranks(size: int, work: Callable[[Member], Any]) -> list[Any]:
    """Return what every rank makes, by rank."""
    given, barrier = [None] * size, threading.Barrier(size)

    def one(rank: int) -> Any:
        try:
            return work(Member(rank, given, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


# ---- the exchange around attention ---------------------------------------------------------------


def test_each_rank_gets_all_positions_of_its_heads_and_all_heads_of_its_positions() -> None:
    # B 1, A 4, T 6, D 1: head h at position t is 10 h + t
    whole = (10.0 * torch.arange(4)[:, None] + torch.arange(6.0)).reshape(1, 4, 6, 1)

    def work(member: Any) -> tuple[Tensor, Tensor]:
        mine = whole[:, :, 3 * member.rank : 3 * member.rank + 3]
        positions = gather_positions(mine, 2, member)
        return positions, gather_heads(positions, 2, member)

    (first, back), (second, _) = on_ranks(2, work)
    assert first[0, :, :, 0].tolist() == [[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]
    assert second[0, :, :, 0].tolist() == [[20, 21, 22, 23, 24, 25], [30, 31, 32, 33, 34, 35]]
    assert back[0, :, :, 0].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]]


def plain_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """Attend head by head with a softmax written out; `seen` [B, T, T].  -> [B, T, A, D]"""
    group = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        keys, values = key[:, head // group], value[:, head // group]
        weights = query[:, head] @ keys.transpose(1, 2) * 0.3
        weights = weights.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        heads.append(weights @ values)
    return torch.stack(heads, dim=2)


def of_layout(layout: str) -> tuple[Tensor, tuple[int, ...] | None, Tensor | None]:
    """Return what sees what in two rows of eight, with the bounds or the mask that say so."""
    seen = torch.ones(2, 8, 8, dtype=torch.bool).tril()
    if layout == "packed":  # sequences of 3, 4 and 1 positions
        number = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
        return seen & (number[:, None] == number), (0, 3, 7, 8), None
    if layout == "left":  # the second row begins at position 2
        seen[1, :, :2] = False
        seen |= torch.eye(8, dtype=torch.bool)
        return seen, None, seen[:, None]
    return seen, None, None


@pytest.mark.parametrize("layout", ["right", "packed", "left"])
@pytest.mark.parametrize(("kv_heads", "size"), [(4, 2), (4, 4), (2, 2), (2, 4), (1, 2), (1, 4)])
def test_attention_of_all_ranks_is_the_plain_one_with_its_gradients(
    layout: str, kv_heads: int, size: int
) -> None:
    torch.manual_seed(0)
    shapes = [(2, heads, 8, 3) for heads in (4, kv_heads, kv_heads)]
    whole = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    seen, bounds, mask = of_layout(layout)
    query, key, value = whole
    expected = plain_attention(query, key, value, seen)
    weights = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), whole)
    width = 8 // size

    def work(member: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        places = slice(member.rank * width, (member.rank + 1) * width)
        mine = [tensor[:, :, places].detach().requires_grad_() for tensor in whole]
        part = SequenceShard(member.rank, size, member, bounds, mask)
        query, key, value = mine
        found, _ = attend(None, query, key, value, mask, sequence_shard=part, scaling=0.3)
        return found, torch.autograd.grad((found * weights[:, places]).sum(), mine)

    made = on_ranks(size, work)
    torch.testing.assert_close(torch.cat([found for found, _ in made], dim=1), expected)
    for number, gradient in enumerate(expected_gradients):
        parts = [gradients[number] for _, gradients in made]
        torch.testing.assert_close(torch.cat(parts, dim=2), gradient)


def test_attention_that_it_does_not_know_is_refused() -> None:
    heads, part = torch.zeros(1, 2, 4, 2), SequenceShard(0, 1, None)
    with pytest.raises(StageError, match=r"attention has sliding_window, .* sequence_parallel: 1"):
        attend(None, heads, heads, heads, None, sequence_shard=part, sliding_window=16)


# ---- positions and trained tokens ----------------------------------------------------------------


def test_a_part_holds_its_positions_and_the_token_behind_them() -> None:
    # one prompt token, then four trained ones; parts of three positions
    (batch,) = micro_batches(
        [TokenSequence([9], [10, 11, 12, 13], streams={"place": [1, 2, 3, 4]})],
        Batching(5, "packed", PAD),
    )
    first, second = split(batch, 0, 2), split(batch, 1, 2)
    assert first.input_ids.tolist() == [[9, 10, 11, 12]]
    assert first.loss_mask.tolist() == [[False, True, True, True]]
    assert second.input_ids.tolist() == [[12, 13, 0, 0]]
    assert second.loss_mask.tolist() == [[False, True, False, False]]
    assert second.position_ids.tolist() == [[3, 4, 0, 0]]
    assert first.at_trained("place").tolist() == [1, 2, 3]
    assert second.streams["place"].tolist() == [[3, 4, 0, 0]]
    assert second.at_trained("place").tolist() == [4]
    assert second.sequence_index.tolist() == [[0, 0, -1, -1]]
    assert second.shard is not None
    assert second.shard.bounds == (0, 5, 6), "the padding is a sequence of its own"
    assert targets_of_shards(batch, 2) == [3, 1]
    assert join(batch, [[1.0, 2.0, 3.0], [4.0]]) == [1.0, 2.0, 3.0, 4.0]


def left_padded(batch: MicroBatch) -> MicroBatch:
    """Return the rows with their padding in front."""
    assert batch.attention_mask is not None
    room = (~batch.attention_mask).sum(dim=1).tolist()

    def moved(table: Tensor) -> Tensor:
        pairs = zip(table, room, strict=True)
        return torch.stack([row.roll(places) for row, places in pairs])

    return batch.mapped(moved)


def layouts() -> dict[str, list[MicroBatch]]:
    sequences = ragged(7)
    batches: dict[str, list[MicroBatch]] = {
        layout: list(micro_batches(sequences, Batching(45, layout, PAD)))
        for layout in ("padded", "packed")
    }
    turns = [
        replace(s, trained=[i % 3 > 0 for i in range(len(s.completion_ids))]) for s in sequences
    ]
    batches["turns"] = list(micro_batches(turns, Batching(45, "packed", PAD)))
    return batches | {"left": [left_padded(one_batch(sequences, PAD))]}


def gradients_of(policy: Any, values: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((values * weights).sum(), list(policy.parameters()))


@pytest.mark.parametrize("layout", ["padded", "packed", "turns", "left"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probabilities_of_the_parts_are_those_of_the_whole_with_their_gradients(
    layout: str, checkpointing: bool
) -> None:
    policy = model()
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    for batch in layouts()[layout]:
        expected = token_logprobs(policy, batch, 0.7)
        weights = torch.linspace(-1, 1, len(expected))
        wanted = gradients_of(policy, expected, weights)
        shared = copy.deepcopy(policy)
        shared.set_attn_implementation(ATTENTION)

        def work(member: Any, batch: MicroBatch = batch, shared: Any = shared) -> Any:
            own = copy.deepcopy(shared)
            part = split(batch, member.rank, 2, member)
            values = token_logprobs(own, part, 0.7)
            spread = torch.zeros(batch.loss_mask.shape)
            spread[batch.loss_mask] = torch.linspace(-1, 1, int(batch.loss_mask.sum()))
            mine = split(replace(batch, input_ids=spread), member.rank, 2).input_ids
            return values.detach().tolist(), gradients_of(own, values, mine[part.loss_mask])

        parts, of_parts = zip(*on_ranks(2, work), strict=True)
        assert [len(part) for part in parts] == targets_of_shards(batch, 2)
        assert join(batch, parts) == pytest.approx(expected.tolist(), abs=1e-5)
        for one, other, gradient in zip(*of_parts, wanted, strict=True):
            torch.testing.assert_close(one + other, gradient, rtol=1e-4, atol=1e-5)


def test_each_rank_runs_the_model_over_its_positions_alone() -> None:
    batch, policy = layouts()["packed"][0], model()
    policy.set_attn_implementation(ATTENTION)
    seen: list[tuple[int, ...]] = []
    policy.model.layers[1].mlp.register_forward_hook(lambda m, i, out: seen.append(out.shape))
    on_ranks(2, lambda m: hidden_states(policy, split(batch, m.rank, 2, cast(Any, m))))
    width = -(-batch.input_ids.shape[1] // 2)
    assert seen == [(1, width, 24)] * 2


def test_the_head_is_called_as_often_where_a_part_has_fewer_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, calls = model(), []
    policy.lm_head.register_forward_hook(lambda m, i, out: calls.append(out.shape[-2]))
    batch = one_batch(ragged(1), PAD)
    count = int(batch.loss_mask.sum())
    expected = token_logprobs(policy, batch)
    monkeypatch.setattr(logprobs, "MAX_LOGITS", 4 * len(tokenizer()))
    calls.clear()
    found = token_logprobs(policy, replace(batch, most_targets=11))
    assert calls == [min(4, max(0, count - start)) for start in (0, 4, 8)]
    torch.testing.assert_close(found, expected)


def test_every_rank_has_the_scores_of_all_rows_and_their_gradients_add_up(tmp_path: Any) -> None:
    policy = new_reward_model(save_policy(tmp_path), seed=3).eval()
    batch = one_batch(ragged(6), PAD)
    expected = scores(policy, batch)
    weights = torch.linspace(-1, 2, len(expected))
    wanted = gradients_of(policy, expected, weights)

    def work(member: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        own = copy.deepcopy(policy)
        own.set_attn_implementation(ATTENTION)
        part = split(batch, member.rank, 2, member)
        found = scores(own, part)
        return found, gradients_of(own, found, weights * part.is_first_shard)

    (first, ours), (second, theirs) = on_ranks(2, work)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)
    for one, other, gradient in zip(ours, theirs, wanted, strict=True):
        torch.testing.assert_close(one + other, gradient, rtol=1e-4, atol=1e-5)


# ---- what cannot be shared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "allowed"),
    [(8, 2, 3, "1, 2, 4, 8"), (12, 4, 3, "1, 2, 4, 12"), (6, 4, 3, "1, 2"), (4, 4, 8, "1, 2, 4")],
)
def test_heads_that_ranks_cannot_share_are_refused(
    heads: int, kv_heads: int, size: int, allowed: str
) -> None:
    config = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=kv_heads)
    with pytest.raises(StageError, match=f"{size} ranks cannot share .* model allows {allowed}$"):
        check_heads(config, size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_processes": 6, "sequence_parallel": 4}, "does not divide .* one of 1, 2, 3, 6 "),
        ({"num_processes": 2, "sequence_parallel": 2, "attention": "flash"}, "attention: sdpa"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepSpeedSettings(backend="deepspeed", **fields)
