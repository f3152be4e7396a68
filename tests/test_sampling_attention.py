"""Sampling's cache and attention: the numbers of transformers' own, and nothing copied twice."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from test_families import family, own_scores
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM
from transformers.cache_utils import DynamicLayer

from r1pipe.generate import in_process
from r1pipe.generate.grouped_queries import grouped
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.key_value_cache import LEAST_ROOM, GrowingLayer, key_value_cache
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.records import TokenSequence

HEADS, SHARED = 4, 2


def config(**sizes: Any) -> Qwen3Config:
    given = {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": HEADS, "num_key_value_heads": SHARED, "head_dim": 8,
        "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None,
    } | sizes  # fmt: skip
    return Qwen3Config(**given)


@pytest.fixture(scope="module")
def policy() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config()).eval()


# ---- the cache -----------------------------------------------------------------------------------


def states(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, SHARED, tokens, 8), torch.randn(rows, SHARED, tokens, 8)


def test_a_growing_layer_holds_what_is_appended_selected_repeated_and_cropped() -> None:
    torch.manual_seed(1)
    plain, growing = DynamicLayer(), GrowingLayer()

    def appended(rows: int, tokens: int) -> None:
        new = states(rows, tokens)
        for one, other in zip(plain.update(*new), growing.update(*new), strict=True):
            assert torch.equal(one, other)
        assert plain.get_seq_length() == growing.get_seq_length()

    appended(3, 5)
    for _ in range(3 * LEAST_ROOM):
        appended(3, 1)
    for layer in (plain, growing):
        layer.batch_select_indices(torch.tensor([2, 0]))
    appended(2, 1)
    for layer in (plain, growing):
        layer.reorder_cache(torch.tensor([1, 0]))
    appended(2, 1)
    for layer in (plain, growing):
        layer.batch_repeat_interleave(2)
    appended(4, 3)
    for layer in (plain, growing):
        layer.crop(-7)
    appended(4, 2)
    for layer in (plain, growing):
        layer.reset()
    appended(1, 4)


def test_a_token_is_written_behind_the_others_and_moves_none_of_them() -> None:
    layer = GrowingLayer()
    layer.update(*states(2, 9))
    places = set()
    for _ in range(1000):
        keys, values = layer.update(*states(2, 1))
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) < 20, "buffers grow by a quarter: some sixteen of them up to 1,009 tokens"


def test_layers_that_attend_to_a_window_keep_their_own_cache() -> None:
    two = config(sliding_window=8, use_sliding_window=True, max_window_layers=1)
    kinds = [type(layer).__name__ for layer in key_value_cache(two).layers]
    assert kinds == ["GrowingLayer", "DynamicSlidingWindowLayer"]


# ---- attention -----------------------------------------------------------------------------------


def requests(count: int) -> list[Request]:
    """Return requests whose prompts are of different lengths, so that there is a mask."""
    rng = random.Random(2)
    prompts = [tuple(rng.randrange(60) for _ in range(rng.randrange(1, 40))) for _ in range(count)]
    return [Request(prompt, rng.getrandbits(63), index) for index, prompt in enumerate(prompts)]


def sampled(policy: Any, max_tokens: int = 90) -> list[Sampled]:
    generator = TransformersGenerator(policy, end_ids=[7, 8, 9], pad_id=0, max_batch=16)
    made = generator.generate(requests(24), SamplingParams(1.0, 0.9, max_tokens))
    return sorted(made, key=lambda each: each.index)


Ways = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture
def transformers_own(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Return what has a block sample with transformers' own attention and cache."""

    @contextlib.contextmanager
    def own() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(in_process, "grouped", contextlib.nullcontext)
            patch.setattr(in_process, "key_value_cache", lambda given: DynamicCache(config=given))
            yield

    return own


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_tokens_and_log_probs_are_those_of_transformers_own_to_the_last_bit(
    policy: Any, precision: torch.dtype, transformers_own: Ways
) -> None:
    one = Qwen3ForCausalLM(policy.config).to(precision).eval()
    ours = sampled(one)
    with transformers_own():
        assert ours == sampled(one)


SHARES: dict[str, Any] = {"num_attention_heads": HEADS, "num_key_value_heads": SHARED}
WINDOW = SHARES | {"sliding_window": 8}
BLOCKS = {
    "layer_types": ["minimax_m3_sparse"] * 2, "index_n_heads": SHARED, "index_head_dim": 8,
    "index_block_size": 2, "index_topk_blocks": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "cohere": SHARES,
    "deepseek_v3": {},  # latent keys, which no heads share
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "gpt2": {},
    "granite": SHARES,
    "llama": SHARES,
    "minimax_m3_vl_text": SHARES | BLOCKS,  # of which a query sees two
    "mistral": WINDOW,
    "phi3": WINDOW,
    "qwen2": SHARES,
    "qwen3_moe": SHARES,
    "qwen3_next": SHARES | {"layer_types": ["linear_attention", "full_attention"]},
    "smollm3": SHARES,
}
"""Family -> what tells its attention from others, in a tiny model."""


@pytest.mark.parametrize("name", KINDS)
def test_so_are_those_of_every_kind_of_attention(name: str, transformers_own: Ways) -> None:
    one = family(name, **KINDS[name])
    one.set_attn_implementation("eager" if name == "gemma2" else "sdpa")  # whose scores are capped
    ours = sampled(one, max_tokens=24)
    with transformers_own():
        assert ours == sampled(one, max_tokens=24)


@pytest.mark.parametrize("name", ["falcon_h1", "qwen3_next"])
def test_states_of_linear_layers_go_with_their_rows(name: str) -> None:
    one = family(name, **KINDS.get(name, {}))
    once = requests(5)
    again = [Request(each.prompt_ids, each.seed + 1, each.index + 5) for each in once]
    generator = TransformersGenerator(one, end_ids=range(7, 20), pad_id=0, max_batch=16)
    made = list(generator.generate([*once, *again], SamplingParams(1.0, 1.0, 16)))
    assert len({len(each.token_ids) for each in made}) > 2, "rows have left the batch"
    for each in made:
        sequence = TokenSequence(list(once[each.index % 5].prompt_ids), each.token_ids, 0)
        assert each.logprobs == pytest.approx(own_scores(one, sequence), abs=1e-3)


def test_no_key_is_copied_for_the_heads_that_share_it(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = set()
    name = "r1pipe.generate.grouped_queries.scaled_dot_product_attention"
    plain = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        heads.add((query.shape[1], key.shape[1], value.shape[1]))
        return plain(query, key, value, **how)

    monkeypatch.setattr(name, watched)
    sampled(policy)
    assert heads == {(HEADS, SHARED, SHARED)}


def test_between_two_completions_and_in_other_threads_attention_is_transformers_own(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    name = "r1pipe.generate.grouped_queries.scaled_dot_product_attention"
    plain: Any = torch.nn.functional.scaled_dot_product_attention

    def watched(*heads: Any, **how: Any) -> Tensor:
        threads.add(threading.get_ident())
        found: Tensor = plain(*heads, **how)
        return found

    monkeypatch.setattr(name, watched)
    generator = TransformersGenerator(policy, end_ids=[7], pad_id=0, max_batch=4)
    running = generator.generate(requests(8), SamplingParams(1.0, 1.0, 4))
    next(running)
    assert threads == {threading.get_ident()}
    threads.clear()
    assert policy.config._attn_implementation == "sdpa", "training asks for it"
    ids = torch.tensor([[0, 5, 9], [4, 5, 9]])
    policy(input_ids=ids, attention_mask=(ids > 0).long()).logits.sum().backward()
    with ThreadPoolExecutor(1) as other, grouped():
        other.submit(policy, input_ids=ids, attention_mask=(ids > 0).long()).result()
    assert not threads
    policy.zero_grad()
    assert len(list(running)) == 7
    assert threads == {threading.get_ident()}


def test_models_that_attend_otherwise_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "r1pipe.generate.grouped_queries.scaled_dot_product_attention"
    monkeypatch.setattr(name, lambda *_, **__: pytest.fail("it is not theirs"))
    torch.manual_seed(0)
    sampled(Qwen3ForCausalLM(config(num_key_value_heads=HEADS)).eval(), max_tokens=3)
    sampled(Qwen3ForCausalLM(config(attn_implementation="eager")).eval(), max_tokens=3)
