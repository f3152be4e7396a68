"""Loss masks token by token, micro-batches and packing."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
import torch
from tiny import tokenizer

from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.records import TokenSequence
from r1pipe.train.batching import (
    Batching,
    Layout,
    MicroBatch,
    SequenceShard,
    _best_fit,
    count_loss_tokens,
    micro_batches,
    one_batch,
    pack,
)

PAD, EOS = 0, 1


def ragged(count: int, seed: int = 0) -> list[TokenSequence]:
    rng = random.Random(seed)
    return [
        TokenSequence(
            [rng.randrange(2, 9) for _ in range(rng.randrange(1, 7))],
            [*[rng.randrange(2, 9) for _ in range(rng.randrange(0, 9))], EOS],
            index,
        )
        for index in range(count)
    ]


def test_first_completion_token_and_end_are_trained_and_the_prompt_is_not() -> None:
    long = TokenSequence([5, 6], [7, 8, EOS], 4, {"place": [1, 2, 3]})
    batch = one_batch([long, TokenSequence([5], [EOS], 9, {"place": [1]})], PAD)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, EOS], [5, EOS, PAD, PAD, PAD]]
    assert batch.loss_mask.long().tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.long().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.sequence_index.tolist() == [[4, 4, 4, 4, 4], [9, 9, -1, -1, -1]]
    assert batch.streams["place"].tolist() == [[0, 0, 1, 2, 3], [0, 1, 0, 0, 0]]
    assert batch.at_trained("place").tolist() == [1, 2, 3, 1]


def test_a_pad_token_that_is_the_end_token_leaves_the_end_trained() -> None:
    batch = one_batch([TokenSequence([5, 6], [7, 8, EOS]), TokenSequence([5], [7, EOS])], EOS)
    assert batch.loss_mask.long().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.input_ids[1].tolist() == [5, 7, EOS, EOS, EOS]


def test_an_end_token_inside_the_prompt_is_not_trained() -> None:
    batch = one_batch([TokenSequence([5, EOS, 6], [7, EOS])], EOS)
    assert batch.loss_mask.long().tolist() == [[0, 0, 0, 1, 1]]


def turns(count: int, seed: int = 0) -> list[TokenSequence]:
    """Return sequences of which some completion tokens are trained, the last one always."""
    rng = random.Random(seed)
    return [
        replace(s, trained=[rng.random() < 0.5 for _ in s.completion_ids[1:]] + [True])
        for s in ragged(count, seed)
    ]


def test_of_a_completion_of_several_turns_only_the_trained_tokens_are_in_the_mask() -> None:
    sequence = TokenSequence(
        [5, 6], [7, EOS, 5, 6, 8, EOS], trained=[True, True, False, False] + [True] * 2
    )
    batch = one_batch([sequence, TokenSequence([5], [7, EOS])], PAD)
    assert batch.loss_mask.long().tolist() == [[0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1] + [0] * 5]
    assert batch.attention_mask is not None
    assert batch.attention_mask[0].all()
    assert count_loss_tokens([sequence, TokenSequence([5], [7, EOS])]) == 4 + 2


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 24, 1000])
def test_the_trained_tokens_of_turns_are_the_same_in_every_layout(
    layout: Layout, micro_batch_tokens: int
) -> None:
    sequences = turns(23)
    expected = sorted(
        (s.index, place, token)
        for s in sequences
        for place, token in enumerate(s.completion_ids, start=len(s.prompt_ids))
        if s.trained is not None and s.trained[place - len(s.prompt_ids)]
    )
    found = []
    for batch in micro_batches(sequences, Batching(micro_batch_tokens, layout, PAD)):
        trained = (batch.sequence_index, batch.position_ids, batch.input_ids)
        found += list(zip(*(each[batch.loss_mask].tolist() for each in trained), strict=True))
    assert sorted(found) == expected
    assert len(found) == count_loss_tokens(sequences)


def test_a_row_of_the_data_trains_its_completion_and_one_end_token() -> None:
    tok = tokenizer()
    sequence = TokenSequence(
        encode_prompt(tok, "2+3", "chat"), encode_completion(tok, "<think>a</think>")
    )
    batch = one_batch([sequence], tok.pad_token_id)
    assert tok.decode(batch.input_ids[batch.loss_mask]) == "<think>a</think><|end|>"


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_an_empty_prompt_is_refused(layout: Layout) -> None:
    # also behind another sequence, where the stranger's last token would predict its first one
    sequences = [TokenSequence([5, 6], [7, 8, EOS]), TokenSequence([], [7, EOS])]
    with pytest.raises(ValueError, match="a prompt is empty"):
        list(micro_batches(sequences, Batching(100, layout, PAD)))


def test_packed_rows_restart_positions_and_keep_each_sequence_apart() -> None:
    sequences = [
        TokenSequence([5], [7, EOS], 0, {"place": [1, 2]}),
        TokenSequence([6, 6], [8, EOS], 1, {"place": [1, 2]}),
    ]
    (batch,) = micro_batches(sequences, Batching(7, "packed", PAD))
    assert batch.attention_mask is None
    assert batch.input_ids.tolist() == [[6, 6, 8, EOS, 5, 7, EOS]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch.loss_mask.long().tolist() == [[0, 0, 1, 1, 0, 1, 1]]
    assert batch.sequence_index.tolist() == [[1, 1, 1, 1, 0, 0, 0]]
    assert batch.streams["place"].tolist() == [[0, 0, 1, 2, 0, 1, 2]]
    assert batch.at_trained("place").tolist() == [1, 2, 1, 2]


def trained(batches: list[MicroBatch]) -> list[tuple[int, int, int]]:
    """Return (sequence, place in the completion, token) of all trained tokens, sorted."""
    found = []
    for batch in batches:
        mask = batch.loss_mask
        columns = (batch.sequence_index, batch.streams["place"].long(), batch.input_ids)
        found += list(zip(*(column[mask].tolist() for column in columns), strict=True))
    return sorted(found)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("max_tokens", [1, 16, 40, 10_000])
def test_every_completion_token_is_trained_once_whatever_the_micro_batch(
    layout: Layout, max_tokens: int
) -> None:
    rows = ragged(23)
    sequences = [replace(s, streams={"place": list(range(len(s.completion_ids)))}) for s in rows]
    batches = list(micro_batches(sequences, Batching(max_tokens, layout, PAD)))
    expected = [(s.index, i, t) for s in sequences for i, t in enumerate(s.completion_ids)]
    assert trained(batches) == sorted(expected)
    assert count_loss_tokens(sequences) == len(expected)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_micro_batch_stays_within_its_tokens(layout: Layout) -> None:
    for batch in micro_batches(ragged(40), Batching(32, layout, PAD)):
        assert batch.input_ids.numel() <= 32


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_sequence_longer_than_the_limit_goes_alone(layout: Layout) -> None:
    sequences = [TokenSequence([5] * 30, [7, EOS], 0), TokenSequence([5], [EOS], 1)]
    shapes = [tuple(b.input_ids.shape) for b in micro_batches(sequences, Batching(10, layout, PAD))]
    assert shapes[0] == (1, 32)
    assert len(shapes) == 2


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "rows"),
    [
        # as few rows as are needed: the 3 fits only beside the 5, the 2 only beside the 6
        ((2, 3, 5, 6), 8, [[6, 2], [5, 3]]),
        # two rows of 10 would do with 10 and 4 tokens in them; they are filled with 7 each
        ((5, 3, 2, 4), 10, [[5, 2], [4, 3]]),
        # 5 4 4 into rows of 9 and 4; evenly 9 would be 5 and 8
        ((5, 4, 4), 9, [[5], [4, 4]]),
        # evenly would be 3 2 2 and 3 2, more than 6: best fit stands
        ((3, 3, 2, 2, 2), 6, [[3, 3], [2, 2, 2]]),
        # what is longer than a row has one of its own
        ((9, 2, 1), 4, [[9], [2, 1]]),
    ],
)
def test_packing_fills_as_few_rows_as_needed_evenly(
    lengths: tuple[int, ...], max_tokens: int, rows: list[list[int]]
) -> None:
    sequences = [TokenSequence([5], [7] * (n - 1), n) for n in lengths]
    assert [[s.index for s in row] for row in pack(sequences, max_tokens)] == rows


def slow_fit(ordered: list[TokenSequence], max_tokens: int) -> list[list[int]]:
    """Return the sequences of each row, each in the first of the fullest rows that have room."""
    rows, room = list[list[int]](), list[int]()
    for sequence in ordered:
        fits = [row for row in range(len(rows)) if room[row] >= len(sequence)]
        if not fits:
            rows.append([])
            room.append(max(max_tokens, len(sequence)))
        best = min(fits, key=lambda row: room[row]) if fits else len(rows) - 1
        rows[best].append(sequence.index)
        room[best] -= len(sequence)
    return rows


@pytest.mark.parametrize("max_tokens", [1, 9, 20, 64])
def test_each_sequence_is_in_the_fullest_row_that_has_room(max_tokens: int) -> None:
    for seed in range(20):
        ordered = sorted(ragged(40, seed), key=len, reverse=True)
        found = [[each.index for each in row] for row in _best_fit(ordered, max_tokens)]
        assert found == slow_fit(ordered, max_tokens)


def test_packing_looks_at_few_rows_for_each_of_many_sequences() -> None:
    started = time.process_time()
    rows = pack(ragged(30_000), 20)
    assert sum(map(len, rows)) == 30_000
    assert time.process_time() - started < 5, "a look at every row for each takes minutes"


def test_a_batch_moves_with_its_streams_and_its_shard() -> None:
    shard = SequenceShard(1, 2, None, mask=torch.ones(1, 1, 2, 2))
    rows = [replace(s, streams={"place": list(range(len(s.completion_ids)))}) for s in ragged(3)]
    batch = replace(one_batch(rows, PAD), shard=shard, most_targets=7)
    moved = batch.to("meta")
    tensors = [
        value
        for name in MicroBatch.__slots__
        if isinstance(value := getattr(moved, name), torch.Tensor)
    ]
    assert len(tensors) == 5
    assert {tensor.device.type for tensor in [*tensors, moved.streams["place"]]} == {"meta"}
    assert moved.shard is not None
    assert moved.shard.mask is not None
    assert moved.shard.mask.device.type == "meta"
    assert moved.most_targets == 7
