"""GRPO with vLLM beside the trainer: what only the real engine can show."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from on_ranks import Console, run_stage
from test_generator_conformance import (
    assert_agree,
    model,
    requests,
    sample,
    trainer_logprobs,
    vllm_backend,
)
from tiny import MAX_CHARS, FakeContext, grpo_params, problems, stage, tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.backends import generator_of, open_generator
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.models.policy import load_model, new_model, save_model
from r1pipe.rows import write_rows
from r1pipe.settings import Adapter
from r1pipe.stage import Inputs

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    save_model(model(), tokenizer(), path)
    return path


def sample_run(**changes: Any) -> SampleRun:
    values: dict[str, Any] = {"backend": "vllm", "kv_cache_mb": 16, "max_num_seqs": 32}
    return SampleRun(generator=VllmSettings(**(values | changes)))


@pytest.fixture(scope="module")
def sampler(folder: Path) -> Iterator[Any]:
    with open_generator(folder, sample_run()) as (made, _):
        yield made


def run_grpo(
    folder: Path, attempt: Path, kl_coef: float = 0.01, adapter: Any = None, **run: Any
) -> FakeContext:
    kind, context = stage("grpo"), FakeContext(attempt)
    write_rows(attempt / "problems", [p.to_row() for p in problems(12, max_chars=MAX_CHARS)])
    settings = {"generator": {"backend": "vllm", "kv_cache_mb": 16, "max_num_seqs": 32}}
    inputs = {"model": folder, "problems": attempt / "problems"}
    params = grpo_params(num_steps=4, kl_coef=kl_coef, adapter=adapter)
    kind.run(context, params, kind.run_model.model_validate(settings | run), Inputs(inputs))
    return context


def test_vllm_is_given_the_sum_of_weights_and_adapters(folder: Path, tmp_path: Path) -> None:
    context = run_grpo(folder, tmp_path, adapter=Adapter(rank=4, alpha=8.0))
    assert context.notes["parity"] < 1e-5
    assert context.notes["parity_after_push"] < 1e-5
    assert max(context.column("mismatch_kl")) < 1e-6
    assert max(context.column("kl")) > 1e-6, "the policy has left its base"


def test_grpo_samples_with_vllm_and_every_step_says_how_far_sampler_and_trainer_are_apart(
    folder: Path, tmp_path: Path
) -> None:
    context = run_grpo(folder, tmp_path)
    assert context.notes["parity"] < 1e-5
    assert context.notes["parity_after_push"] < 1e-5
    assert len(context.logged) == 4
    assert max(context.column("mismatch_kl")) < 1e-6
    assert max(context.column("mismatch_ratio_max")) < 1.001
    trained = load_model(context.output("model"))
    moved = [
        not torch.equal(p, q)
        for p, q in zip(trained.parameters(), load_model(folder).parameters(), strict=True)
    ]
    assert all(moved)


def test_a_tighter_tolerance_than_float32_stops_the_stage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="sampler and trainer disagree about the same weights"):
        run_grpo(folder, tmp_path, parity_tolerance=1e-12)


# ---- traps ---------------------------------------------------------------------------------------


def test_log_probs_and_tokens_are_the_same_bit_by_bit_in_any_company(sampler: Any) -> None:
    assert torch.get_num_threads() == 1, "with one thread"
    asked, sampling = requests(40), SamplingParams(0.9, 1.0, 24)
    together = sample(sampler, asked, sampling)
    ways = [sample(sampler, asked[::-1], sampling), sample(sampler, asked[7:19], sampling)]
    ways += [sample(sampler, [request], sampling) for request in asked[:8]]
    for made in ways:
        for index, sampled in made.items():
            assert sampled.token_ids == together[index].token_ids
            assert sampled.logprobs == together[index].logprobs, "equal, not only near"


def test_completions_are_handed_on_as_they_finish(folder: Path) -> None:
    asked = [Request((5, 6, 7), seed, seed) for seed in range(24)]
    with closing(vllm_backend(folder)) as made:
        sizes = [len(s.token_ids) for s in made.generate(asked, SamplingParams(1.0, 1.0, 100))]
    assert sizes == sorted(sizes), "shorter completions come before longer ones"
    assert sizes[0] < sizes[-1]


def test_a_tied_head_follows_its_embedding(folder: Path) -> None:
    policy = load_model(folder)
    assert policy.config.tie_word_embeddings
    with open_generator(folder, sample_run()) as (made, _):
        with torch.no_grad():
            policy.get_input_embeddings().weight.mul_(1.5)
        made.load_weights(policy.named_parameters())
        asked = requests(8)
        found = sample(made, asked, SamplingParams(1.0, 1.0, 8))
        assert_agree(found, trainer_logprobs(policy, asked, found, 1.0))


def test_an_untied_model_with_biases_is_sampled_from_as_trained(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        policy, other = Qwen2ForCausalLM(config), Qwen2ForCausalLM(config)
    save_model(policy, tokenizer(), tmp_path)
    with open_generator(tmp_path, sample_run()) as (made, _):
        for pushed in (policy, other):
            made.load_weights(pushed.named_parameters())
            asked = requests(8)
            found = sample(made, asked, SamplingParams(1.0, 1.0, 8))
            assert_agree(found, trainer_logprobs(pushed, asked, found, 1.0))


def test_a_prompt_longer_than_a_batch_of_tokens_with_a_seed_does_not_stop_the_engine(
    tmp_path: Path,
) -> None:
    long = new_model(
        tokenizer(),
        hidden_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=96,
        max_positions=9000,
        init_std=0.2,
        seed=1,
    )
    save_model(long, tokenizer(), tmp_path)
    with open_generator(tmp_path, sample_run()) as (made, _):
        asked = [Request(tuple(i % 300 for i in range(8500)), seed, seed) for seed in range(2)]
        found = sample(made, asked, SamplingParams(1.0, 1.0, 3))
    assert {len(each.token_ids) for each in found.values()} <= {1, 2, 3}


def test_a_prompt_that_leaves_no_room_is_said_plainly_and_leaves_the_engine_usable(
    sampler: Any,
) -> None:
    with pytest.raises(StageError, match=r"1 of 1 prompts leave no room in the 128"):
        list(sampler.generate([Request((5,) * 128, 1, 0)], SamplingParams(1.0, 1.0, 4)))
    sample(sampler, requests(4), SamplingParams(1.0, 1.0, 4))


def test_a_push_that_breaks_off_closes_the_engine(folder: Path) -> None:
    def broken() -> Iterator[tuple[str, Any]]:
        yield next(iter(model(2).named_parameters()))
        raise RuntimeError("lost a rank")

    with open_generator(folder, sample_run()) as (made, _):
        with pytest.raises(RuntimeError, match="lost a rank"):
            made.load_weights(broken())
        with pytest.raises(StageError, match="is closed"):
            list(made.generate(requests(2), SamplingParams()))


def test_a_push_without_all_weights_is_found_out(folder: Path) -> None:
    some = [(n, p) for n, p in model(2).named_parameters() if "norm" not in n]
    with (
        open_generator(folder, sample_run()) as (made, _),
        pytest.raises(RuntimeError, match=r"weights were not given, such as model\.layers"),
    ):
        made.load_weights(some)


def test_heads_of_a_size_without_a_kernel_are_refused_before_the_start(tmp_path: Path) -> None:
    from tiny import save_policy

    with pytest.raises(StageError, match="attention heads have 12 dimensions"):
        open_generator(save_policy(tmp_path), sample_run()).__enter__()


def test_a_device_that_this_vllm_was_not_built_for_is_refused(folder: Path) -> None:
    wrong = "cuda" if not torch.cuda.is_available() else "cpu"
    run = sample_run().model_copy(update={"device": wrong})
    with pytest.raises(StageError, match=f"run.device is {wrong}, and the vLLM"):
        open_generator(folder, run).__enter__()


def test_a_policy_in_training_cannot_be_sampled_by_replicas(folder: Path) -> None:
    with pytest.raises(StageError, match="one engine of its own"):
        generator_of(load_model(folder), tokenizer(), sample_run(data_parallel=2))


def test_two_replicas_give_the_tokens_of_one_engine_and_take_new_weights(
    folder: Path, sampler: Any
) -> None:
    asked, sampling = requests(24), SamplingParams(1.0, 1.0, 12)
    alone = sample(sampler, asked, sampling)
    other = model(2)
    with open_generator(folder, sample_run(data_parallel=2)) as (made, _):
        shared = sample(made, asked, sampling)
        assert {i: s.token_ids for i, s in shared.items()} == {
            i: s.token_ids for i, s in alone.items()
        }
        made.load_weights(other.named_parameters())
        found = sample(made, asked, sampling)
        assert_agree(found, trainer_logprobs(other, asked, found, 1.0))
        with pytest.raises(StageError, match="leave no room"):
            list(made.generate([Request((5,) * 128, 1, 0)], sampling))


# ---- ranks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeContext:
    """Train in one process, without a reference."""
    return run_grpo(folder, tmp_path_factory.mktemp("alone"), kl_coef=0.0)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize(("zero_stage", "tensor_parallel"), [(2, 1), (3, 1), (3, 2)])
def test_ranks_sample_with_engines_of_their_own_or_with_one_together(
    folder: Path, tmp_path: Path, alone: FakeContext, zero_stage: int, tensor_parallel: int
) -> None:
    kind, console = stage("grpo"), Console()
    write_rows(tmp_path / "problems", [p.to_row() for p in problems(12, max_chars=MAX_CHARS)])
    settings = {
        "generator": {
            "backend": "vllm",
            "kv_cache_mb": 16,
            "max_num_seqs": 32,
            "tensor_parallel": tensor_parallel,
        },
        "engine": {"backend": "deepspeed", "num_processes": 2, "zero_stage": zero_stage},
    }
    params = grpo_params(num_steps=4, kl_coef=0.0)
    inputs = {"model": folder, "problems": tmp_path / "problems"}
    run = kind.run_model.model_validate(settings)
    before = set(map(str, Path("/dev/shm").glob("*cpushm*")))
    context = run_stage(kind, tmp_path / "work", params, run, inputs, console)
    assert context.stage_log.facts["parity_after_push"] < 1e-5
    left = set(map(str, Path("/dev/shm").glob("*cpushm*"))) - before
    assert not left, "another engine of this machine would take them for its own"
    assert sorted(console.logged) == [1, 2, 3, 4]
    for step, logged in console.logged.items():
        assert logged["mismatch_kl"] < 1e-6
        expected = alone.logged[step - 1]
        assert logged["reward"] == pytest.approx(expected["reward"], abs=1e-6), "the same samples"
        assert logged["loss"] == pytest.approx(expected["loss"], abs=1e-4)


# ---- a real server -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vllm_serve_gives_the_tokens_of_the_engine_in_process(folder: Path, sampler: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    # the command `vllm serve` asks for a package called vllm, which on a CPU is vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--block-size", "32", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "8192", "--generation-config", "vllm"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(url, server)
        run = SampleRun(generator=OpenAISettings(backend="openai", url=url))
        asked, sampling = requests(24), SamplingParams(0.9, 1.0, 12)
        expected = sample(sampler, asked, sampling)
        with open_generator(folder, run) as (made, _):
            found = sample(made, asked, sampling)
    finally:
        server.terminate()
        server.wait(60)
    for index, sampled in found.items():
        assert sampled.token_ids == expected[index].token_ids
        assert sampled.finish_reason is expected[index].finish_reason


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; it imports and starts for a minute, or several."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(1000):
        assert server.poll() is None, "the server ended"
        try:
            opener.open(f"{url}/models", timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError("the server never answered")
