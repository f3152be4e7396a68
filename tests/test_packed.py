"""Attention over packed rows: by hand, against each sequence alone, and only where it is meant."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny import model, tokenizer

from r1pipe.errors import StageError
from r1pipe.records import TokenSequence
from r1pipe.train import packed
from r1pipe.train.batching import Batching, MicroBatch, micro_batches, one_batch
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.packed import attending, blocks_of, is_attending

PAD = tokenizer().pad_token_id


def sequences(count: int = 5) -> list[TokenSequence]:
    """Return sequences of 3 to 11 tokens."""
    rng, size = random.Random(5), len(tokenizer())

    def ids(least: int, most: int) -> list[int]:
        return [rng.randrange(2, size) for _ in range(rng.randint(least, most))]

    return [TokenSequence(ids(1, 4), ids(2, 7), index) for index in range(count)]


def packed_row(count: int = 5) -> MicroBatch:
    (row,) = micro_batches(sequences(count), Batching(1_000, "packed", PAD))
    return row


def policy(attention: str) -> Any:
    made = model()
    made.set_attn_implementation(attention)
    return made


def test_blocks_of_a_row_by_hand() -> None:
    # sequences of 3, 2 and 1 positions beside one another, three wide: 0 1 2 | 3 4 . | 5 . .
    blocks = blocks_of(torch.tensor([[0, 1, 2, 0, 1, 0]]))
    assert blocks.positions.tolist() == [0, 1, 2, 3, 4, 0, 5, 0, 0]
    assert blocks.places.tolist() == [0, 1, 2, 3, 4, 6]
    assert blocks.num_sequences == 3
    assert blocks.bounds.tolist() == [0, 3, 5, 6]
    assert (blocks.bounds.dtype, blocks.longest) == (torch.int32, 3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_log_probs_and_gradients_are_those_of_each_sequence_alone(attention: str) -> None:
    together, alone, row = policy(attention), policy(attention), packed_row()
    with attending(together, [row]):
        found = token_logprobs(together, row)
        found.square().sum().backward()
    by_index = {each.index: token_logprobs(alone, one_batch([each], PAD)) for each in sequences()}
    expected = torch.cat([by_index[i] for i in dict.fromkeys(row.sequence_index[0].tolist())])
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sequences_are_weighed_beside_one_another(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weigh, shapes = packed.WEIGH[attention], []

    def seen(query: Any, key: Any, value: Any, **options: Any) -> Any:
        shapes.append((*query.shape[::2], key.shape[1]))
        return weigh(query, key, value, **options)

    monkeypatch.setitem(packed.WEIGH, attention, seen)
    made, row = policy(attention), packed_row()
    longest = max(map(len, sequences()))
    with attending(made, [row]):
        token_logprobs(made, row)
    kv_heads = made.config.num_key_value_heads
    assert shapes == [(5, longest, kv_heads)] * made.config.num_hidden_layers


def test_dropout_and_scaling_are_those_asked_for() -> None:
    query = torch.tensor([[[[1.0], [1.0]]]])  # one head of size 1, two positions
    key, value = torch.tensor([[[[0.0], [2.0]]]]), torch.tensor([[[[0.0], [1.0]]]])
    for weigh in packed.WEIGH.values():
        found = weigh(query, key, value, dropout=0.0, scaling=0.5)
        # the second position weighs its predecessor e^0 and itself e^(2 / 2)
        assert found.flatten().tolist() == pytest.approx([0.0, 2.718282 / 3.718282])
        assert weigh(query, key, value, dropout=1.0, scaling=0.5).count_nonzero() == 0


def by_sequence(  # noqa: PLR0913 - as PyTorch has it
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    key_begins: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """Compute what PyTorch's kernel for a GPU does, sequence by sequence."""
    assert begins.dtype == torch.int32
    assert torch.equal(begins, key_begins)
    assert longest == longest_key == int(begins.diff().max())
    assert window_size == (-1, 0)
    assert enable_gqa
    repeats = query.shape[1] // key.shape[1]
    parts = []
    for start, end in zip(begins.tolist(), begins.tolist()[1:], strict=False):
        own, keys, values = (heads[start:end].transpose(0, 1) for heads in (query, key, value))
        keys, values = (h.repeat_interleave(repeats, dim=0) for h in (keys, values))
        scores = own @ keys.transpose(1, 2) * (scale or query.shape[2] ** -0.5)
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
        parts.append((weights @ values).transpose(0, 1))
    return torch.cat(parts)


def test_the_kernel_of_a_gpu_is_given_the_row_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def seen(*tensors: Any, **options: Any) -> torch.Tensor:
        calls.append(tensors[0].shape)
        return by_sequence(*tensors, **options)

    row = packed_row()
    results = []
    for has_kernel in (False, True):
        monkeypatch.setattr(packed, "has_varlen_kernel", lambda *heads, has=has_kernel: has)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", seen)
        made = policy("sdpa")
        with attending(made, [row]):
            found = token_logprobs(made, row)
            found.square().sum().backward()
        results.append([found, *(parameter.grad for parameter in made.parameters())])
        config = made.config
        shape = (row.input_ids.shape[1], config.num_attention_heads, config.head_dim)
        assert calls == [shape] * (config.num_hidden_layers if has_kernel else 0)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_kernel_is_for_gpus_half_precision_and_its_head_sizes() -> None:
    class OnGpu(torch.Tensor):
        is_cuda = True

    def heads(size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(1, 1, 2, size, dtype=dtype)

    def on_gpu(size: int, dtype: torch.dtype) -> torch.Tensor:
        return heads(size, dtype).as_subclass(OnGpu)

    def has(query: torch.Tensor) -> bool:
        return packed.has_varlen_kernel(query, query)

    assert not has(heads(64, torch.bfloat16))
    assert has(on_gpu(64, torch.bfloat16))
    assert has(on_gpu(256, torch.float16))
    assert not has(on_gpu(64, torch.float32))
    assert not has(on_gpu(60, torch.bfloat16))
    assert not has(on_gpu(264, torch.bfloat16))
    # latent attention: keys of 128 + 64, values of 128
    latent = on_gpu(192, torch.bfloat16), on_gpu(128, torch.bfloat16)
    assert not packed.has_varlen_kernel(*latent)


def test_under_autocast_the_kernel_of_a_gpu_is_given_half_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnGpu(torch.Tensor):
        is_cuda = True

    row = torch.zeros(1, 1, 2, 64)
    rotated = row.as_subclass(OnGpu)
    assert packed.as_computed(rotated, rotated, rotated)[0].dtype == torch.float32
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    found = packed.as_computed(rotated, rotated, rotated)
    assert [heads.dtype for heads in found] == [torch.bfloat16] * 3
    assert packed.has_varlen_kernel(found[0], found[2])
    assert packed.as_computed(row, row, row)[0] is row  # a CPU keeps what it has


def test_outside_of_the_block_and_for_padded_rows_a_model_keeps_its_attention() -> None:
    made = policy("eager")

    def fail() -> None:
        with attending(made, [packed_row()]):
            assert is_attending(made)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert made.config._attn_implementation == "eager"
    with attending(made, [one_batch(sequences(), PAD)]):
        assert not is_attending(made)
    with attending(made, []):
        assert not is_attending(made)


def test_a_model_whose_attention_does_more_keeps_it() -> None:
    made, row = policy("sdpa"), packed_row()
    expected = token_logprobs(made, row)
    made.config.sliding_window = 4
    with attending(made, [row]):
        assert not is_attending(made)
        torch.testing.assert_close(token_logprobs(made, row), expected)


def test_a_layer_that_asks_for_more_is_refused() -> None:
    made, row = policy("sdpa"), packed_row()
    made.model.layers[0].self_attn.sliding_window = 4
    expected = r"run.layout: packed: .* has sliding_window, .* set layout: padded"
    with attending(made, [row]), pytest.raises(StageError, match=expected):
        token_logprobs(made, row)
