"""One suite that every backend of the Generator protocol passes.

A backend is a function from a sealed model directory to a generator. vLLM's share one process, and
within it they start in a moment; they are skipped where vLLM is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import INIT_STD, generator, tokenizer

from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.models.policy import load_model, new_model, save_model
from r1pipe.records import FinishReason, TokenSequence
from r1pipe.train.batching import one_batch
from r1pipe.train.logprobs import token_logprobs

EOS = tokenizer().eos_token_id
ENDS = tuple(range(30, 60))
"""Many ends, so that a random policy stops at different lengths."""
Backend = Callable[..., Generator]


def model(seed: int = 1) -> Any:
    """Return a fresh policy with heads of a size that every backend computes."""
    return new_model(
        tokenizer(),
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=96,
        max_positions=128,
        init_std=INIT_STD,
        seed=seed,
    )


def transformers_backend(folder: Path, max_batch: int = 64) -> Generator:
    made: Generator = generator(load_model(folder), ENDS, max_batch)
    return made


def vllm_backend(folder: Path, max_batch: int = 64) -> Generator:
    from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator

    settings = VllmSettings(backend="vllm", max_num_seqs=max_batch, kv_cache_mb=16)
    return VllmGenerator(EngineShape(folder, (EOS, *ENDS)), settings)


has_vllm = importlib.util.find_spec("vllm") is not None
VLLM = pytest.param(
    vllm_backend,
    id="vllm",
    marks=[pytest.mark.engines, pytest.mark.skipif(not has_vllm, reason="needs vllm")],
)
BACKENDS = [pytest.param(transformers_backend, id="transformers"), VLLM]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    save_model(model(), tokenizer(), path)
    return path


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture(scope="module")
def sampler(backend: Backend, folder: Path) -> Iterator[Generator]:
    made = backend(folder)
    yield made
    made.close()


def requests(count: int, seed: int = 0) -> list[Request]:
    """Return requests of ragged prompts, some of them asked for several times."""
    rng = random.Random(seed)
    vocab = len(tokenizer())
    prompts = [
        tuple(rng.randrange(vocab) for _ in range(rng.randrange(1, 60))) for _ in range(count // 2)
    ]
    return [Request(rng.choice(prompts), rng.getrandbits(63), index) for index in range(count)]


def sample(
    sampler: Generator, asked: list[Request], sampling: SamplingParams
) -> dict[int, Sampled]:
    made = list(sampler.generate(asked, sampling))
    assert sorted(s.index for s in made) == sorted(r.index for r in asked), "each one once"
    return {s.index: s for s in made}


def trainer_logprobs(
    policy: Any, asked: list[Request], made: dict[int, Sampled], temperature: float
) -> dict[int, list[float]]:
    """Return what the trainer says of sampled tokens, one sequence at a time."""
    found = {}
    for request in asked:
        ids = made[request.index].token_ids
        batch = one_batch([TokenSequence(request.prompt_ids, ids)], 0)
        with torch.no_grad():
            found[request.index] = token_logprobs(policy, batch, temperature).tolist()
    return found


def assert_agree(
    made: dict[int, Sampled], found: dict[int, list[float]], tolerance: float = 1e-4
) -> None:
    for index, sampled in made.items():
        assert sampled.logprobs == pytest.approx(found[index], abs=tolerance)


# ---- what the tokens and their log-probabilities are ---------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_trainers_at_the_temperature(
    sampler: Generator, folder: Path, temperature: float
) -> None:
    asked = requests(24)
    made = sample(sampler, asked, SamplingParams(temperature, 1.0, 12))
    assert len({len(s.token_ids) for s in made.values()}) > 3, "completions should be ragged"
    assert_agree(made, trainer_logprobs(load_model(folder), asked, made, temperature))


def test_temperature_zero_takes_the_most_likely_token(sampler: Generator, folder: Path) -> None:
    policy, request = load_model(folder), Request((9, 30, 41), 5, 0)
    made = sample(sampler, [request], SamplingParams(0.0, 1.0, 6))
    ids = list(request.prompt_ids)
    for token in made[0].token_ids:
        with torch.no_grad():
            assert token == int(policy(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
    assert_agree(made, trainer_logprobs(policy, [request], made, 1.0))


def test_draws_follow_the_distribution(sampler: Generator, folder: Path) -> None:
    prompt = (9, 30, 41)
    asked = [Request(prompt, 7919 * i, i) for i in range(2000)]
    made = sample(sampler, asked, SamplingParams(1.0, 1.0, 1))
    with torch.no_grad():
        logits = load_model(folder)(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = logits.double().softmax(-1) * len(asked)
    counts = torch.bincount(
        torch.tensor([s.token_ids[0] for s in made.values()]), minlength=len(expected)
    )
    often = expected >= 5
    cells = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    chi_square = float(((cells - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    # the mean of chi-square is its degrees of freedom, its variance twice that: four deviations
    assert freedom > 10
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_a_top_p_cut_draws_from_the_smallest_set_that_reaches_it(
    sampler: Generator, folder: Path
) -> None:
    prompt = (9, 30, 41)
    asked = [Request(prompt, 31 * i, i) for i in range(400)]
    made = sample(sampler, asked, SamplingParams(1.0, 0.5, 1))
    with torch.no_grad():
        logits = load_model(folder)(input_ids=torch.tensor([prompt])).logits[0, -1]
    ordered, places = logits.softmax(-1).sort(descending=True)
    nucleus = places[(ordered.cumsum(0) - ordered) < 0.5].tolist()
    drawn = {s.token_ids[0] for s in made.values()}
    assert drawn <= set(nucleus)
    assert len(drawn) > len(nucleus) // 2


def test_without_log_probs_the_tokens_are_the_same(sampler: Generator) -> None:
    asked = requests(16)
    told = sample(sampler, asked, SamplingParams(1.0, 1.0, 10))
    untold = sample(sampler, asked, SamplingParams(1.0, 1.0, 10, logprobs=False))
    assert all(untold[i].token_ids == told[i].token_ids for i in told)


# ---- seeds and batches ---------------------------------------------------------------------------


def test_tokens_depend_on_prompt_and_seed_alone_whatever_the_company(
    sampler: Generator, backend: Backend, folder: Path
) -> None:
    asked, sampling = requests(30), SamplingParams(1.0, 1.0, 16)
    together = sample(sampler, asked, sampling)
    small = backend(folder, max_batch=7)
    ways = [sample(small, asked[::-1], sampling), sample(sampler, asked[10:20], sampling)]
    ways += [sample(sampler, [request], sampling) for request in asked[:6]]
    small.close()
    for made in ways:
        for index, sampled in made.items():
            assert sampled.token_ids == together[index].token_ids
            assert sampled.finish_reason is together[index].finish_reason
            assert sampled.logprobs == pytest.approx(together[index].logprobs, abs=1e-4)


def test_equal_prompts_with_different_seeds_differ_and_equal_seeds_do_not(
    sampler: Generator,
) -> None:
    asked = [Request((9, 30, 41), 1000 + i % 8, i) for i in range(16)]
    made = sample(sampler, asked, SamplingParams(1.0, 1.0, 12))
    assert len({tuple(s.token_ids) for s in made.values()}) > 4
    assert all(made[i].token_ids == made[i + 8].token_ids for i in range(8))


def test_seeds_of_sixty_three_bits_are_told_apart(sampler: Generator) -> None:
    seeds = [1, 1 + 2**31, 1 + 2**32, 1 + 2**62]
    asked = [Request((9, 30, 41), seed, i) for i, seed in enumerate(seeds)]
    made = sample(sampler, asked, SamplingParams(1.0, 1.0, 12))
    assert len({tuple(s.token_ids) for s in made.values()}) == len(seeds)


# ---- ends ----------------------------------------------------------------------------------------


def test_every_end_token_ends_a_completion_and_stays_in_it(sampler: Generator) -> None:
    made = sample(sampler, requests(64), SamplingParams(1.0, 1.0, 20))
    stopped = [s for s in made.values() if s.finish_reason is FinishReason.STOP]
    cut = [s for s in made.values() if s.finish_reason is FinishReason.LENGTH]
    assert len({s.token_ids[-1] for s in stopped}) > 3, "several different ends were met"
    for completion in stopped:
        assert completion.token_ids[-1] in {EOS, *ENDS}
        assert not set(completion.token_ids[:-1]) & {EOS, *ENDS}
    assert cut
    for completion in cut:
        assert len(completion.token_ids) == 20
        assert not set(completion.token_ids) & {EOS, *ENDS}
    assert all(len(s.token_ids) == len(s.logprobs) for s in made.values())


def test_an_end_at_the_last_allowed_token_is_a_stop(sampler: Generator) -> None:
    asked = requests(24)
    long = sample(sampler, asked, SamplingParams(1.0, 1.0, 20))
    stopped = next(s for s in long.values() if 1 < len(s.token_ids) < 20)
    size = len(stopped.token_ids)
    exact = sample(sampler, asked, SamplingParams(1.0, 1.0, size))[stopped.index]
    short = sample(sampler, asked, SamplingParams(1.0, 1.0, size - 1))[stopped.index]
    assert (exact.token_ids, exact.finish_reason) == (stopped.token_ids, FinishReason.STOP)
    assert short.token_ids == stopped.token_ids[:-1]
    assert short.finish_reason is FinishReason.LENGTH


# ---- weights -------------------------------------------------------------------------------------


def test_new_weights_are_sampled_from_all_of_them(backend: Backend, folder: Path) -> None:
    sampler, other = backend(folder), model(2)
    asked, sampling = requests(12), SamplingParams(1.0, 1.0, 10)
    sample(sampler, asked, sampling)  # fills caches with what the old weights say
    for policy in (other, model(3)):
        sampler.sleep()
        sampler.load_weights(policy.named_parameters())
        made = sample(sampler, asked, sampling)
        assert_agree(made, trainer_logprobs(policy, asked, made, 1.0))
    sampler.close()


def test_an_abandoned_sampling_leaves_the_generator_usable(sampler: Generator) -> None:
    asked, sampling = requests(40), SamplingParams(1.0, 1.0, 16)
    whole = sample(sampler, asked, sampling)
    some = sampler.generate(asked, sampling)
    next(some)
    some.close()  # type: ignore[attr-defined]
    again = sample(sampler, asked, sampling)
    assert all(again[i].token_ids == whole[i].token_ids for i in whole)


def test_the_trainers_random_numbers_and_threads_are_left_alone(
    backend: Backend, folder: Path
) -> None:
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(3).tolist()
    random.seed(1)
    torch.manual_seed(1)
    setter, environment = torch.set_num_threads, dict(os.environ)
    made = backend(folder)
    sample(made, requests(8), SamplingParams(1.0, 1.0, 6))
    made.load_weights(model(2).named_parameters())
    made.close()
    assert (random.random(), torch.rand(3).tolist()) == expected
    assert torch.set_num_threads is setter
    changed = {name for name in environment if os.environ.get(name) != environment[name]}
    assert changed <= {"VLLM_DIST_IDENT"}


def test_closing_one_generator_leaves_another_and_process_groups_alone(
    sampler: Generator, backend: Backend, folder: Path
) -> None:
    before = torch.distributed.is_initialized()
    backend(folder).close()
    assert torch.distributed.is_initialized() >= before
    sample(sampler, requests(4), SamplingParams(1.0, 1.0, 4))


@pytest.mark.engines
@pytest.mark.skipif(not has_vllm, reason="needs vllm")
def test_samples_of_one_prompt_share_its_prefix(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler: Any = vllm_backend(folder)
    step: Any = sampler._step
    cached: dict[Any, Any] = {}

    def watched() -> Any:
        outputs = step()
        cached.update((output.request_id, output.num_cached_tokens) for output in outputs)
        return outputs

    monkeypatch.setattr(sampler, "_step", watched)
    prompts = [tuple(random.Random(n).randrange(40) for _ in range(70)) for n in range(2)]
    asked = [Request(prompts[n // 8], n, n) for n in range(16)]
    sample(sampler, asked, SamplingParams(1.0, 1.0, 4))
    sampler.close()
    # blocks of 32: of 70 tokens two whole ones are computed once and found seven times
    assert sorted(cached.values()) == [0] * 2 + [64] * 14
