"""Mixtures of experts and tied heads that files hold: vLLM takes their weights while they train."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_engines_grpo import run_grpo, sample_run
from test_families import family
from test_generator_conformance import assert_agree, requests, sample, trainer_logprobs
from tiny import tokenizer

from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import SamplingParams
from r1pipe.models.policy import load_model, persistent_buffers, save_model

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
SAMPLING = SamplingParams(1.0, 1.0, 8)
LATENT: dict[str, object] = {  # the one size that vLLM's latent attention has on a CPU
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "head_dim": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, object]] = {
    "qwen3_moe": {"head_dim": 32, "moe_intermediate_size": 32},
    "deepseek_v3": {
        **LATENT,
        "moe_intermediate_size": 32,
        "n_group": 2,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",  # as in its config.json
    },
}


def policy_of(name: str, seed: int = 0) -> Any:
    """Return a tiny policy of a family that vLLM computes on a CPU."""
    sizes = {"vocab_size": len(tokenizer()), "max_position_embeddings": 128, "hidden_size": 64}
    made = family(name, **sizes, **FAMILIES[name])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        for buffer in persistent_buffers(made).values():
            buffer.add_(0.2 * torch.randn(buffer.shape))
    return made


def weights(policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from policy.named_parameters()
    yield from persistent_buffers(policy).items()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mixture_of_experts_is_sampled_from_as_it_is_trained(name: str, tmp_path: Path) -> None:
    policy, other = policy_of(name, 1), policy_of(name, 2)
    save_model(policy, tokenizer(), tmp_path)
    asked = requests(8)
    with open_generator(tmp_path, sample_run()) as (made, _):
        first = sample(made, asked, SAMPLING)
        assert_agree(first, trainer_logprobs(policy, asked, first, 1.0))
        for pushed in (other, policy):
            made.load_weights(weights(pushed))
            found = sample(made, asked, SAMPLING)
            assert_agree(found, trainer_logprobs(pushed, asked, found, 1.0))
    again = {index: sampled.token_ids for index, sampled in found.items()}
    assert again == {index: sampled.token_ids for index, sampled in first.items()}


def test_a_push_without_one_experts_weights_is_found_out(tmp_path: Path) -> None:
    policy = policy_of("qwen3_moe")
    save_model(policy, tokenizer(), tmp_path)
    some = [(n, w) for n, w in weights(policy) if n != "model.layers.1.mlp.experts.down_proj"]
    with (
        open_generator(tmp_path, sample_run()) as (made, _),
        pytest.raises(RuntimeError, match=r"4 weights were not given, such as .*experts\.0\.down"),
    ):
        made.load_weights(some)


def test_what_vllm_needs_and_is_not_given_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of("qwen3_moe")
    save_model(policy, tokenizer(), tmp_path)
    with open_generator(tmp_path, sample_run()) as (made, _):
        form: Any = made._form  # type: ignore[attr-defined]
        gone = "model.norm.weight"
        monkeypatch.setattr(form, "names", form.names - {gone})
        some = [(name, weight) for name, weight in weights(policy) if name != gone]
        with pytest.raises(RuntimeError, match=f"1 weights of vLLM were left, such as {gone}"):
            made.load_weights(some)


def test_a_mixture_of_experts_learns_by_grpo(tmp_path: Path) -> None:
    policy = policy_of("qwen3_moe")
    save_model(policy, tokenizer(), tmp_path / "model")
    context = run_grpo(tmp_path / "model", tmp_path / "attempt")
    assert context.notes["parity_after_push"] < 1e-4
    assert max(context.column("mismatch_kl")) < 1e-6


def test_a_tied_head_that_the_file_holds_too_takes_new_weights(tmp_path: Path) -> None:
    policy = family("qwen3", vocab_size=len(tokenizer()), head_dim=32, tie_word_embeddings=True)
    save_model(policy, tokenizer(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    trained = load_model(tmp_path)
    asked = requests(8)
    with open_generator(tmp_path, sample_run()) as (made, _):
        with torch.no_grad():
            trained.get_input_embeddings().weight.mul_(1.5)
        made.load_weights(weights(trained))
        found = sample(made, asked, SAMPLING)
        assert_agree(found, trainer_logprobs(trained, asked, found, 1.0))
