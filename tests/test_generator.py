"""Sampling: against the trainer, whatever the batch, and draw by draw."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import frozen_logprobs, generator, model, tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.in_process import choose_tokens, cut_tail
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.uniforms import GOLDEN, request_seed, request_seeds, uniforms
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.models.policy import save_model
from r1pipe.records import FinishReason, TokenSequence
from r1pipe.train.batching import Batching

PAD, EOS = tokenizer().pad_token_id, tokenizer().eos_token_id
ENDS = tuple(range(30, 60))
"""Many ends, so that a random policy stops at different lengths."""


@pytest.fixture(scope="module")
def policy() -> Any:
    return model()


def requests(count: int, seed: int = 0) -> list[Request]:
    """Return requests of ragged prompts; some prompts are asked for several times."""
    rng = random.Random(seed)
    vocab = len(tokenizer())
    prompts = [
        tuple(rng.randrange(vocab) for _ in range(rng.randrange(1, 10))) for _ in range(count // 2)
    ]
    return [Request(rng.choice(prompts), rng.getrandbits(63), index) for index in range(count)]


def sample(
    policy: Any, asked: list[Request], sampling: SamplingParams, **options: Any
) -> dict[int, Sampled]:
    made = list(generator(policy, ENDS, **options).generate(asked, sampling))
    assert sorted(s.index for s in made) == sorted(r.index for r in asked), "each one once"
    return {s.index: s for s in made}


# ---- against the trainer -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_of_a_ragged_left_padded_batch_equal_the_trainers(
    policy: Any, temperature: float
) -> None:
    asked = requests(24)
    made = sample(policy, asked, SamplingParams(temperature, 1.0, 12))
    assert len({len(r.prompt_ids) for r in asked}) > 3, "the prompts should be ragged"
    assert len({len(s.token_ids) for s in made.values()}) > 3, "and so should the completions"
    sequences = [TokenSequence(r.prompt_ids, made[r.index].token_ids, r.index) for r in asked]
    trainer = frozen_logprobs(policy, sequences, temperature, Batching(64, "padded", PAD))
    for request in asked:
        assert made[request.index].logprobs == pytest.approx(trainer[request.index], abs=1e-4)


def test_the_returned_log_prob_is_that_after_the_temperature(policy: Any) -> None:
    asked = requests(8)
    made = sample(policy, asked, SamplingParams(0.6, 1.0, 6))
    sequences = [TokenSequence(r.prompt_ids, made[r.index].token_ids, r.index) for r in asked]
    raw = frozen_logprobs(policy, sequences, 1.0, Batching(10_000, "padded", PAD))
    gaps = [
        abs(ours - theirs)
        for index, row in enumerate(raw)
        for ours, theirs in zip(made[index].logprobs, row, strict=True)
    ]
    assert sum(gaps) / len(gaps) > 0.1


def test_temperature_zero_takes_the_most_likely_token_each_time(policy: Any) -> None:
    request = Request((9, 30, 41), 5, 0)
    made = sample(policy, [request], SamplingParams(0.0, 1.0, 5))[0]
    ids = list(request.prompt_ids)
    for token in made.token_ids:
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([ids])).logits[0, -1]
        assert token == int(logits.argmax())
        ids.append(token)


# ---- whatever the batch --------------------------------------------------------------------------


def test_a_request_gives_the_same_tokens_alone_in_a_batch_and_in_another_order(
    policy: Any,
) -> None:
    asked, sampling = requests(30), SamplingParams(1.0, 1.0, 16)
    together = sample(policy, asked, sampling)
    small = sample(policy, asked[::-1], sampling, max_batch=7)
    for request in asked:
        assert small[request.index].token_ids == together[request.index].token_ids
    for request in asked[:6]:
        alone = sample(policy, [request], sampling)[request.index]
        assert alone.token_ids == together[request.index].token_ids
        assert alone.logprobs == pytest.approx(together[request.index].logprobs, abs=1e-4)
        assert alone.finish_reason is together[request.index].finish_reason


def test_equal_prompts_with_different_seeds_give_different_completions(policy: Any) -> None:
    asked = [Request((9, 30, 41), request_seed("s", i), i) for i in range(16)]
    made = sample(policy, asked, SamplingParams(1.0, 1.0, 8))
    assert len({tuple(s.token_ids) for s in made.values()}) > 12


def test_the_callers_number_for_a_request_decides_nothing(policy: Any) -> None:
    asked, sampling = requests(12), SamplingParams(1.0, 1.0, 10)
    first = sample(policy, asked, sampling)
    renumbered = [Request(r.prompt_ids, r.seed, 100 - r.index) for r in asked]
    second = sample(policy, renumbered, sampling)
    for request in asked:
        assert second[100 - request.index].token_ids == first[request.index].token_ids


# ---- ends ----------------------------------------------------------------------------------------


def test_sampling_leaves_the_policy_in_its_mode_and_without_gradients() -> None:
    policy = model()
    policy.train()
    sample(policy, requests(4), SamplingParams(1.0, 1.0, 3))
    assert policy.training
    assert all(p.grad is None for p in policy.parameters())


def test_weights_are_loaded_by_name() -> None:
    sampler, other = generator(model(1)), model(2)
    sampler.load_weights(other.named_parameters())
    for name, parameter in sampler.model.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])


# ---- draws ---------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 0), (0.05, 0), (0.15, 1), (0.45, 2), (0.65, 3), (1 - 2**-53, 3)]
)
def test_a_token_is_the_inverse_of_its_cumulative_distribution(draw: float, token: int) -> None:
    tokens, logprobs = choose_tokens(LOGITS[None], np.array([draw]), SamplingParams())
    assert tokens.tolist() == [token]
    assert logprobs[0].item() == pytest.approx(math.log([0.1, 0.2, 0.3, 0.4][token]), abs=1e-6)


def test_the_temperature_shapes_the_draw_and_its_log_prob() -> None:
    # at 1/2 the probabilities are squared: 1, 4, 9, 16 thirtieths
    tokens, logprobs = choose_tokens(LOGITS[None], np.array([0.4]), SamplingParams(temperature=0.5))
    assert tokens.tolist() == [2]
    assert logprobs[0].item() == pytest.approx(math.log(9 / 30), abs=1e-6)


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    draws = [0.0, 0.25, 0.499, 0.5, 0.75, 1 - 2**-53]
    tokens, _ = choose_tokens(logits.repeat(6, 1), np.array(draws), SamplingParams())
    assert tokens.tolist() == [1, 1, 1, 3, 3, 3]


def test_every_token_of_the_tail_of_a_peaked_distribution_can_be_drawn() -> None:
    # a thousand tokens of 1e-9 each behind one of 0.999999: float32 has 17 numbers for all of them
    logits = torch.full((1, 1001), math.log(1e-9))
    logits[0, 0] = 0.0
    draws = 1 - np.linspace(1e-10, 9e-7, 900)
    tokens, _ = choose_tokens(logits.repeat(900, 1), draws, SamplingParams())
    assert len(set(tokens.tolist())) > 700


def test_frequencies_follow_the_distribution() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    for position in (0, 7):
        logits = LOGITS[None].repeat(len(seeds), 1)
        tokens, _ = choose_tokens(logits, uniforms(seeds, position), SamplingParams())
        counts = torch.bincount(tokens, minlength=4).tolist()
        expected = [p * len(seeds) for p in (0.1, 0.2, 0.3, 0.4)]
        chi_square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
        assert chi_square < 16.27, "three degrees of freedom, one in a thousand"


def test_draws_at_two_positions_of_one_seed_are_independent() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    first, second = uniforms(seeds, 0), uniforms(seeds, 1)
    cells = np.bincount((first * 4).astype(int) * 4 + (second * 4).astype(int), minlength=16)
    chi_square = float(((cells - 1250.0) ** 2 / 1250.0).sum())
    assert chi_square < 37.7, "fifteen degrees of freedom, one in a thousand"
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03, "nor do near seeds correlate"


def test_no_seed_draws_what_another_one_draws_a_position_later() -> None:
    seeds = np.array([5], dtype=np.uint64)
    with np.errstate(over="ignore"):
        assert uniforms(seeds + GOLDEN, 0)[0] != uniforms(seeds, 1)[0]


def test_draws_lie_in_the_unit_interval_and_depend_on_seed_and_position_alone() -> None:
    seeds = np.array([0, 1, 2**63 - 1, 2**64 - 1], dtype=np.uint64)
    draws = uniforms(seeds, 5)
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(set(draws.tolist())) == 4
    assert uniforms(seeds[2:3], 5)[0] == draws[2]


def test_request_seeds_are_non_negative_and_tell_all_parts_apart() -> None:
    parts: list[tuple[int | str, ...]] = [(1, 23), (12, 3), (1, "23"), (123,), (23, 1)]
    found = {request_seed(*p) for p in parts}
    assert len(found) == len(parts)
    assert all(0 <= seed < 2**63 for seed in found)
    numbers = range(9, 102)
    for p in ((), (1, 23), ("a,]\n", '\u00e9"x', 2**70)):
        assert request_seeds(*p, numbers=numbers) == [request_seed(*p, n) for n in numbers]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    assert cut_tail(probabilities, 0.65).tolist() == [[0.0, 0.0, 0.3, 0.4]]
    assert cut_tail(probabilities, 0.75).tolist() == [[0.0, 0.2, 0.3, 0.4]]
    assert cut_tail(probabilities, 0.01).tolist() == [[0.0, 0.0, 0.0, 0.4]]


def test_draws_after_a_top_p_cut_fall_on_the_kept_tokens_only() -> None:
    draws = np.linspace(0, 1, 1000, endpoint=False)
    tokens, logprobs = choose_tokens(
        LOGITS[None].repeat(1000, 1), draws, SamplingParams(top_p=0.65)
    )
    counts = torch.bincount(tokens, minlength=4).tolist()
    assert counts[:2] == [0, 0]
    assert counts[2] == pytest.approx(1000 * 3 / 7, abs=1)
    # the log-probability is that before the cut
    assert logprobs.max().item() == pytest.approx(math.log(0.4), abs=1e-6)


# ---- an engine that is not installed -------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "command"),
    [("cpu", r"uv pip install .*constraints/engines-cpu\.txt"), ("cuda:0", r"'r1pipe\[gpu\]'")],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_missing_vllm_names_the_command_that_installs_it(
    device: str, command: str, replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model(), tokenizer(), tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = VllmSettings(backend="vllm", data_parallel=replicas)
    run = SampleRun(device=device, generator=settings)
    with (
        pytest.raises(StageError, match=rf"(?s)vllm, which is not installed here; .*{command}"),
        open_generator(tmp_path, run),
    ):
        pass


def test_a_completion_ends_where_the_models_context_does() -> None:
    policy = model()  # 128 positions
    sampler, vocab = generator(policy), len(tokenizer())
    sampler.end_ids = frozenset()
    prompts = [tuple(i % (vocab - 9) + 9 for i in range(n)) for n in (20, 120, 127)]
    requests = [Request(prompt, 7, i) for i, prompt in enumerate(prompts)]
    found = {s.index: s for s in sampler.generate(requests, SamplingParams(max_tokens=12))}
    assert [len(found[i].token_ids) for i in range(3)] == [12, 8, 1]
    assert {s.finish_reason for s in found.values()} == {FinishReason.LENGTH}
    assert [len(found[i].logprobs) for i in range(3)] == [12, 8, 1]
    alone = list(sampler.generate(requests[:1], SamplingParams(max_tokens=12)))
    assert alone[0].token_ids == found[0].token_ids


def test_prompts_that_fill_the_context_are_counted_before_anything_is_sampled() -> None:
    sampler = generator(model())
    requests = [Request(tuple(range(9, 9 + n)), 7, i) for i, n in enumerate((20, 128, 130, 130))]
    with pytest.raises(StageError, match=r"2 of 3 prompts leave no room in the 128 tokens"):
        next(iter(sampler.generate(requests, SamplingParams(max_tokens=12))))


def test_a_sampler_that_sleeps_gives_freed_memory_back() -> None:
    # a block that stays after each freed one, so that the heap's end cannot move
    code = """
        from r1pipe.launch.process import prepare_process
        prepare_process()
        import numpy as np
        from pathlib import Path
        from tiny import generator, model

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

        sampler = generator(model())
        pairs = [(np.ones(1 << 20), np.ones(1 << 10)) for _ in range(100)]
        full = resident()
        pairs = [kept for _, kept in pairs]
        freed = resident()
        sampler.sleep()
        print(full - freed < 100, freed - resident() > 600)
        """
    place = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": place},
    )
    assert found.stdout.split() == ["True", "True"]
